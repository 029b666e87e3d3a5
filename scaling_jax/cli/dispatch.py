"""`scaling-jax run --engine=ray|slurm|xpk`: the packs go elsewhere; each is this command again, with --only_packs."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import jax

from scaling_jax.cli.finish import finish
from scaling_jax.engines import base
from scaling_jax.engines.preemption import StopSignal
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.storage.paths import is_remote
from scaling_jax.storage.records import Records
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study, content_hash
from scaling_jax.training.loop import missing


def dispatch(study: Study, spec: Spec, workdir: Workdir, values: Any, stop: StopSignal) -> int:
    """Hands the missing packs to the engine, longest first; returns its exit code.

    The data is not touched here: what is finished is known by the identity that the workdir keeps of it.
    """
    jax.config.update("jax_platforms", "cpu")  # this process only plans; the accelerators are for the packs
    packs = make_plan(study, spec, workdir.dataset_hash() or "")
    finished = Records(workdir.path).finished()
    todo = base.longest_first(pack for pack in base.select(packs, values.only_packs) if missing(pack, finished))
    if not todo:
        base.say(f"all packs are done: {workdir.path}")
        if not any(missing(pack, finished) for pack in packs) and not (workdir.path / "_SUCCESS").exists():
            finish(workdir.path)  # the last pack was stopped before it could
        return 0
    base.say(f"{len(todo)} of {len(packs)} packs to train, longest first: {_shorten([p.scale for p in todo])}")
    place = str(workdir.path)
    settings = base.Settings(
        name=re.sub("[^A-Za-z0-9-]", "-", f"scaling-jax-{study.name}-{content_hash([study.hash(), place])[:6]}"),
        study=study,
        spec=spec,
        workdir=workdir.path,
        options=tuple(values.engine_option),
        max_retries=values.max_retries,
        dry_run=values.dry_run,
        stop=stop,
    )
    same = {"study": _reachable(values), "workdir": place if is_remote(place) else os.path.abspath(place)}
    flagged = base.given_flags(values, same)
    jobs = [base.Job(pack, ("run", *flagged, f"--only_packs={pack.scale}")) for pack in todo]
    code = base.load(values.engine).run(jobs, settings)
    if (workdir.path / "_SUCCESS").exists():
        base.say(f"the study is done: {workdir.path}/report/index.html")
    return code


def _reachable(values: Any) -> str:
    """The study file as another process finds it; a container and `ray job submit` bring the folder it is given in."""
    shipped = values.engine == "xpk" or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return values.study if shipped else str(pathlib.Path(values.study).absolute())


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])}, ..., {names[-1]}"
