"""Packs as JobSet manifests for GKE, written by xpk's dry run: `kubectl apply -f` submits them, Kueue queues them.

xpk (https://github.com/AI-Hypercomputer/xpk) knows machine types, topologies and GKE's labels. It pins versions of
many packages, so it lives in an environment of its own: `pipx install xpk`. It is asked once, for a pack with a name
to be filled in.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from scaling_jax.engines import base
from scaling_jax.errors import PREEMPTED, UserError

PLACEHOLDER = "pack-name"
MAX_NAME = 40  # xpk's limit for a workload
GRACE_SECONDS = 90  # between SIGTERM and SIGKILL, to save
# What xpk would otherwise ask gcloud for.
NEEDED = ("--cluster", "--project", "--zone", "--docker-image")


def run(jobs: Sequence[base.Job], settings: base.Settings) -> int:
    """Writes one manifest per pack, numbered longest first, into a folder named after the study.

    Raises:
      UserError: xpk is not installed, an option is missing, or xpk refuses one (its own words).
    """
    given = {option.split("=")[0] for option in settings.options}
    missing = [name for name in NEEDED if name not in given]
    if not given & {"--tpu-type", "--device-type"}:
        missing.append("--tpu-type")
    if missing:
        hint = " ".join(f"--engine_option={name}=..." for name in missing)
        raise UserError(f"--engine=xpk needs to know where to run: {hint} (options of `xpk workload create`)")
    command = _xpk(jobs[0], settings)
    if settings.dry_run:
        print(shlex.join(command))
        return 0
    manifest = _render(command)
    folder = pathlib.Path(f"{settings.name}-manifests")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.yaml"):  # of packs that were missing when this command last ran
        old.unlink()
    for index, job in enumerate(jobs):
        (folder / f"{index:05d}-{job.pack.name}.yaml").write_text(manifest.replace(PLACEHOLDER, job.pack.name))
    base.say(f"wrote {len(jobs)} manifests; submit them with: kubectl apply -f {folder}/")
    return 0


def workload_name(name: str) -> str:
    """A Kubernetes name for a study's packs, with the placeholder at its end, short enough for xpk."""
    prefix = re.sub(r"[^a-z0-9-]+", "-", name.lower())
    tail = prefix[-(MAX_NAME - 16) :].lstrip("-0123456789").rstrip("-")  # its end tells studies apart
    return f"{tail or 'run'}-{PLACEHOLDER}"


def _xpk(job: base.Job, settings: base.Settings) -> list[str]:
    arguments = [arg for arg in job.command if not arg.startswith("--only_packs=")]
    # exec: xpk's wrapper passes SIGTERM to the shell that it starts, which would die and take no notice of its child.
    train = f"exec {shlex.join(['scaling-jax', *arguments])} --only_packs={PLACEHOLDER}"
    return [
        "xpk",
        "workload",
        "create",
        "--dry-run",
        "--skip-validation",
        f"--workload={workload_name(settings.name)}",
        f"--command={train}",
        f"--max-restarts={settings.max_retries}",
        f"--restart-on-exit-codes={PREEMPTED}",
        f"--termination-grace-period-seconds={GRACE_SECONDS}",
        *settings.options,
    ]


def _render(command: Sequence[str]) -> str:
    """The manifest that xpk would apply."""
    if shutil.which("xpk") is None:
        raise UserError("--engine=xpk: no xpk here; install it beside this environment with `pipx install xpk`")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "manifest.yaml"
        # A dry run has nothing to report home.
        environment = {"TELEMETRY_ENABLED": "false", **os.environ}
        done = subprocess.run(
            [*command, f"--output-manifest-file={path}"], capture_output=True, text=True, env=environment
        )
        if done.returncode != 0 or not path.exists():
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise UserError(f"xpk: {lines[-1] if lines else 'no manifest written'}")
        return path.read_text()
