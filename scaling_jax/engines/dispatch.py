"""Packs that train elsewhere: each is `scaling-jax run` with `--only_packs`, handed to an engine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from scaling_jax.engines import base, registry
from scaling_jax.engines.attempt import missing
from scaling_jax.engines.preemption import StopSignal
from scaling_jax.errors import EngineError
from scaling_jax.models.family import Spec
from scaling_jax.planning import Pack, frame
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study, content_hash


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """How an engine runs the packs of a study.

    Attributes:
      arguments: of `scaling-jax run` for this study and workdir, without the engine's own; each pack adds
        `--only_packs`. A machine of the cluster must be able to read the files that they name.
      options: passed on to the engine's own command (`sbatch`, `xpk`) as they are.
      max_retries: preemptions that one pack survives.
      dry_run: show what would be done, and do nothing.
    """

    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    max_retries: int = 1000
    dry_run: bool = False


def dispatch(
    plan: Sequence[Pack],
    study: Study,
    spec: Spec,
    workdir: Workdir,
    engine: str,
    settings: Dispatch,
    only_packs: Sequence[str] = (),
) -> bool:
    """Hands the missing packs to the engine, longest first; returns whether every run of the study has its result.

    The data is not read here: what is finished is known by the identity that the workdir keeps of it.

    Raises:
      EngineError: a pack failed.
    """
    run = registry.find(engine)
    workdir.check(frame(study, spec), ())
    while todo := _todo(plan, study, spec, workdir, only_packs):
        _hand_over(todo, study, spec, workdir, run, settings)
        left = _todo(plan, study, spec, workdir, only_packs)
        if settings.dry_run or any(pack in todo for pack in left):  # queued, not trained yet
            return False
    base.say(f"nothing is left to train: {workdir.path}")
    return not _todo(plan, study, spec, workdir, ())


def _todo(
    plan: Sequence[Pack], study: Study, spec: Spec, workdir: Workdir, only_packs: Sequence[str]
) -> tuple[Pack, ...]:
    """The packs to train now as the workdir has them; without identities where nothing was trained yet."""
    stored = workdir.stored()
    if stored is None:
        return base.select(plan, only_packs)
    auto = study.execution.compute_dtype == "auto"  # decided where packs train, which is not here
    dtype = stored.compute_dtype if auto else study.execution.compute_dtype
    return missing(plan, study, spec, workdir, stored.dataset_hash, only_packs, dtype)


def _hand_over(
    todo: Sequence[Pack], study: Study, spec: Spec, workdir: Workdir, run: registry.Engine, settings: Dispatch
) -> None:
    """Has the engine train the packs."""
    todo = base.longest_first(todo)
    base.say(f"{len(todo)} packs to train, longest first: {_shorten([p.name for p in todo])}")
    jobs = [base.Job(pack, ("run", *settings.arguments, f"--only_packs={pack.name}")) for pack in todo]
    if not settings.dry_run:
        (workdir.path / "_SUCCESS").unlink(missing_ok=True)
    with StopSignal() as stop:
        code = run(
            jobs,
            base.Settings(
                name=_job_name(study, str(workdir.path)),
                study=study,
                spec=spec,
                workdir=workdir.path,
                options=settings.options,
                max_retries=settings.max_retries,
                dry_run=settings.dry_run,
                stop=stop,
            ),
        )
    if code:
        raise EngineError(code)


def _job_name(study: Study, place: str) -> str:
    """Of this study in this workdir, the same whenever the command is repeated."""
    return re.sub("[^A-Za-z0-9-]", "-", f"scaling-jax-{study.name}-{content_hash(place)[:6]}")


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])}, ..., {names[-1]}"
