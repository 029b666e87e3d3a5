"""How fast this machine trains, by `bench` and by earlier runs, kept in the cache folder for `plan` and `run`."""

from __future__ import annotations

import json
import pathlib
import re
from typing import TYPE_CHECKING, Any, cast

import jax
import numpy as np
from absl import logging

from scaling_jax.storage.paths import as_path, cache_dir, write_atomic
from scaling_jax.training import hardware

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
CACHED = 0.3  # of the seconds known before: a program that was loaded, not compiled
LEAST_SECONDS = 5.0  # of training at one width: less says little of a longer run


def path() -> pathlib.Path:
    """Where the speeds of this kind of machine are kept."""
    return cache_dir() / "bench" / f"{re.sub('[^A-Za-z0-9]+', '-', hardware.describe()).strip('-')}.json"


def as_json(report: dict[str, Any]) -> str:
    """A report of `bench.measure` as it is kept."""
    return json.dumps({"format": FORMAT, **report}, indent=1) + "\n"


def save(report: dict[str, Any]) -> None:
    """Keeps a report of `bench.measure` for this kind of machine, beside what is known from runs."""
    write_atomic(as_path(path()), as_json({"runs": (load() or {}).get("runs", {}), **report}))


def learn(table: pd.DataFrame) -> None:
    """Keeps how fast finished runs were trained on this kind of machine, by family and width.

    Args:
      table: of results; rows from elsewhere, and widths that trained for less than `LEAST_SECONDS`, do not count.
    """
    if not {"devices", "compile_s"} <= set(table) or not (table["device"] == hardware.describe()).any():
        return
    rows = table[(table["device"] == hardware.describe()) & (table["wall_s"] > 0) & table["devices"].notna()]
    known = load() or {}
    runs = {family: list(of) for family, of in known.get("runs", {}).items()}
    for key, of in rows.groupby(["family", "width"]):
        family, width = cast(tuple[str, int], key)
        if of["wall_s"].sum() < LEAST_SECONDS:
            continue
        each = of["flops"] / (of["wall_s"] * of["devices"]) * jax.device_count()
        before = [other["compile_s"] for other in runs.get(family, []) if other["width"] == width]
        compiled = float(of["compile_s"].max())
        if before and compiled < CACHED * before[0]:
            compiled = before[0]
        row = {"width": int(width), "flops_per_s": float(each.median()), "compile_s": compiled}
        others = [other for other in runs.get(family, []) if other["width"] != row["width"]]
        runs[family] = sorted([*others, row], key=lambda one: one["width"])
    if runs == known.get("runs", {}):
        return
    try:
        write_atomic(as_path(path()), as_json({"lanes": [], **known, "runs": runs}))
    except OSError as error:  # the results are there all the same
        logging.warning("%s cannot be written: %s", path(), error)


def load() -> dict[str, Any] | None:
    """What is known of this kind of machine; None where nothing is, or it cannot be read."""
    try:
        report = json.loads(path().read_text())
        if report.pop("format") == FORMAT and (report["lanes"] or report["runs"]):
            return report
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logging.warning("%s is unreadable (%s); run scaling-jax bench again", path(), error)
    return None


def flops_at(report: dict[str, Any], width: int, family: str = "") -> float | None:
    """FLOP/s that training reaches on all devices, in logs linear between measured widths; None where none are.

    Of earlier runs of the family where there are any, else of the best lanes that `bench` measured.
    """
    best: dict[int, float] = {}
    for row in report.get("runs", {}).get(family) or report["lanes"]:
        best[row["width"]] = max(best.get(row["width"], 0.0), row["flops_per_s"])
    if not best:
        return None
    widths = sorted(best)
    found = np.interp(np.log(width), np.log(widths), np.log([best[w] for w in widths]))
    return float(np.exp(found))


def compile_seconds(report: dict[str, Any], width: int, family: str) -> float | None:
    """Seconds that compiling a program of this width took in earlier runs of the family; None where there were none."""
    rows = report.get("runs", {}).get(family)
    return float(np.interp(width, [r["width"] for r in rows], [r["compile_s"] for r in rows])) if rows else None
