"""When which device trained what: the share of their time that devices were busy, and a file for Perfetto."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple


COMPILERS = 10_000  # added to the number of a device: its row for compilations


class Event(NamedTuple):
    """Work of some devices.

    Attributes:
      kind: "trunk", "branch", "evaluate" or "compile"; devices do not work during the last.
      name: of the pack.
      devices: their ids.
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

    def add(self, kind: str, name: str, devices: Sequence[int], begin: float, end: float) -> None:
        """Records one piece of work."""
        self.events.append(Event(kind, name, tuple(devices), begin, end))

    def busy(self, num_devices: int) -> float:
        """Share of the device-seconds, between the end of the first compilation and the last step, that were busy.

        NaN before anything was trained.
        """
        work = [event for event in self.events if event.kind != "compile"]
        if not work:
            return float("nan")
        compiled = [event.end for event in self.events if event.kind == "compile"]
        begin = min(compiled, default=min(event.begin for event in work))
        end = max(event.end for event in work)
        spent = sum((event.end - max(begin, event.begin)) * len(event.devices) for event in work)
        return spent / ((end - begin) * num_devices)

    def seconds(self, kind: str) -> float:
        """Device-seconds of one kind of work; seconds of compilations, which may overlap."""
        return sum(
            (event.end - event.begin) * (1 if kind == "compile" else len(event.devices))
            for event in self.events
            if event.kind == kind
        )

    def to_json(self) -> str:
        """The Trace Event Format, which https://ui.perfetto.dev opens: a row per device, microseconds."""
        start = min((event.begin for event in self.events), default=0.0)
        rows: list[dict[str, Any]] = [
            {
                "ph": "X",
                "name": f"{event.name} {event.kind}",
                "cat": event.kind,
                "pid": 0,
                "tid": device + (COMPILERS if event.kind == "compile" else 0),
                "ts": round(1e6 * (event.begin - start)),
                "dur": round(1e6 * (event.end - event.begin)),
            }
            for event in sorted(self.events, key=lambda event: event.begin)
            for device in (event.devices[:1] if event.kind == "compile" else event.devices)
        ]
        return json.dumps({"traceEvents": rows, "displayTimeUnit": "ms"})
