"""Packs on this process's devices: every trunk and branch of a study as pieces of work, side by side."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax

from scaling_jax.engines import estimate
from scaling_jax.engines.schedule import Devices, Task, choose, compile_next
from scaling_jax.errors import Preempted, UserError
from scaling_jax.planning import Pack, record_of
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study
from scaling_jax.training import distributed, layout
from scaling_jax.training.build import build_program
from scaling_jax.training.checkpoint import PackCheckpoints
from scaling_jax.training.loop import PackTrainer, Training
from scaling_jax.training.piece import Piece
from scaling_jax.training.program import LaneProgram
from scaling_jax.training.scale import mesh_shape

KERNEL_BACKENDS = {"splash": "tpu", "cudnn": "gpu"}


def train_packs(packs: Sequence[Pack], training: Training, devices: Sequence[Any] | None = None) -> None:
    """Trains every pack to its last result, on all devices unless some are given.

    A piece of a pack takes as many devices as the pack has lanes for; what is left takes other pieces, each in a thread
    of its own. The devices are independent, so neither changes the other's losses. While they train, the pack that is
    next is compiled. Several processes train one pack after another, each on all devices.

    Raises:
      Preempted: asked to stop; every piece under way has saved.
      Exception: the first that a piece raised, after the others stopped at their next chunk and saved.
    """
    if distributed.is_single_process():
        _Pool(packs, training, devices or jax.devices()).run()
        return
    for pack in sorted(packs, key=lambda pack: -pack.trained_flops):
        if training.should_stop():
            raise Preempted("stopped between two packs; everything finished so far is saved")
        program = build_program(pack, training, jax.devices())
        with checkpoints_of(pack, training) as checkpoints:
            PackTrainer(training, pack, checkpoints).run(program)


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


@dataclasses.dataclass(eq=False)
class _End:
    """A piece that has taken its steps and is being saved and evaluated; `released` once others may use its devices."""

    devices: set[int]
    released: bool = False


class _Pool:
    """The devices, the packs to train on them, and a thread for each piece under way."""

    def __init__(self, packs: Sequence[Pack], training: Training, devices: Sequence[Any]):
        self._errors: list[BaseException] = []
        told = training.should_stop
        self._training = dataclasses.replace(training, should_stop=lambda: bool(self._errors) or told())
        self._devices = {device.id: device for device in devices}
        self._free = set(self._devices)
        self._ends: list[_End] = []  # in the order in which they took their last step
        self._turn = threading.Condition()
        self._programs: dict[tuple[str, Devices, int], concurrent.futures.Future[LaneProgram]] = {}
        self._packs = packs
        self._tasks: list[Task] = []
        self._compiler = concurrent.futures.ThreadPoolExecutor(1, "ahead")

    def run(self) -> None:
        """Trains everything; raises the first error once all threads have stopped."""
        threads: list[threading.Thread] = []
        with contextlib.ExitStack() as stack:
            stack.callback(self._compiler.shutdown, wait=False, cancel_futures=True)
            self._tasks = [self._task(pack, stack) for pack in self._packs]
            with self._turn:
                while not self._training.should_stop() and not all(task.trainer.done for task in self._tasks):
                    if (found := choose(self._tasks, self._free, len(self._devices))) is None:
                        self._compile_ahead()
                        self._turn.wait(0.5)  # wakes for signals, too
                        continue
                    threads.append(self._begin(*found))
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.5)
            if not self._errors:
                return
            raise next((error for error in self._errors if not isinstance(error, Preempted)), self._errors[0])

    def _task(self, pack: Pack, stack: contextlib.ExitStack) -> Task:
        """The pack as work to be scheduled."""
        training = self._training
        together = layout.branches_together(training.study, pack, training.records)
        checkpoints = stack.enter_context(checkpoints_of(pack, training))
        need = devices_wanted(pack, training.study, len(self._devices))
        flops = pack.trained_flops / pack.trained_steps
        guess = flops / (estimate.speed(training.study.family.name)[0](pack.width) * need / jax.device_count())
        return Task(PackTrainer(training, pack, checkpoints, together), need, guess)

    def _begin(self, task: Task, piece: Piece, devices: Devices) -> threading.Thread:
        """Starts a thread that trains the piece."""
        task.home, task.begun = task.home or devices, True
        task.trainer.begin(piece)
        self._free -= set(devices)
        thread = threading.Thread(target=self._work, args=(task, piece, devices), name=task.trainer.pack.name)
        thread.start()
        return thread

    def _work(self, task: Task, piece: Piece, devices: Devices) -> None:
        end = _End(set(devices))

        def release() -> None:
            with self._turn:
                self._ends.append(end)
                self._release()

        try:
            together = task.trainer.together if piece.kind == "branch" else 1
            task.trainer.train(piece, self._program(task, devices, together), release)
            if task.trainer.done:
                task.trainer.checkpoints.close()
                with self._turn:  # its programs hold memory
                    for key in [key for key in self._programs if key[0] == task.trainer.pack.name]:
                        del self._programs[key]
        except BaseException as error:
            self._errors.append(error)
        finally:
            with self._turn:
                if end in self._ends:
                    self._ends.remove(end)
                if not end.released:
                    self._free |= end.devices
                self._release()

    def _release(self) -> None:
        """Frees devices whose piece has taken its steps: of one piece at a time, lest ends pile up."""
        for end in self._ends:
            if not end.released and not any(other.released and other.devices & end.devices for other in self._ends):
                end.released = True
                self._free |= end.devices
        self._turn.notify_all()

    def _program(self, task: Task, devices: Devices, together: int) -> LaneProgram:
        """The compiled program, now or as soon as it is ready."""
        key = (task.trainer.pack.name, devices, together)
        with self._turn:
            build = self._programs.get(key)
            mine = build is None
            if build is None:
                build = self._programs[key] = concurrent.futures.Future()
        if mine:
            self._build(task, devices, together, build)
        return build.result()

    def _build(self, task: Task, devices: Devices, together: int, build: concurrent.futures.Future) -> None:
        pack, begin = task.trainer.pack, time.monotonic()
        try:
            first = together == 1 and not task.compiled
            program = build_program(pack, self._training, [self._devices[i] for i in devices], together, first)
        except BaseException as error:
            build.set_exception(error)
            return
        end = time.monotonic()
        self._training.trace.add("compile", pack.name, devices, begin, end)
        with self._turn:
            if not task.compiled:
                task.compile_seconds = end - begin
            task.compiled.add(devices)
        build.set_result(program)

    def _compile_ahead(self) -> None:
        """Compiles the pack that comes next while others train, unless its layouts are to be timed on free devices."""
        if any(not build.done() for build in self._programs.values()):
            return
        if (found := compile_next(self._tasks, sorted(self._devices))) is None:
            return
        task, devices = found
        if layout.wants_trial(self._training.study.execution, task.trainer.pack, len(devices), self._training.records):
            return
        task.home = devices
        build = self._programs[task.trainer.pack.name, devices, 1] = concurrent.futures.Future()
        self._compiler.submit(self._build, task, devices, 1, build)


def checkpoints_of(pack: Pack, training: Training) -> PackCheckpoints:
    """The pack's checkpoints; also those that earlier starts kept for growth are kept."""
    root, record = training.records.root, record_of(pack)
    forks = record.joined(Workdir(root).packs().get(pack.name)).forks
    folder = root / "checkpoints" / pack.name
    return PackCheckpoints(folder, training.study.execution.keep_checkpoints, forks, record.lanes)
