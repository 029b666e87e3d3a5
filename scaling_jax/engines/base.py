"""What the engines share: a pack elsewhere is the idempotent command with `--only_packs`, the longest pack first.

An engine is a module with `run(jobs, settings) -> int`. It starts each job's command, starts it again when it exits 75
or its machine is lost, and knows nothing else about training: what is done stands in the workdir.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from scaling_jax.engines import ENGINES
from scaling_jax.engines.preemption import StopSignal
from scaling_jax.errors import PREEMPTED, USER_ERROR, UserError
from scaling_jax.models.family import Spec
from scaling_jax.planning import Pack
from scaling_jax.study import Study

RUNS_ALONE = {"engine", "engine_option", "max_retries", "dry_run", "only_packs"}  # flags that a job does not inherit


@dataclasses.dataclass(frozen=True)
class Job:
    """One pack, to be trained somewhere else.

    Attributes:
      pack: of the plan.
      command: arguments of `scaling-jax` that train this pack and no other; the same at every attempt.
    """

    pack: Pack
    command: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What an engine knows besides its jobs.

    Attributes:
      name: of this study in this workdir, the same whenever the command is repeated; letters, digits and dashes.
      study, spec: for what a pack needs: devices, memory.
      workdir: local folder or gs:// path that every machine reaches.
      options: handed on to the engine's own command as they are.
      max_retries: how often a pack may be preempted.
      dry_run: say what would be done and do nothing.
      stop: tells whether this process was told to stop.
    """

    name: str
    study: Study
    spec: Spec
    workdir: Any
    options: tuple[str, ...]
    max_retries: int
    dry_run: bool
    stop: StopSignal


def load(name: str) -> ModuleType:
    """The module of an engine."""
    return importlib.import_module(ENGINES[name])


def longest_first(packs: Iterable[Pack]) -> list[Pack]:
    """The order in which packs are started: a long one that starts last would leave the other machines waiting."""
    return sorted(packs, key=lambda pack: -pack.trained_flops)


def select(packs: Sequence[Pack], names: Sequence[str]) -> tuple[Pack, ...]:
    """The packs called `names`, all when there are none.

    Raises:
      UserError: no such pack.
    """
    known = {pack.name: pack for pack in packs}
    for name in names:
        if name not in known:
            raise UserError(f"--only_packs: no pack {name!r} in this study; it has {', '.join(known)}")
    return tuple(pack for pack in packs if not names or pack.name in names)


def given_flags(values: Any, replaced: dict[str, str]) -> tuple[str, ...]:
    """The flags that the user gave, as arguments for a job: without the engine's own, and with some values replaced.

    Args:
      values: absl's parsed flags.
      replaced: values that mean the same elsewhere, such as absolute paths.
    """
    out = [f"--{name}={value}" for name, value in replaced.items()]
    for name in values:
        flag = values[name]
        alias = name != flag.name  # absl lists a flag under its short name, too
        if flag.present and not alias and name not in RUNS_ALONE and name not in replaced:
            out += flag.serialize().split("\n")  # a flag given many times is a line each
    return tuple(out)


def python_command(arguments: Sequence[str]) -> list[str]:
    """`scaling-jax` with these arguments, under this very interpreter."""
    return [sys.executable, "-m", "scaling_jax", *arguments]


def exit_code(codes: Iterable[int]) -> int:
    """One exit code for many jobs: wrong input before failures, failures before preemptions."""
    codes = set(codes) - {0}
    if USER_ERROR in codes:
        return USER_ERROR
    return 1 if codes - {PREEMPTED} else max(codes, default=0)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
