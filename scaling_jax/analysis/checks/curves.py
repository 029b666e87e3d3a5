"""Checks of the learning curves: do they collapse onto one, without spikes, close to the validation loss?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from scaling_jax.analysis.checks.base import CANNOT_TELL, PASS, WARN, Check, Evidence
from scaling_jax.analysis.frames import rows_of
from scaling_jax.text import listed, plural, short

POSITIONS = (0.3, 0.5, 0.7, 0.85)  # shares of a run's steps at which curves are compared
OFF, SIZE = 6.0, 0.03  # robust standard deviations, and in ln loss
MIN_CURVES = 8
SPIKE = 0.25  # rise of ln loss above the running minimum after a tenth of the run
WINDOW = 5  # recorded points that a rise must outlast half of: one odd batch is the data's, not the optimizer's
MAX_GAP = 0.1  # in ln loss between validation and training at the end


def _drawn(e: Evidence) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """run_id -> (steps, losses) in order of steps, of every fitted run with a curve that can be judged."""
    if e.curves is None:
        return {}
    curves = e.curves[e.curves.run_id.isin(set(e.runs.chosen.run_id))]
    place, ids = pd.factorize(curves.run_id)
    step, loss = curves.step.to_numpy(float), curves.loss.to_numpy(float)
    order = np.lexsort((step, place))
    parts = np.split(order, np.cumsum(np.bincount(place, minlength=len(ids)))[:-1]) if len(ids) else []
    return {str(i): (step[rows], loss[rows]) for i, rows in zip(ids, parts) if len(rows) >= 10}


def collapse(e: Evidence) -> Check:
    """Normalized by length and final loss, the curves of a ladder coincide (Qiu et al., arXiv:2507.02119)."""
    name, curves = "learning curves collapse", _drawn(e)
    if len(curves) < MIN_CURVES or not e.runs.has_compute:
        return Check(name, CANNOT_TELL, "too few learning curves")
    ids = list(curves)
    runs = e.runs.chosen.set_index(e.runs.chosen.run_id.map(str)).loc[ids]
    shapes = np.array([_shape(*curves[i]) for i in ids])
    design = np.column_stack([np.ones(len(ids)), np.log(runs.N), np.log(runs.D)])
    worst: dict[str, float] = {}
    for column in shapes.T:
        fitted, *_ = np.linalg.lstsq(design, column, rcond=None)
        left = column - design @ fitted
        left = left - np.median(left)
        spread = 1.4826 * np.median(np.abs(left))
        for i in np.flatnonzero((np.abs(left) > OFF * spread) & (np.abs(left) > SIZE)):
            worst[ids[i]] = max(worst.get(ids[i], 0.0), abs(float(left[i])))
    if worst:
        labels = {run.Index: f"{run.Index} ({run.scale} on {short(run.D)})" for run in rows_of(runs)}
        named = listed((labels[i] for i in sorted(worst, key=worst.__getitem__, reverse=True)), 3)
        detail = f"{plural(len(worst), 'run')} off the common curve by up to {max(worst.values()):.1%}: {named}"
        return Check(name, WARN, detail, tuple(worst))
    return Check(name, PASS, f"{len(curves)} curves")


def _shape(step: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """ln(loss / final loss) at fixed shares of the run, each smoothed over neighboring points."""
    keep = np.isfinite(loss) & (loss > 0)
    share, logs = step[keep] / step[keep][-1], np.log(loss[keep])
    end = float(np.mean(logs[share > 0.95])) if np.any(share > 0.95) else float(logs[-1])
    return np.interp(POSITIONS, share, _smooth(logs)) - end


def _smooth(values: np.ndarray) -> np.ndarray:
    """The median of every `WINDOW` neighbors, which one odd batch does not move; nan are left out."""
    padded = np.pad(values, WINDOW // 2, constant_values=np.nan)
    windows = np.sort(np.lib.stride_tricks.sliding_window_view(padded, WINDOW), axis=1)  # nan last
    rows, count = np.arange(len(values)), np.maximum(WINDOW - np.isnan(windows).sum(axis=1), 1)
    return 0.5 * (windows[rows, (count - 1) // 2] + windows[rows, count // 2])


def spikes(e: Evidence) -> Check:
    """No training loss jumps up and stays up for a while."""
    name, curves = "no spikes", _drawn(e)
    if not curves:
        return Check(name, CANNOT_TELL, "no learning curves")
    spiked = []
    for i, (step, loss) in curves.items():
        late = loss[step > 0.1 * step[-1]]
        logs = _smooth(np.log(np.where((late > 0) & np.isfinite(late), late, np.nan)))
        if len(logs) > 2 and np.nanmax(logs - np.fmin.accumulate(logs)) > SPIKE:
            spiked.append(i)
    if spiked:
        detail = f"{plural(len(spiked), 'run')} of {len(curves)} spiked by more than {SPIKE:.0%}: {listed(spiked)}"
        return Check(name, WARN, f"{detail}; lower the rate, or optimizer.spike_policy=skip", tuple(spiked))
    return Check(name, PASS, f"none in {len(curves)} curves")


def gap(e: Evidence) -> Check:
    """Validation loss is close to the training loss."""
    name, curves = "no overfitting", _drawn(e)
    if not curves or e.runs.names.get("y") != "loss":
        return Check(name, CANNOT_TELL, "no learning curves of the fitted loss")
    y = dict(zip(e.runs.chosen.run_id.map(str), e.runs.chosen.y.astype(float)))
    gaps = {}
    for i, (step, loss) in curves.items():
        final = loss[(step > 0.95 * step[-1]) & (loss > 0)]
        if len(final):
            gaps[i] = float(np.log(y[i]) - np.log(final).mean())
    over = [i for i, g in gaps.items() if g > MAX_GAP]
    if over:
        worst = max(over, key=gaps.__getitem__)
        detail = (
            f"in {plural(len(over), 'run')} of {len(gaps)} validation is up to {np.expm1(gaps[worst]):.0%} above "
            f"training ({worst}): the data are memorized; get more data or fit.law=data_constrained"
        )
        return Check(name, WARN, detail, tuple(over))
    return Check(name, PASS, f"validation is at most {max(gaps.values(), default=0):.1%} above training")
