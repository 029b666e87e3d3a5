"""What `scaling-jax bench` found out about this machine, kept in the user's cache folder for `plan` and `run`."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
from absl import logging

from scaling_jax.storage.paths import as_path, cache_dir, write_atomic
from scaling_jax.training import hardware

FORMAT = 1


def path() -> pathlib.Path:
    """Where the speeds of this kind of machine are kept."""
    return cache_dir() / "bench" / f"{re.sub('[^A-Za-z0-9]+', '-', hardware.describe()).strip('-')}.json"


def as_json(report: dict[str, Any]) -> str:
    """A report of `bench.measure` as it is kept."""
    return json.dumps({"format": FORMAT, **report}, indent=1) + "\n"


def save(report: dict[str, Any]) -> None:
    """Keeps a report of `bench.measure` for this kind of machine."""
    write_atomic(as_path(path()), as_json(report))


def load() -> dict[str, Any] | None:
    """The report of this kind of machine; None where none was made, or it cannot be read."""
    try:
        report = json.loads(path().read_text())
        if report.pop("format") == FORMAT and report["lanes"]:
            return report
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logging.warning("%s is unreadable (%s); run scaling-jax bench again", path(), error)
    return None


def flops_at(report: dict[str, Any], width: int) -> float:
    """FLOP/s that training reaches on all devices: of the best lanes, in logs linear between measured widths."""
    best: dict[int, float] = {}
    for row in report["lanes"]:
        best[row["width"]] = max(best.get(row["width"], 0.0), row["flops_per_s"])
    widths = sorted(best)
    found = np.interp(np.log(width), np.log(widths), np.log([best[w] for w in widths]))
    return float(np.exp(found))
