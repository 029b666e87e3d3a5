"""Packs long enough to be interrupted, and what the tests of the engines look at."""

import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import ladder

from scaling_jax.storage.records import Records

LONG = (
    "budgets.tokens=40e3",
    "execution.checkpoint_seconds=60",
    "execution.dispatch_seconds=0.05",
    "fit.bootstrap=0",
)
PATIENCE = 900  # seconds; only against a test that would hang for ever
SLOW = """

import pathlib, signal, time
from scaling_jax.training.checkpoint import PackCheckpoints
from scaling_jax.training.pace import Pace
save, due, slow = PackCheckpoints.save, Pace.save_is_due, pathlib.Path(__file__).with_name("slow")

def told():
    return signal.getsignal(signal.SIGTERM).__self__._told

def save_and_wait(self, *args):
    save(self, *args)
    end = time.monotonic() + 60
    while slow.exists() and not told() and time.monotonic() < end:
        time.sleep(0.05)

PackCheckpoints.save = save_and_wait
Pace.save_is_due = lambda self, count: due(self, count) or slow.exists()
"""
SHORT = ("budgets.tokens=20e3", "fit.bootstrap=0")


def command(folder: pathlib.Path, workdir: pathlib.Path, settings: tuple[str, ...], *flags: str) -> list[str]:
    """`scaling-jax run` of a tiny study in `folder`; while `slow(folder)` is there, it saves and waits for a signal."""
    study = folder / "tiny.py"
    if not study.exists():
        study.write_text(ladder.write_study(folder).read_text() + ladder.NO_REPORT + SLOW)
    sets = [f"--set={setting}" for setting in settings]
    return [sys.executable, "-m", "scaling_jax", "run", f"--study={study}", f"--workdir={workdir}", *sets, *flags]


def slow(folder: pathlib.Path) -> pathlib.Path:
    """The file that makes training so slow that it can be interrupted on any machine."""
    return folder / "slow"


def environment(folder: pathlib.Path, **more: str) -> dict[str, str]:
    """The tests' environment, with caches of their own."""
    return {**os.environ, "SCALING_JAX_CACHE": str(folder / "cache"), **more}


@functools.cache
def calm_losses() -> dict[str, float]:
    """The losses of LONG, trained by one process that nobody disturbs."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        calm = command(folder, folder / "workdir", LONG, "--num_cpu_devices=1")
        subprocess.run(calm, env=environment(folder), check=True, capture_output=True)
        return losses(folder / "workdir")


def losses(workdir: pathlib.Path) -> dict[str, float]:
    """run_id -> loss of every finished run."""
    return {run_id: row["loss"] for run_id, row in Records(workdir).finished().items()}


def attempts(workdir: pathlib.Path, pack: str) -> int:
    """How often a process has claimed a pack."""
    return sum(f"--only_packs={pack}" in path.read_text() for path in (workdir / "attempts").iterdir())


def wait_for(condition, what: str, process: subprocess.Popen | None = None) -> None:
    """Returns when `condition()` holds; fails when `process` ends before."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        assert process is None or process.poll() is None, f"ended with {process.poll()} before {what}"
        time.sleep(0.1)


def text(path: pathlib.Path) -> str:
    """What a file holds; nothing when it is not there yet."""
    return path.read_text() if path.exists() else ""


def checkpoints(workdir: pathlib.Path, pack: str) -> set[str]:
    """A pack's finished checkpoints."""
    folder = workdir / "checkpoints" / pack
    return {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*") if path.name.isdigit()}
