"""What `scaling-jax run` does in this process: trains the packs that are missing, or hands them to an engine."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from scaling_jax import data
from scaling_jax.cli import dispatch, study_flags
from scaling_jax.cli.finish import finish
from scaling_jax.cli.plan_text import plan_text
from scaling_jax.engines import base, cluster, compile_cache, local
from scaling_jax.engines.preemption import StopSignal
from scaling_jax.engines.progress import Reporter
from scaling_jax.errors import InUse, Preempted, UserError
from scaling_jax.planning import make_plan
from scaling_jax.storage.records import Records
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study, content_hash
from scaling_jax.training import distributed, hardware
from scaling_jax.training.feed import make_feed
from scaling_jax.training.loop import Training, missing

RETRY_SECONDS = 5.0  # before a pack that another process holds is given back to its engine


def main(args: list[str], values: Any) -> int:
    """Trains or dispatches; the exit code.

    Raises:
      Preempted: told to stop, or a process that trains with this one was lost; what was saved stands.
    """
    with StopSignal() as stop:
        try:
            return _run(args, values, stop)
        except InUse as error:
            if not values.only_packs:
                raise
            time.sleep(RETRY_SECONDS)  # an engine has started a pack anew while its last process still saves
            raise Preempted(str(error)) from error
        except Exception as error:
            if cluster.is_member() and distributed.is_lost_peer(error):
                raise Preempted("a process that trains with this one was lost; what was saved stands") from error
            raise


def _run(args: list[str], values: Any, stop: StopSignal) -> int:
    study = study_flags.read_study(args, values)
    spec = data.describe(study.data)
    chosen = base.select(make_plan(study, spec), values.only_packs)  # says what cannot be trained before anything else
    scales = [pack.scale for pack in chosen]
    workdir = Workdir(values.workdir or f"runs/{study.name}")
    if values.engine != "local":
        workdir.check(study, ())
        return dispatch.dispatch(study, spec, workdir, values, stop)
    workdir.check(study, scales)
    study_flags.start_jax(values)
    if cluster.is_member():
        cluster.join(values)
        stop.shared = not distributed.is_single_process()
    local.check_devices(study)
    dataset = data.load(study.data, on_progress=_data_progress())
    _say(f"study {study.name!r}: {hardware.describe()}, workdir {workdir.path}")
    for what, identity in (
        ("the code", hardware.code_version()),
        ("the study or its flags", [study.to_dict(), scales]),
        ("the data", dataset.dataset_hash),
    ):
        if not distributed.same_everywhere(content_hash(identity)):
            raise UserError(f"{what} differs between the processes that train together; give all of them the same")
    packs = make_plan(study, spec, dataset.dataset_hash)
    with _claim(workdir, study, scales, dataset.dataset_hash) as attempt:
        compile_cache.use()
        records = Records(workdir.path, attempt, writes=distributed.is_leader())
        finished = _finished(records, packs)
        chosen = base.select(packs, values.only_packs)
        todo = [pack for pack in chosen if missing(pack, finished)]
        runs = sum(len(pack.runs) for pack in chosen)
        if todo:
            _say(plan_text(study, chosen, spec))
            _say(f"{runs - _count_missing(todo, finished)} of {runs} runs are done; training the rest")
            _train(todo, study, dataset, records, finished, stop)
        else:
            _say(f"all {runs} runs are done; nothing to train")
        finished = _finished(records, packs)
        waiting = [pack.scale for pack in packs if missing(pack, finished)]
        if waiting:
            _say(f"packs of this study that are not done: {', '.join(waiting)}; the last one to end writes the report")
        elif distributed.is_leader():
            finish(workdir.path)
    cluster.leave()
    return 0


@contextlib.contextmanager
def _claim(workdir: Workdir, study: Study, scales: list[str], dataset_hash: str) -> Iterator[int]:
    """The leader takes the packs for all processes; yields the number of this attempt."""
    with contextlib.ExitStack() as stack:
        attempt, refused = -1, None
        if distributed.is_leader():
            try:
                attempt = stack.enter_context(workdir.claim(study, scales, dataset_hash))
            except UserError as error:
                refused = error
        (attempt,) = distributed.broadcast_from_leader([attempt])
        if attempt < 0:
            raise refused or UserError("process 0 could not take the workdir, and says why")
        yield int(attempt)
        distributed.barrier("trained")


def _finished(records: Records, packs) -> set[str]:
    """Runs of the packs that have their result, as the leader sees it."""
    ids = [run.run_id for pack in packs for run in pack.runs]
    found = records.finished() if distributed.is_leader() else {}
    flags = distributed.broadcast_from_leader([run_id in found for run_id in ids])
    return {run_id for run_id, done in zip(ids, flags) if done}


def _train(todo, study: Study, dataset, records: Records, finished, stop: StopSignal) -> None:
    common = {
        "study": study.name,
        "family": study.family.name,
        "dataset_hash": dataset.dataset_hash,
        "code_version": hardware.code_version(),
        "device": hardware.describe(),
    }
    feed = make_feed(dataset, study.execution, study.data.augment)
    peak, _ = hardware.peak_flops()
    report = Reporter(todo, peak) if distributed.is_leader() else lambda progress: None
    with stop.deferred():
        local.train_packs(todo, Training(study, feed, records, finished, common, stop, report))


def _count_missing(packs, finished) -> int:
    return sum(run.run_id not in finished for pack in packs for run in pack.runs)


def _say(text: str) -> None:
    if distributed.is_leader():
        print(text, file=sys.stderr, flush=True)


def _data_progress():
    """Prints what the data room is doing, a line every few seconds."""
    last = {"time": time.monotonic(), "what": ""}

    def show(what: str, done: float, total: float | None) -> None:
        now = time.monotonic()
        if what != last["what"] or now - last["time"] > 5:
            last.update(time=now, what=what)
            share = f" {100 * done / total:.0f}%" if total and done else ""
            _say(f"data: {what}{share}")

    return show
