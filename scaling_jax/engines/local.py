"""Packs on this process's devices: longest first, side by side where one pack does not fill them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import threading
from collections.abc import Sequence
from typing import Any

import jax

from scaling_jax.errors import Preempted, UserError
from scaling_jax.planning import Pack, record_of
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study
from scaling_jax.training import distributed, verify
from scaling_jax.training.build import build_program, mesh_shape
from scaling_jax.training.checkpoint import PackCheckpoints
from scaling_jax.training.layout import wants_trial
from scaling_jax.training.loop import PackTrainer, Training
from scaling_jax.training.program import LaneProgram

KERNEL_BACKENDS = {"splash": "tpu", "cudnn": "gpu"}
AHEAD_BACKENDS = ("gpu", "tpu")  # on CPU a compiler takes the cores that train


def train_packs(packs: Sequence[Pack], training: Training) -> None:
    """Trains every pack to its last result.

    A pack takes as many devices as it has lanes for; what is left takes the next pack, in a thread of its own. The
    devices are independent, so neither changes the other's losses. While accelerators train, the pack that is next is
    compiled. Several processes train one pack after another, each on all devices.

    Raises:
      UserError: the family's counts are wrong.
      Preempted: told to stop; every pack under way has saved.
      Exception: the first that a pack raised, after the others stopped at their next chunk and saved.
    """
    verify.check_packs(training.study, packs, training.feed.spec)
    waiting = sorted(packs, key=lambda pack: -pack.trained_flops)
    if not distributed.is_single_process():
        for pack in waiting:
            if training.should_stop():
                raise Preempted("stopped between two packs; everything finished so far is saved")
            train_program(build_program(pack, training, jax.devices()), pack, training)
        return
    free = list(jax.devices())
    turn = threading.Condition()
    errors: list[BaseException] = []

    def stop() -> bool:
        return bool(errors) or training.should_stop()

    together = dataclasses.replace(training, should_stop=stop)

    def work(pack: Pack, devices: list[Any]) -> None:
        try:
            train_program(ahead.program(pack, devices), pack, together)
        except BaseException as error:
            errors.append(error)
        finally:
            with turn:
                free.extend(devices)
                turn.notify_all()

    threads = []
    with _Ahead(training) as ahead, turn:
        while waiting and not stop():
            taken = None
            for pack in waiting:  # the longest that fits
                need = devices_wanted(pack, training.study, jax.device_count())
                if need <= len(free):
                    taken = pack
                    break
            if taken is None:
                ahead.start(waiting[0])
                turn.wait(0.5)  # wakes for signals, too
                continue
            waiting.remove(taken)
            free.sort(key=lambda d: d.id)
            devices, free[:need] = free[:need], []
            threads.append(threading.Thread(target=work, args=(taken, devices), name=taken.name))
            threads[-1].start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.5)
    if errors:
        raise next((error for error in errors if not isinstance(error, Preempted)), errors[0])


def check_devices(study: Study) -> None:
    """Raises UserError when the study's attention kernel or mesh does not fit the devices of this training."""
    kernel, backend = study.execution.attention, jax.default_backend()
    if (needed := KERNEL_BACKENDS.get(kernel, backend)) != backend:
        raise UserError(
            f"execution.attention={kernel!r} runs on {needed.upper()} only, and this is {backend.upper()}; "
            "use execution.attention=auto"
        )
    if study.execution.mesh is None:
        return
    wanted, available = math.prod(study.execution.mesh), jax.device_count()
    if wanted > available or (wanted < available and not distributed.is_single_process()):
        whom = "there are" if distributed.is_single_process() else "all processes together have"
        raise UserError(f"execution.mesh={study.execution.mesh} takes {wanted} devices, and {whom} {available}")


def devices_wanted(pack: Pack, study: Study, available: int) -> int:
    """Devices one pack uses."""
    return math.prod(mesh_shape(pack, study, available))


class _Ahead:
    """Compiles the pack that comes next, on the devices that it will get, while others train."""

    def __init__(self, training: Training):
        self._training = training
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "ahead")
        self._next: tuple[Any, concurrent.futures.Future[LaneProgram]] | None = None

    def start(self, pack: Pack) -> None:
        """Begins, unless a pack is being compiled already, or this one wants the devices to try its layouts on."""
        if self._next or jax.default_backend() not in AHEAD_BACKENDS:
            return
        study = self._training.study
        shape = mesh_shape(pack, study, jax.device_count())
        if not wants_trial(study.execution, pack, shape[0], self._training.records):
            devices = jax.devices()[: math.prod(shape)]
            build = self._pool.submit(build_program, pack, self._training, devices)
            self._next = (pack.name, devices), build

    def program(self, pack: Pack, devices: list[Any]) -> LaneProgram:
        """The compiled program, now or as soon as it is ready."""
        if self._next and self._next[0][0] == pack.name:
            ((_, expected), build), self._next = self._next, None
            if devices == expected:
                return build.result()
        return build_program(pack, self._training, devices)

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *exc) -> None:
        self._pool.shutdown(wait=False)


def train_program(program: LaneProgram, pack: Pack, training: Training) -> None:
    """Trains one pack from wherever it stands."""
    study, root = training.study, training.records.root
    record = record_of(pack)
    forks = record.joined(Workdir(root).packs().get(pack.name)).forks  # of earlier starts, too: it may grow again
    folder = root / "checkpoints" / pack.name
    with PackCheckpoints(folder, study.execution.keep_checkpoints, forks, record.lanes) as checkpoints:
        PackTrainer(training, pack, program, checkpoints).run()
