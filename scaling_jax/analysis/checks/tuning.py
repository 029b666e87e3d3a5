"""Checks of what was tuned: is the best value of each quantity inside the range tried, and is it more than luck?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from scaling_jax.analysis.checks.base import CANNOT_TELL, PASS, WARN, Check, Evidence
from scaling_jax.analysis.frames import groups_of
from scaling_jax.analysis.status import FAILED
from scaling_jax.analysis.winners import TUNED, budget_of
from scaling_jax.text import listed, short

ENOUGH = 3  # values that can bracket a best one
CLEAR = 2.5  # standard errors by which a value at the edge must win to count as unbracketed
TIE = 0.002  # of the loss, where the noise is unknown
FLOORS = {"weight_decay": 0.0, "warmup_steps": 0.0}  # there is nothing below


def bracketed(e: Evidence) -> Check:
    """The best value of each tuned quantity is inside the values that were tried at its (scale, budget)."""
    name, error = "tuning is bracketed", _difference_error(e)
    edges: dict[str, dict[str, dict[str, list[str]]]] = {}
    ids: list[str] = []
    tried: dict[str, int] = {}
    for quantity, scale, D, x, y in _lines(e):
        tried[quantity] = max(len(x), tried.get(quantity, 0))
        best = int(np.argmin(y))
        if best not in (0, len(x) - 1) or (best == 0 and x[0] == FLOORS.get(quantity)):
            continue
        neighbor = y[1] if best == 0 else y[-2]
        margin = np.log(neighbor / y[best]) if np.isfinite(neighbor) else np.inf
        if margin > CLEAR * error:
            side, way = ("lowest", "lower") if best == 0 else ("highest", "higher")
            text = f"{x[best]:g} is the {side} of {len(x)} {TUNED[quantity]}s: try {way}"
            edges.setdefault(quantity, {}).setdefault(text, {}).setdefault(scale, []).append(short(D))
            ids.append(scale)
    if not tried:
        return Check(name, CANNOT_TELL, "one learning rate per scale: how far from its best is not known")
    if edges:
        parts = (
            f"the best {TUNED[quantity]} is at the edge: "
            + listed(f"{_where(places)}: {text}" for text, places in found.items())
            for quantity, found in edges.items()
        )
        return Check(name, WARN, "; ".join(parts), tuple(dict.fromkeys(ids)))
    if few := [TUNED[quantity] for quantity, count in tried.items() if count < ENOUGH]:
        detail = f"two values of {' and '.join(few)}: none of them is inside the range tried; list {ENOUGH} or more"
        return Check(name, CANNOT_TELL, detail)
    names = listed(f"up to {count} {TUNED[quantity]}s" for quantity, count in tried.items())
    return Check(name, PASS, f"no clear winner at the edge of those tried ({names})")


def _where(places: dict[str, list[str]]) -> str:
    if len(places) > 2:
        return listed(places, 4)
    return listed(f"{scale} on {listed(D, 3)}" for scale, D in places.items())


def differs(e: Evidence) -> Check:
    """Where only two values were tried, one wins by more than noise, or it does not matter which."""
    name, error = "tuning wins by more than noise", _difference_error(e)
    lines: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for quantity, _, _, x, y in _lines(e):
        lines.setdefault(quantity, []).append((x, y))
    if not lines:
        return Check(name, CANNOT_TELL, "one learning rate per scale")
    for quantity, found in lines.items():
        pairs = [(x, y) for x, y in found if np.isfinite(y).all()]
        if max(len(x) for x, _ in found) >= ENOUGH or not pairs:
            continue
        margins = np.array([np.log(np.max(y) / np.min(y)) for _, y in pairs])
        share = pd.Series([x[int(np.argmin(y))] for x, y in pairs]).value_counts(normalize=True)
        unclear = float(np.mean(margins < CLEAR * error))
        if unclear > 0.5 and share.iloc[0] < 0.9:
            noun = TUNED[quantity]
            detail = (
                f"of two {noun}s the winner changes from run to run ({share.iloc[0]:.0%} for {share.index[0]:g}) and "
                f"wins by noise in {unclear:.0%} of {len(margins)} cells: the luckier of two is fitted; try three "
                f"{noun}s, or fix one"
            )
            return Check(name, WARN, detail)
    return Check(name, PASS, "of two values one wins throughout, or clearly, or more were tried")


def _lines(e: Evidence) -> Iterator[tuple[str, str, float, np.ndarray, np.ndarray]]:
    """(quantity, scale, D, its values, y at the best of all other settings), of each that takes several at a place.

    y is the mean over seeds; infinite for settings that diverged.
    """
    table = e.runs.table[(e.runs.table.status != FAILED) & e.runs.table.D.notna()]
    swept = [q for q in TUNED if q in table]
    if not len(table) or not swept:
        return
    table = table.assign(
        y=table.y.where(table.status == "done", np.inf), D=budget_of(table) if e.runs.ours else table.D
    )
    table[swept] = table[swept].apply(pd.to_numeric, errors="coerce")
    table = table.dropna(axis=1, how="all")
    swept = [q for q in swept if q in table and table[q].nunique() > 1]
    if not swept:
        return
    means = table.groupby(["scale", "D", *swept], sort=False, dropna=False).y.mean().reset_index()
    for quantity in swept:
        best = means.dropna(subset=[quantity]).groupby(["scale", "D", quantity], sort=False).y.min().reset_index()
        for (scale, D), rows in groups_of(best, ["scale", "D"]):
            x, y = rows[quantity].to_numpy(float), rows.y.to_numpy(float)
            if len(x) > 1 and np.isfinite(y).any():
                yield quantity, str(scale), float(D), np.sort(x), y[np.argsort(x)]


def _difference_error(e: Evidence) -> float:
    """Standard error of the difference of two means over seeds, in ln y."""
    noise = e.runs.noise
    if noise is None:
        return max(TIE / CLEAR, e.linearized.noise.total * 2**0.5 if e.linearized is not None else 0.0)
    count = max(e.runs.chosen.groupby(["scale", "D"]).size().median(), 1)
    return float(noise * np.sqrt(2 / count))
