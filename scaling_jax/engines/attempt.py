"""One attempt at a study in this process: claims its packs, trains those that are missing, says what is left."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax

from scaling_jax import data
from scaling_jax.data import cache
from scaling_jax.engines import base, cluster, compile_cache, estimate, local
from scaling_jax.engines.preemption import StopSignal
from scaling_jax.engines.progress import reporting
from scaling_jax.errors import InUse, Preempted, UserError, first_line
from scaling_jax.identity import PackRecord
from scaling_jax.models.family import Spec
from scaling_jax.planning import (
    Pack,
    Sweep,
    compute_dtype_of,
    frame,
    grouped,
    identified,
    record_of,
    with_rungs,
    without_rungs,
)
from scaling_jax.storage.paths import write_atomic
from scaling_jax.storage.records import Records, losses_of
from scaling_jax.storage.workdir import Stored, Workdir
from scaling_jax.study import Study, content_hash
from scaling_jax.training import distributed, hardware, verify
from scaling_jax.training.feed import Feed, make_feed
from scaling_jax.training.loop import Progress, Training
from scaling_jax.training.trace import Trace

RETRY_SECONDS = 5.0  # before a pack that another process holds is given back to its engine

OnMetrics = Callable[[Mapping[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A study to be trained here.

    Attributes:
      study, spec: what to train, and what its data looks like.
      packs: of the plan, without identities.
      workdir: where results go.
      only_packs: names of the packs to train; empty trains all.
      processes: how to find the other processes of this training, or None.
      on_metrics: called on the leader with plain dicts, see `training.loop.Training`.
      verbose: whether progress is printed on stderr.
      starts: of `training.loop.Training`.
      meanwhile: called once in a thread of its own, when training has begun.
    """

    study: Study
    spec: Spec
    packs: tuple[Pack, ...]
    workdir: Workdir
    only_packs: tuple[str, ...] = ()
    processes: cluster.Processes | None = None
    on_metrics: OnMetrics | None = None
    verbose: bool = True
    starts: Callable[[Pack], Sequence[Any]] | None = None
    meanwhile: Callable[[], None] = lambda: None

    def say(self, text: str) -> None:
        if self.verbose and distributed.is_leader():
            print(text, file=sys.stderr, flush=True)


def train(attempt: Attempt, finish: Callable[[], None]) -> None:
    """Trains what is missing.

    Args:
      attempt: the study, and where.
      finish: called on the leader, while the packs are still claimed, when every run of the study has its result.

    Raises:
      Preempted: asked to stop, or a process that trains with this one was lost; everything saved is intact.
      UserError: the study, the workdir or the devices do not fit, or a family counts wrongly; nothing was written.
    """
    with StopSignal() as stop:
        try:
            _train(attempt, finish, stop)
        except InUse as error:
            if not attempt.only_packs:
                raise
            time.sleep(RETRY_SECONDS)  # an engine has restarted a pack while its last process still saves
            raise Preempted(str(error)) from error
        except Exception as error:
            if cluster.is_member() and distributed.is_lost_peer(error):
                raise Preempted(
                    f"a process that trains with this one was lost ({first_line(error)}); everything saved is intact"
                ) from error
            raise


def _train(attempt: Attempt, finish: Callable[[], None], stop: StopSignal) -> None:
    study, spec, workdir = attempt.study, attempt.spec, attempt.workdir
    workdir.check(frame(study, spec), attempt.only_packs or [pack.name for pack in attempt.packs])
    if attempt.processes is not None:
        cluster.join(attempt.processes)
    stop.shared = not distributed.is_single_process()
    local.check_devices(study)
    trace, begin = Trace(), time.monotonic()
    dataset, dataset_hash = _corpus(attempt)
    trace.add("data", "", (), begin, time.monotonic())
    attempt.say(f"study {study.name!r}: {hardware.describe()}, workdir {workdir.path}")
    sweep = sweep_of(study, spec, attempt.packs, workdir, dataset_hash)
    chosen = base.select(sweep.packs, attempt.only_packs)
    names = [pack.name for pack in chosen]
    _check_same(study, [record_of(pack) for pack in chosen], dataset_hash)
    verify.check_packs(study, chosen, spec)  # before anything is written
    with _claim(workdir, _stored(attempt, sweep, dataset_hash), study, chosen) as number:
        compile_cache.use()
        records = Records(workdir.path, number, writes=distributed.is_leader())
        losses, trained = _losses(records, sweep.packs), False

        @functools.cache
        def feed() -> Feed:
            assert dataset is not None, "a run needs it"
            return make_feed(dataset, study.execution, study.data.augment)

        while todo := [pack for pack in sweep.todo(losses) if pack.name in names]:
            if not trained:
                _begin(attempt, [without_rungs(pack) for pack in chosen], losses)
            _say_round(attempt, sweep, todo, losses)
            trained = True
            try:
                _train_packs(todo, attempt, feed(), records, losses, stop, trace)
            finally:
                _say_busy(trace, attempt)
                _write_trace(trace, records, attempt)
            losses = _losses(records, sweep.packs)
        if not trained:
            attempt.say(f"all {_count(chosen)} runs are done; nothing to train")
        if waiting := [pack.name for pack in sweep.todo(losses)]:
            attempt.say(f"packs still to train: {', '.join(waiting)}; the last one to finish writes the report")
        elif distributed.is_leader():
            begin = time.monotonic()
            _write_stopped(attempt, sweep, losses, records, dataset_hash)
            finish()
            trace.add("report", "", (), begin, time.monotonic())
            if trained:
                _write_trace(trace, records, attempt)
    cluster.leave()


def _corpus(attempt: Attempt) -> tuple[data.Dataset | None, str]:
    """The study's data and its hash; of data that cannot be read the recorded hash, where no run needs it any more."""
    try:
        dataset = data.load(
            attempt.study.data,
            on_progress=cache.progress_lines(lambda line: attempt.say(f"data: {line}"), seconds=5.0),
        )
        return dataset, dataset.dataset_hash
    except UserError as error:
        stored = attempt.workdir.stored_for(attempt.study.to_dict()["data"])
        if stored is None or missing(
            attempt.packs, attempt.study, attempt.spec, attempt.workdir, stored.dataset_hash, attempt.only_packs
        ):
            raise
        attempt.say(f"{error}; no run needs it any more")
        return None, stored.dataset_hash


def missing(
    plan: Sequence[Pack],
    study: Study,
    spec: Spec,
    workdir: Workdir,
    dataset_hash: str,
    only_packs: Sequence[str] = (),
    dtype: str | None = None,
) -> tuple[Pack, ...]:
    """The packs to train now on the data of this hash, as the workdir has results."""
    sweep = sweep_of(study, spec, plan, workdir, dataset_hash, dtype)
    names = [pack.name for pack in base.select(sweep.packs, only_packs)]
    todo = sweep.todo(losses_of(Records(workdir.path).finished()))
    return tuple(pack for pack in todo if pack.name in names)


def sweep_of(
    study: Study, spec: Spec, packs: Sequence[Pack], workdir: Workdir, dataset_hash: str, dtype: str | None = None
) -> Sweep:
    """The study's packs as its workdir trains them: what was ever stopped there is still told from what went on.

    Args:
      study, spec: what to train.
      packs: of the plan, without identities.
      workdir: where.
      dataset_hash, dtype: of `identified`.
    """
    halving, stored = study.sweep == "halving", workdir.stored()
    rounds = halving or (stored is not None and stored.rungs is not None)
    known = identified(with_rungs(packs) if rounds else packs, study, spec, dataset_hash, dtype)
    return Sweep(grouped(known, workdir.packs()), halving, rounds)


def _begin(attempt: Attempt, chosen: Sequence[Pack], losses: Mapping[str, float]) -> None:
    """Says what is to be done."""
    if distributed.is_leader():
        (attempt.workdir.path / "_SUCCESS").unlink(missing_ok=True)
    attempt.say(estimate.plan_text(attempt.study, chosen, attempt.spec))
    done, runs = sum(run.run_id in losses for pack in chosen for run in pack.runs), _count(chosen)
    attempt.say(f"{done} of {runs} runs are done; training the others")


def _say_round(attempt: Attempt, sweep: Sweep, todo: Sequence[Pack], losses: Mapping[str, float]) -> None:
    if sweep.halving:
        lanes = {name: sum(len(pack.lanes) for pack in todo if pack.scale == name) for name in (p.scale for p in todo)}
        every = {name: sum(len(pack.lanes) for pack in sweep.packs if pack.scale == name) for name in lanes}
        attempt.say("lanes of this round: " + ", ".join(f"{k} {n} of {every[k]}" for k, n in lanes.items()))


def _write_stopped(
    attempt: Attempt, sweep: Sweep, losses: Mapping[str, float], records: Records, dataset_hash: str
) -> None:
    """A row for each run that the sweep has stopped."""
    there, study = records.stopped(), attempt.study
    origin = {"dataset_hash": dataset_hash, "code_version": hardware.code_version(), "device": hardware.describe()}
    for row in sweep.stopped(losses):
        if row["run_id"] not in there:
            records.write_stopped({**row, "study": study.name, "family": study.family.name, **origin})


def _stored(attempt: Attempt, sweep: Sweep, dataset_hash: str) -> Stored:
    """What the workdir keeps of the study."""
    runs = [run for pack in sweep.packs for run in pack.runs]
    return Stored(
        study=attempt.study.to_dict(),
        spec=dataclasses.asdict(attempt.spec),
        frame=frame(attempt.study, attempt.spec),
        dataset_hash=dataset_hash,
        compute_dtype=compute_dtype_of(attempt.study.execution),
        code_version=hardware.code_version(),
        device=hardware.describe(),
        runs=tuple(run.run_id for run in runs if not run.rung),
        rungs=tuple(run.run_id for run in runs if run.rung) if sweep.rounds else None,
    )


def _check_same(study: Study, packs: Sequence[PackRecord], dataset_hash: str) -> None:
    """Raises UserError when the processes that train together were given different things."""
    for what, identity in (
        ("the code", hardware.code_version()),
        ("the study or its flags", [study.to_dict(), [dataclasses.asdict(pack) for pack in packs]]),
        ("the data", dataset_hash),
    ):
        if not distributed.same_everywhere(content_hash(identity)):
            raise UserError(f"{what} differs between the processes that train together; give all of them the same")


@contextlib.contextmanager
def _claim(workdir: Workdir, stored: Stored, study: Study, packs: Sequence[Pack]) -> Iterator[int]:
    """The leader takes the packs for all processes; yields the number of this attempt."""
    with contextlib.ExitStack() as stack:
        number, refused = -1.0, None
        records = {pack.name: record_of(pack) for pack in packs}
        if distributed.is_leader():
            try:
                number = float(stack.enter_context(workdir.claim(stored, records)))
            except UserError as error:
                refused = error
        (number,) = distributed.broadcast_from_leader([number])
        if number < 0:
            raise refused or UserError("process 0 could not take the workdir; see its message")
        yield int(number)
        distributed.barrier("trained")


def _losses(records: Records, packs: Sequence[Pack]) -> dict[str, float]:
    """Losses of the runs of the packs that have their result, as the leader sees it; infinite for diverged ones."""
    ids = [run.run_id for pack in packs for run in pack.runs]
    found = losses_of(records.finished()) if distributed.is_leader() else {}
    values = distributed.broadcast_from_leader([found.get(run_id, math.nan) for run_id in ids])
    return {run_id: value for run_id, value in zip(ids, values) if value == value}


def _train_packs(
    todo: Sequence[Pack],
    attempt: Attempt,
    feed: Any,
    records: Records,
    finished: Collection[str],
    stop: StopSignal,
    trace: Trace,
) -> None:
    study = attempt.study
    common = {
        "study": study.name,
        "family": study.family.name,
        "dataset_hash": feed.dataset.dataset_hash,
        "code_version": hardware.code_version(),
        "device": hardware.describe(),
    }
    reports = attempt.verbose and distributed.is_leader()
    shown = reporting(study.name, todo, hardware.peak_flops()[0], records, reports)
    with stop.deferred(), shown as on_progress:
        training = Training(
            study, feed, records, finished, common, stop, _with(attempt.meanwhile, on_progress), attempt.on_metrics,
            trace, attempt.starts,
        )  # fmt: skip
        local.train_packs(todo, training)


def _with(meanwhile: Callable[[], None], on_progress: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """`on_progress` that also starts `meanwhile`, the first time: before, the host prepares the first steps."""
    waiting = iter([threading.Thread(target=meanwhile, name="meanwhile")])

    def call(progress: Progress) -> None:
        for thread in waiting:
            thread.start()
        on_progress(progress)

    return call


def _say_busy(trace: Trace, attempt: Attempt) -> None:
    busy = trace.busy(jax.device_count())
    if busy == busy:
        attempt.say(
            f"devices were busy {100 * busy:.0f}% of the time between the first compiled program and the last step; "
            f"compiling took {trace.seconds('compile'):.0f} s, most of it beside training"
        )


def _write_trace(trace: Trace, records: Records, attempt: Attempt) -> None:
    """Keeps what each device did when, for https://ui.perfetto.dev."""
    if not records.writes:
        return
    path = records.of_attempt(".trace.json")
    try:
        write_atomic(path, trace.to_json())
    except OSError as error:  # a full disk must not hide what stopped the training
        attempt.say(f"{path} could not be written: {error}")


def _count(packs: Sequence[Pack]) -> int:
    return sum(not run.rung for pack in packs for run in pack.runs)
