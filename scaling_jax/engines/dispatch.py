"""Packs that train elsewhere: each is `scaling-jax run` with `--only_packs`, handed to an engine."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from scaling_jax.engines import base, registry
from scaling_jax.engines.preemption import StopSignal
from scaling_jax.errors import EngineError
from scaling_jax.models.family import Spec
from scaling_jax.planning import Pack, frame, grouped, identified
from scaling_jax.storage.records import Records
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study, content_hash
from scaling_jax.training.loop import missing


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
    packs = _known(plan, study, spec, workdir)
    records = Records(workdir.path)
    finished = records.finished()
    todo = base.longest_first(pack for pack in base.select(packs, only_packs) if missing(pack, finished))
    if not todo:
        base.say(f"all packs are done: {workdir.path}")
        return not any(missing(pack, finished) for pack in packs)
    base.say(f"{len(todo)} of {len(packs)} packs to train, longest first: {_shorten([p.name for p in todo])}")
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
    finished = records.finished()
    return not any(missing(pack, finished) for pack in _known(plan, study, spec, workdir))


def _known(plan: Sequence[Pack], study: Study, spec: Spec, workdir: Workdir) -> tuple[Pack, ...]:
    """The packs as the workdir trains them; without identities where nothing was trained yet."""
    stored = workdir.stored()
    if stored is None:
        return tuple(plan)
    auto = study.execution.compute_dtype == "auto"  # decided where packs train, which is not here
    dtype = stored.compute_dtype if auto else study.execution.compute_dtype
    return grouped(identified(plan, study, spec, stored.dataset_hash, dtype), workdir.packs())


def _job_name(study: Study, place: str) -> str:
    """Of this study in this workdir, the same whenever the command is repeated."""
    return re.sub("[^A-Za-z0-9-]", "-", f"scaling-jax-{study.name}-{content_hash(place)[:6]}")


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])}, ..., {names[-1]}"
