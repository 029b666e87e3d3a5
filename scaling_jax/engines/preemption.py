"""SIGTERM and Ctrl-C: a question that the training loop asks between chunks, and elsewhere an exception."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

from jax.experimental import multihost_utils

from scaling_jax.errors import Preempted
from scaling_jax.signals import SIGNALS

SAME_SECONDS = 2.0  # one stop may arrive twice: from whoever stops a group of processes, and through the parent


class StopSignal:
    """Context manager around a command that can be stopped and run again.

    The first signal raises Preempted; inside `deferred` it is only noted, and calling the object tells. A second signal
    ends the process at once, unsaved: nothing that was saved before is harmed by that. The same signal again within two
    seconds is the first one still: Slurm sends it to a step and to its srun, systemd to a unit and to its parent.
    """

    def __init__(self):
        self.shared = False  # with the other processes of a training, once it has joined them
        self._calls = 0
        self._told: signal.Signals | None = None
        self._when = 0.0
        self._deferred = False
        self._previous = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[StopSignal]:
        """Inside, a signal is noted and whoever asks has to stop in good order.

        Raises:
          Preempted: a signal came before, or inside after the last check.
        """
        self._deferred = True
        try:
            self._raise_if_told()
            yield self
            self._raise_if_told()
        finally:
            self._deferred = False

    def __call__(self) -> bool:
        """Whether to stop. Several processes ask equally often, and get the same answer at the same call."""
        if self.shared:
            self._calls += 1
            return multihost_utils.reached_preemption_sync_point(self._calls)
        return self._told is not None

    def _handle(self, number, frame) -> None:
        if self._told is not None:
            if number == self._told and time.monotonic() - self._when < SAME_SECONDS:
                return
            print("\nscaling-jax: second signal: exiting now; saved work is intact", file=sys.stderr, flush=True)
            os._exit(1)
        self._told, self._when = signal.Signals(number), time.monotonic()
        if self.shared:
            signal.raise_signal(signal.SIGTERM)  # the one that JAX listens to and tells the others of
        elif not self._deferred:
            self._raise_if_told()
        print(f"\nscaling-jax: {self._told.name}: saving after this chunk", file=sys.stderr, flush=True)

    def _raise_if_told(self) -> None:
        if self._told is not None:
            raise Preempted(f"stopped by {self._told.name}; everything finished so far is saved")
