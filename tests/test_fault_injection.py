"""Killed at any instant, the same command goes on and ends in the same table, bit by bit."""

import dataclasses
import functools
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import ladder
import pandas as pd
import pytest

pytestmark = pytest.mark.slow

# Two packs side by side, two lanes each, three budgets; many chunks and checkpoints.
OPTIONS = (
    "--num_cpu_devices=2",
    "--set=execution.mesh=(1,1,1)",
    "--set=optimizer.learning_rates=(0.01,0.03)",
    "--set=execution.dispatch_seconds=0.01",
    "--set=execution.checkpoint_seconds=0.05",
)
# One pack; every branch is saved after 20 steps and then at each.
BRANCHES_TOGETHER = (
    "--num_cpu_devices=1",
    "--set=execution.branches=2",
    "--set=ladder.widths=(8,)",
    "--set=optimizer.learning_rates=(0.01,0.03)",
    "--set=budgets.tokens=(2304,2560,2816)",
    "--set=schedule.cooldown_fraction=0.6",
    "--set=execution.dispatch_seconds=1e-9",
    "--set=execution.checkpoint_seconds=1e-9",
)
BRANCH_STEP = re.compile(r"/branch-(\d+)/(\d+)$")
KILLS = 12  # of each kind
SEED = 20240611
DISK_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A ladder that was trained once without disturbance, with a warm compilation cache.

    Attributes:
      args: the command without its workdir.
      table: what it must end in.
      seconds, operations: how long it takes, and how many operations on files of the workdir.
      folder: its workdir.
    """

    command: ladder.Cli
    args: tuple[str, ...]
    table: pd.DataFrame
    seconds: float
    operations: int
    folder: pathlib.Path

    def new_workdir(self, path: pathlib.Path) -> pathlib.Path:
        """Nothing trained, but everything compiled."""
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        shutil.copy(self.folder / "study.json", path)
        return path

    def check(self, workdir: pathlib.Path) -> None:
        pd.testing.assert_frame_equal(ladder.table(workdir), self.table, check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_JAX_CACHE", str(home / "cache"))
        command = ladder.Cli(home / "log")
        args = ("run", f"--study={ladder.write_study(home)}", *OPTIONS)
        assert command.run(*args, f"--workdir={home / 'cold'}") == 0, command.said()
        found = Ladder(command, args, ladder.table(home / "cold"), 0.0, 0, home / "cold")
        assert len(found.table) == 12
        workdir, counter = found.new_workdir(home / "warm"), home / "count"
        begin = time.monotonic()
        count = functools.partial(watch_files, str(workdir), None, str(counter))
        assert command.run(*args, f"--workdir={workdir}", before=count) == 0, command.said()
        found.check(workdir)
        yield dataclasses.replace(found, seconds=time.monotonic() - begin, operations=int(counter.read_text()))


def watch_files(workdir: str, fatal: int | None, counter: str | None = None) -> None:
    """Makes this process kill itself before its operation number `fatal` on files of the workdir, or counts them."""
    seen = 0
    descriptor = counter and os.open(counter, os.O_WRONLY | os.O_CREAT)

    def hook(event, args):
        nonlocal seen
        if event == "open":
            changes = bool(args[2] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))
        else:
            changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
        if changes and str(args[0]).startswith(workdir):
            seen += 1
            if counter:
                os.pwrite(descriptor, str(seen).encode(), 0)
            elif seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_killed_at_any_instant(undisturbed, tmp_path):
    rng = random.Random(SEED)
    workdir = undisturbed.new_workdir(tmp_path / "work")
    args = (*undisturbed.args, f"--workdir={workdir}")
    killed = {"after seconds": 0, "before file operation": 0}
    seconds = undisturbed.seconds
    while min(killed.values()) < KILLS:
        kind = min(killed, key=killed.get)
        if kind == "after seconds":
            instant = rng.uniform(0, seconds)
            begin = time.monotonic()
            process = undisturbed.command.start(*args)
            process.join(instant)
            if not process.is_alive():
                seconds = time.monotonic() - begin  # an attempt that goes on takes less, and machines vary
            process.kill()
            process.join()
        else:
            instant = rng.randint(1, undisturbed.operations)
            process = undisturbed.command.start(*args, before=functools.partial(watch_files, str(workdir), instant))
            process.join()
        print(f"{kind} {instant:.4g} of {seconds:.3g} s, {undisturbed.operations}: exit {process.exitcode}")
        assert process.exitcode in (0, -signal.SIGKILL), undisturbed.command.said()
        if process.exitcode == 0:
            undisturbed.check(workdir)
            undisturbed.new_workdir(workdir)
        else:
            killed[kind] += 1
    assert undisturbed.command.run(*args) == 0, undisturbed.command.said()
    undisturbed.check(workdir)


def kill_between_branches() -> None:
    """Makes this process kill itself once two branches have a checkpoint and neither has ended."""
    begun = set()

    def hook(event, args):
        if event == "os.rename" and (at := BRANCH_STEP.search(str(args[1]))):
            if len(begun) > 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if at[1] != at[2]:
                begun.add(at[1])

    sys.addaudithook(hook)


def test_killed_in_the_middle_of_branches_side_by_side(tmp_path, monkeypatch):
    """Two lanes, three budgets, two branches in one program: each has a checkpoint of its own to go on from."""
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    command = ladder.Cli(tmp_path / "log")
    args = ("run", f"--study={ladder.write_study(tmp_path, ladder.BIGRAM)}", *BRANCHES_TOGETHER)
    assert command.run(*args, f"--workdir={tmp_path / 'whole'}") == 0, command.said()
    workdir = tmp_path / "killed"
    process = command.start(*args, f"--workdir={workdir}", before=kill_between_branches)
    process.join()
    assert process.exitcode == -signal.SIGKILL, command.said()
    saved = {tuple(map(int, at.groups())) for path in workdir.rglob("*") if (at := BRANCH_STEP.search(str(path)))}
    assert {end for end, step in saved if step < end} == {36, 40} and not any(step == end for end, step in saved)
    assert command.run(*args, f"--workdir={workdir}") == 0, command.said()
    pd.testing.assert_frame_equal(ladder.table(workdir), ladder.table(tmp_path / "whole"), check_exact=True)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of a few MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], capture_output=True
        ).returncode
    ):
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(undisturbed, small_disk):
    workdir = undisturbed.new_workdir(small_disk / "work")
    args = (*undisturbed.args, f"--workdir={workdir}")
    rng = random.Random(SEED)
    ballast = small_disk / "ballast"
    for _ in range(4):
        room = rng.randint(2_000, 400_000)
        with open(ballast, "wb") as file:
            file.write(bytes(shutil.disk_usage(small_disk).free - room))
        code = undisturbed.command.run(*args)
        said = undisturbed.command.said().splitlines()
        print(f"{room} bytes of room: exit {code}: {said[-1]}")
        assert code == 1, undisturbed.command.said()
        assert said[-1].startswith("scaling-jax: the disk is full")
        assert "Traceback" not in "\n".join(said[-2:])
        ballast.unlink()
    assert undisturbed.command.run(*args) == 0, undisturbed.command.said()
    undisturbed.check(workdir)
