"""SIGTERM and Ctrl-C become a question that the training loop asks between chunks."""

from __future__ import annotations

import signal
import sys
import threading


class StopSignal:
    """Context manager; inside it, the object answers whether to stop. A second signal stops at once, unsaved."""

    def __init__(self):
        self._told = threading.Event()
        self._previous = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __call__(self, step: int) -> bool:
        return self._told.is_set()

    def _handle(self, number, frame) -> None:
        if self._told.is_set():
            raise KeyboardInterrupt
        self._told.set()
        print(f"scaling-jax: {signal.Signals(number).name}: saving, then exit 75", file=sys.stderr, flush=True)
