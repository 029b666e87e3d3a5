"""When which device trained what: the share of their time that devices were busy, and a file for Perfetto."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

STEPS = ("trunk", "branch")
WORK = (*STEPS, "evaluate")  # what devices do
EVALUATION, HOST = 5_000, 10_000  # added to the number of a device: the rows of what it or the host does meanwhile


class Event(NamedTuple):
    """Something that took time.

    Attributes:
      kind: one of `WORK`; else "compile", "save", "data" or "report", during which a device may wait.
      name: of the pack, or "".
      devices: ids of those that worked, or that it was done for.
      begin, end: seconds of `time.monotonic`.
    """

    kind: str
    name: str
    devices: tuple[int, ...]
    begin: float
    end: float


class Trace:
    """Collects events; safe for threads."""

    def __init__(self):
        self.events: list[Event] = []
        self._latest: dict[tuple[int, ...], int] = {}  # place of the latest work, by devices
        self._lock = threading.Lock()

    def add(self, kind: str, name: str, devices: Sequence[int], begin: float, end: float) -> None:
        """Records one event; back-to-back work is one event."""
        event, key = Event(kind, name, tuple(devices), begin, end), tuple(devices)
        with self._lock:
            place = self._latest.get(key) if kind in WORK else None
            before = None if place is None else self.events[place]
            if place is not None and before is not None and before[:2] == event[:2] and begin <= before.end:
                self.events[place] = before._replace(end=end)
                return
            if kind in WORK:
                self._latest[key] = len(self.events)
            self.events.append(event)

    def busy(self, num_devices: int) -> float:
        """Share of the device-seconds, between the end of the first compilation and the last step, that were busy.

        NaN before anything was trained.
        """
        work = [event for event in self.events if event.kind in WORK]
        if not work:
            return float("nan")
        compiled = [event.end for event in self.events if event.kind == "compile"]
        begin = min(compiled, default=min(event.begin for event in work))
        end = max(event.end for event in work)
        spans: dict[int, list[tuple[float, float]]] = {}
        for event in work:
            for device in event.devices:
                spans.setdefault(device, []).append((max(begin, event.begin), event.end))
        return sum(map(covered, spans.values())) / ((end - begin) * num_devices)

    def seconds(self, kind: str) -> float:
        """Device-seconds of one kind of work; seconds of anything else, of which some may overlap."""
        each = [(event.end - event.begin, len(event.devices)) for event in self.events if event.kind == kind]
        return sum(seconds * (devices if kind in WORK else 1) for seconds, devices in each)

    def to_json(self) -> str:
        """The Trace Event Format, which https://ui.perfetto.dev opens: microseconds, rows per device.

        Steps are in one row, evaluations, which another piece's steps may overlap, in one, the host's work in a third.
        """
        start = min((event.begin for event in self.events), default=0.0)
        rows: list[dict[str, Any]] = [
            {
                "ph": "X",
                "name": f"{event.name} {event.kind}",
                "cat": event.kind,
                "pid": 0,
                "tid": device + (0 if event.kind in STEPS else EVALUATION if event.kind in WORK else HOST),
                "ts": round(1e6 * (event.begin - start)),
                "dur": round(1e6 * (event.end - event.begin)),
            }
            for event in sorted(self.events, key=lambda event: event.begin)
            for device in (event.devices if event.kind in WORK else event.devices[:1] or (0,))
        ]
        return json.dumps({"traceEvents": rows, "displayTimeUnit": "ms"})


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of what intervals (begin, end) cover together."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(end - max(begin, until), 0.0)
        until = max(until, end)
    return total
