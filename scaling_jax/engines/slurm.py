"""Packs as a Slurm array job that queues itself again: no accounting database, no daemon, no driver that has to live.

`sbatch` gets `slurm_array.sbatch` with the packs and the command; options such as `--partition` and `--gpus` pass
through. The command may be repeated at any time: it says what is queued, or submits what is missing.
"""

from __future__ import annotations

import collections
import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from scaling_jax.engines import base
from scaling_jax.errors import UserError
from scaling_jax.storage.paths import is_remote

SCRIPT = pathlib.Path(__file__).with_name("slurm_array.sbatch")


def run(jobs: Sequence[base.Job], settings: base.Settings) -> int:
    """Submits the jobs as array jobs, unless they are queued already.

    Raises:
      UserError: Slurm is not installed here, or refuses the job (its own words).
    """
    if not settings.dry_run and shutil.which("sbatch") is None:
        raise UserError("--engine=slurm: no sbatch here; run on a Slurm login node, or give --dry_run")
    queued = {} if settings.dry_run else _queued(settings.name)
    if queued:
        states = ", ".join(f"{count} {state.lower()}" for state, count in queued.items())
        base.say(f"already in the queue as {settings.name}: {states}; nothing submitted")
        return 0
    logs = pathlib.Path(f"{settings.name}-logs" if is_remote(settings.workdir) else settings.workdir / "slurm")
    size = 1000 if settings.dry_run else _max_array_size()
    for start in range(0, len(jobs), size):
        command = _sbatch(jobs[start : start + size], settings, logs)
        if settings.dry_run:
            print(shlex.join(command))
            continue
        logs.mkdir(parents=True, exist_ok=True)
        number = _call(command).split(";")[0]
        base.say(f"submitted job {number}: {min(size, len(jobs) - start)} packs, logs in {logs}")
    return 0


def _sbatch(jobs: Sequence[base.Job], settings: base.Settings, logs: pathlib.Path) -> list[str]:
    """The sbatch command line; the jobs' commands differ in the pack only, which the script fills in."""
    names = [job.pack.name for job in jobs]
    command = [arg for arg in jobs[0].command if not arg.startswith("--only_packs=")]
    return [
        "sbatch",
        "--parsable",
        f"--job-name={settings.name}",
        f"--array=0-{len(jobs) - 1}",
        f"--output={logs}/%A_%a.log",
        f"--export=ALL,SCALING_JAX_MAX_RESTARTS={settings.max_retries}",
        *settings.options,
        str(SCRIPT),
        ",".join(names),
        *base.python_command(command),
    ]


def _queued(name: str) -> dict[str, int]:
    """State -> packs of this study that Slurm still has to do."""
    lines = _call(["squeue", "--me", "--noheader", "--array", f"--name={name}", "--format=%T"]).split()
    return dict(collections.Counter(lines))


def _max_array_size() -> int:
    """Elements that one array may have here (MaxArraySize is one more than the highest index)."""
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", _call(["scontrol", "show", "config"]))
    return max(1, int(match[1]) - 1) if match else 1000


def _call(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"{command[0]}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
