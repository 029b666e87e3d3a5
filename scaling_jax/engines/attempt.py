"""One attempt at a study in this process: claims its packs, trains those that are missing, says what is left."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
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
from scaling_jax.planning import Pack, compute_dtype_of, frame, grouped, identified, record_of
from scaling_jax.storage.paths import write_atomic
from scaling_jax.storage.records import Records
from scaling_jax.storage.workdir import Stored, Workdir
from scaling_jax.study import Study, content_hash
from scaling_jax.training import distributed, hardware
from scaling_jax.training.feed import make_feed
from scaling_jax.training.loop import Training, missing
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
      UserError: the study, the workdir or the devices do not fit.
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
    dataset = data.load(
        study.data, on_progress=cache.progress_lines(lambda line: attempt.say(f"data: {line}"), seconds=5.0)
    )
    trace.add("data", "", (), begin, time.monotonic())
    attempt.say(f"study {study.name!r}: {hardware.describe()}, workdir {workdir.path}")
    packs = grouped(identified(attempt.packs, study, spec, dataset.dataset_hash), workdir.packs())
    chosen = base.select(packs, attempt.only_packs)
    _check_same(study, [record_of(pack) for pack in chosen], dataset.dataset_hash)
    with _claim(workdir, _stored(attempt, packs, dataset), study, chosen) as number:
        compile_cache.use()
        records = Records(workdir.path, number, writes=distributed.is_leader())
        finished = _finished(records, packs)
        todo = [pack for pack in chosen if missing(pack, finished)]
        runs = sum(len(pack.runs) for pack in chosen)
        if todo:
            if distributed.is_leader():
                (workdir.path / "_SUCCESS").unlink(missing_ok=True)
            attempt.say(estimate.plan_text(study, chosen, attempt.spec))
            attempt.say(f"{runs - _count_missing(todo, finished)} of {runs} runs are done; training the others")
            try:
                _train_packs(todo, attempt, dataset, records, finished, stop, trace)
            finally:
                _say_busy(trace, attempt)
                _write_trace(trace, records, attempt)
        else:
            attempt.say(f"all {runs} runs are done; nothing to train")
        finished = _finished(records, packs)
        waiting = [pack.name for pack in packs if missing(pack, finished)]
        if waiting:
            attempt.say(f"packs still to train: {', '.join(waiting)}; the last one to finish writes the report")
        elif distributed.is_leader():
            begin = time.monotonic()
            finish()
            trace.add("report", "", (), begin, time.monotonic())
            if todo:
                _write_trace(trace, records, attempt)
    cluster.leave()


def _stored(attempt: Attempt, packs: Sequence[Pack], dataset: data.Dataset) -> Stored:
    """What the workdir keeps of the study."""
    return Stored(
        study=attempt.study.to_dict(),
        spec=dataclasses.asdict(attempt.spec),
        frame=frame(attempt.study, attempt.spec),
        dataset_hash=dataset.dataset_hash,
        compute_dtype=compute_dtype_of(attempt.study.execution),
        code_version=hardware.code_version(),
        device=hardware.describe(),
        runs=tuple(run.run_id for pack in packs for run in pack.runs),
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


def _finished(records: Records, packs: Sequence[Pack]) -> set[str]:
    """Runs of the packs that have their result, as the leader sees it."""
    ids = [run.run_id for pack in packs for run in pack.runs]
    found = records.finished() if distributed.is_leader() else {}
    flags = distributed.broadcast_from_leader([run_id in found for run_id in ids])
    return {run_id for run_id, done in zip(ids, flags) if done}


def _train_packs(
    todo: Sequence[Pack],
    attempt: Attempt,
    dataset: data.Dataset,
    records: Records,
    finished: Collection[str],
    stop: StopSignal,
    trace: Trace,
) -> None:
    study = attempt.study
    common = {
        "study": study.name,
        "family": study.family.name,
        "dataset_hash": dataset.dataset_hash,
        "code_version": hardware.code_version(),
        "device": hardware.describe(),
    }
    feed = make_feed(dataset, study.execution, study.data.augment)
    reports = attempt.verbose and distributed.is_leader()
    shown = reporting(study.name, todo, hardware.peak_flops()[0], records, reports)
    with stop.deferred(), shown as on_progress:
        training = Training(
            study, feed, records, finished, common, stop, on_progress, attempt.on_metrics, trace, attempt.starts
        )
        local.train_packs(todo, training)


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


def _count_missing(packs: Sequence[Pack], finished: Collection[str]) -> int:
    return sum(run.run_id not in finished for pack in packs for run in pack.runs)
