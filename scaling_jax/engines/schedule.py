"""Which piece of which pack a free device trains next, so that no device idles while anything is ready.

The whole study is one list: the trunk of every pack, piece by piece, and its branches. A pack has a home, the devices
that its program was compiled for first, and trains there, small budgets first, so that results come early. Where the
steps that must follow one another in a pack would outlast everything else, its trunk goes first. Devices that have
nothing of their own help others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from scaling_jax.training.piece import Piece

CRITICAL = 0.8  # a pack goes first whose own sequence of steps takes this share of what is left for every device
COMPILE_SECONDS = 5.0  # until one was measured
MOVE = 0.3  # of a compilation: to load for other devices what the compilation cache holds
WORTH = 1.0  # times what ready pieces of others must last for, to be worth loading their program
AHEAD = 8.0  # compilations that a device's own work should last for, else the next pack is compiled for it: beside
# training on every core, a compilation takes several times as long as alone

Devices = tuple[int, ...]  # ids


@dataclasses.dataclass(eq=False)
class Task:
    """A pack that is to be trained.

    Attributes:
      trainer: of the pack: `ready`, `steps_left`, `step_seconds`.
      need: devices that a piece takes.
      guess: seconds of a step, until one was measured.
      home: devices that it began on, or is being compiled for.
      begun: whether it has trained anything.
      compiled: devices that it is compiled for.
      compile_seconds: of the first program, measured.
    """

    trainer: Any
    need: int
    guess: float
    home: Devices | None = None
    begun: bool = False
    compiled: set[Devices] = dataclasses.field(default_factory=set)
    compile_seconds: float = COMPILE_SECONDS

    @property
    def step_seconds(self) -> float:
        return self.trainer.step_seconds() or self.guess

    def seconds(self, piece: Piece) -> float:
        """Estimated time of a piece."""
        return self.step_seconds * sum(phase.stop - phase.start for phase in piece.phases)

    def left(self) -> float:
        """Estimated seconds of all that has not begun."""
        return self.step_seconds * self.trainer.steps_left()[0]

    def path(self) -> float:
        """Estimated seconds of the longest sequence of steps that must follow one another."""
        return self.step_seconds * self.trainer.steps_left()[1]


def choose(tasks: Sequence[Task], free: Collection[int], num_devices: int) -> tuple[Task, Piece, Devices] | None:
    """The piece to begin now, and where; None when there is nothing for the free devices.

    In this order: pieces at home, of the pack that everything waits for, then of those that have begun; a new pack, the
    largest first; pieces of a pack whose home is busy, where that is worth loading the program for other devices.
    """
    each = sum(task.left() * task.need for task in tasks) / num_devices
    best: tuple[tuple[float, float], Task, Piece, Devices] | None = None
    for task in tasks:
        pieces = task.trainer.ready()
        if not pieces or task.need > len(free):
            continue
        critical = task.path() >= CRITICAL * each
        if task.home is not None and set(task.home) <= set(free):
            rank, devices = (0.0 if critical else 1.0 if task.begun else 1.5), task.home
        elif task.home is None:
            rank, devices = 2.0, tuple(sorted(free)[: task.need])
        else:
            rank, devices = 3.0, _elsewhere(task, free)
            if devices not in task.compiled and sum(map(task.seconds, pieces)) < WORTH * MOVE * task.compile_seconds:
                continue
        if best is None or (rank, -task.left()) < best[0]:
            piece = pieces[-1] if critical else pieces[0]  # the trunk comes last
            if rank == 3.0:  # the one whose absence relieves its home most
                piece = max(pieces, key=task.seconds) if not critical else piece
            best = (rank, -task.left()), task, piece, devices
    return best and best[1:]


def _elsewhere(task: Task, free: Collection[int]) -> Devices:
    """Free devices for a task whose home is busy: those that it is compiled for, if any."""
    known = [devices for devices in sorted(task.compiled) if set(devices) <= set(free)]
    return known[0] if known else tuple(sorted(free)[: task.need])


def compile_next(tasks: Sequence[Task], device_ids: Sequence[int]) -> tuple[Task, Devices] | None:
    """The new pack to compile ahead, and for which devices: those that will first have nothing to do.

    None while every device has work for long enough.
    """
    new = [task for task in tasks if task.home is None and task.trainer.ready()]
    if not new:
        return None
    task = max(new, key=Task.left)
    load = dict.fromkeys(device_ids, 0.0)
    for other in tasks:
        for device in other.home or ():
            load[device] += other.left()
    places = [tuple(device_ids[i : i + task.need]) for i in range(0, len(device_ids) - task.need + 1, task.need)]
    place = min(places, key=lambda devices: max(load[device] for device in devices))
    if max(load[device] for device in place) > AHEAD * max(other.compile_seconds for other in tasks):
        return None
    return task, place
