"""What the engines share: a pack elsewhere is the idempotent command with `--only_packs`, the longest pack first.

An engine is a function `run(jobs, settings) -> int` (see `engines.register`). It starts each job's command, starts it
again when it exits 75 or its machine is lost, and knows nothing else about training: the workdir holds what is done.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from scaling_jax.engines.preemption import StopSignal
from scaling_jax.errors import PREEMPTED, USER_ERROR, UserError
from scaling_jax.models.family import Spec
from scaling_jax.planning import Pack
from scaling_jax.study import Study


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
      stop: returns whether this process was asked to stop.
    """

    name: str
    study: Study
    spec: Spec
    workdir: Any
    options: tuple[str, ...]
    max_retries: int
    dry_run: bool
    stop: StopSignal


def longest_first(packs: Iterable[Pack]) -> list[Pack]:
    """The order in which packs are started: a long one that starts last would leave the other machines waiting."""
    return sorted(packs, key=lambda pack: -pack.trained_flops)


def check_names(packs: Sequence[Pack], names: Sequence[str]) -> None:
    """Raises UserError for names that no pack of these scales can have, however the workdir has grown."""
    known = list(dict.fromkeys([*(pack.name for pack in packs), *(pack.scale for pack in packs)]))
    for name in names:
        if name not in known and re.sub(r"-\d+$", "", name) not in known:
            raise UserError(f"--only_packs: no pack {name!r} in this study; it has {', '.join(known)}")


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
