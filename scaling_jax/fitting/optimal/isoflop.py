"""Approach 2: the loss-minimal size of each compute budget, and the power laws through these optima."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from scaling_jax.fitting.data import check_int, check_positive
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.optimal.isoflop_result import IsoFlop
from scaling_jax.fitting.optimal.isoflop_warnings import warnings
from scaling_jax.fitting.optimal.power_law import power_law
from scaling_jax.fitting.optimal.sweeps import (
    METHODS,
    MIN_POINTS,
    Sweep,
    find_sweeps,
    in_window,
    log_noise,
    minimum,
    tokens_at,
)

OPTIMA = np.dtype([(name, np.float64) for name in ("C", "N", "D", "loss", "N_logstd", "D_logstd")])
RESAMPLES = 200  # draws of noise
SMALLEST_LOGSTD = 1e-12  # never 0, so that it can weigh a fit


def isoflop(
    N: Any,
    D: Any,
    C: Any,
    loss: Any,
    method: str = "akima",
    *,
    budgets: Sequence[float] | None = None,
    tolerance: float | None = None,
    window: int | None = None,
    noise: float | None = None,
    seed: int = 0,
) -> IsoFlop:
    """Approach 2 of Hoffmann et al. 2022: the size of lowest loss at each compute budget.

    Args:
      N: (n,) parameters of each run.
      D: (n,) tokens.
      C: (n,) training FLOPs.
      loss: (n,) final loss.
      method: "akima" interpolates ln loss over ln N (Porian et al. 2024): local, so a wide sweep does no harm.
        "parabola" and "cubic" are least squares of loss on log N over the whole sweep; the parabola is the
        published approach 2, biased by up to 35% in D* when sweeps are wide or off center.
      budgets: nominal budgets; None finds them in C.
      tolerance: relative difference of C inside one budget; 0.1 when budgets are found, 0.25 when given.
      window: use only this many points around the lowest of each sweep (None: all).
      noise: standard deviation of ln loss between repeats of a run; None estimates it from the sweeps.
      seed: of the draws of noise behind `.interval`, `.stderr` and the `_logstd` of the optima.

    Returns:
      `IsoFlop`, with `.a`, `.b`, `.optima`, `.warnings`, `.interval(level)`, `.frontier(C)`.

    Raises:
      FitError: an unknown method, C that does not come in budgets, or fewer than two budgets with an optimum.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> C = np.repeat([1e18, 1e19, 1e20], 7)
      >>> N = np.sqrt(C / 120) * np.tile(np.logspace(-0.6, 0.6, 7), 3)
      >>> D = C / (6 * N)
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> round(fitting.isoflop(N, D, C, loss).a, 2)
      0.51
    """
    if method not in METHODS:
        raise FitError(f"method is {method!r}: choose one of {', '.join(METHODS)}")
    check_int(seed, "seed")
    if window is not None and check_int(window, "window") < MIN_POINTS[method]:
        raise FitError(f"window is {window}: {method} needs at least {MIN_POINTS[method]} points")
    if noise is not None:
        check_positive(noise, "noise", "0.003, the standard deviation of ln loss")
    full = find_sweeps(N, D, C, loss, budgets, tolerance)
    noise = log_noise(full) if noise is None else float(noise)
    sweeps = [in_window(sweep, window) for sweep in full]
    left_out = int(np.size(C) - sum(sweep.N.size for sweep in full))
    result = _through_optima(sweeps, method, noise, seed)
    result = dataclasses.replace(result, window=window, left_out=left_out)
    local = result if method == "akima" else _local(result, seed)
    return dataclasses.replace(result, warnings=warnings(result, local))


def _local(result: IsoFlop, seed: int) -> IsoFlop | None:
    """Akima interpolation of the same sweeps, to check a polynomial against; None where it has too few optima."""
    try:
        return _through_optima(result.sweeps, "akima", result.noise, seed)
    except FitError:
        return None


def _through_optima(sweeps: Sequence[Sweep], method: str, noise: float, seed: int) -> IsoFlop:
    """The optimum of each sweep, and the power laws through them."""
    rng = np.random.default_rng(seed)
    rows, draws, dropped = [], [], []
    for sweep in sweeps:
        # Column 0 is the data, the others are the data with noise added.
        shocks = rng.standard_normal((sweep.N.size, RESAMPLES)) * np.nan_to_num(noise)
        losses = sweep.loss[:, None] * np.exp(np.concatenate([np.zeros((sweep.N.size, 1)), shocks], axis=1))
        log_n, best = minimum(method, np.log(sweep.N), losses)
        # Polynomials are fitted to N and to D apart, as published; an interpolant has one lowest point.
        log_d = tokens_at(sweep, log_n) if method == "akima" else minimum(method, np.log(sweep.D), losses)[0]
        if not (np.isfinite(log_n[0]) and np.isfinite(log_d[0])):
            dropped.append((sweep.C, _why_dropped(method, sweep)))
            continue
        found = np.isfinite(log_n) & np.isfinite(log_d)
        # An optimum that noise often pushes off the edge is less certain than the draws that stay inside suggest.
        deviations = (max(float(np.std(x[found])) / found.mean(), SMALLEST_LOGSTD) for x in (log_n, log_d))
        rows.append((sweep.C, np.exp(log_n[0]), np.exp(log_d[0]), best[0], *deviations))
        draws.append(np.stack([log_n, log_d])[:, 1:])
    if len(rows) < 2:
        raise FitError(
            f"{len(rows)} of {len(sweeps)} budgets have an optimum and exponents need two: "
            + "; ".join(f"{c:.3g}: {why}" for c, why in dropped[:4])
        )
    optima = np.array(rows, dtype=OPTIMA).view(np.recarray)
    return IsoFlop(
        optima=optima,
        N_law=power_law(optima.C, optima.N),
        D_law=power_law(optima.C, optima.D),
        samples=_exponents(optima.C, np.stack(draws)) if noise > 0 else np.empty((0, 2)),
        warnings=[],
        method=method,
        noise=noise,
        sweeps=tuple(sweeps),
        dropped=tuple(dropped),
        window=None,
        merged=sum(int(sweep.N.size - np.unique(sweep.N).size) for sweep in sweeps),
        left_out=0,
    )


def _exponents(C: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Least-squares exponents of every draw: draws (budgets, 2, resamples), nan where a draw has no optimum."""
    present = np.isfinite(draws)
    x = np.where(present, np.log(C)[:, None, None], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        dx = x - np.nansum(x, axis=0) / present.sum(0)
        slopes = np.nansum(dx * draws, axis=0) / np.nansum(dx**2, axis=0)
    return slopes[:, np.isfinite(slopes).all(0) & (present.all(1).sum(0) >= 2)].T


def _why_dropped(method: str, sweep: Sweep) -> str:
    sizes = np.unique(sweep.N).size
    if sizes < MIN_POINTS[method]:
        return f"too few sizes ({sizes}), {method} needs {MIN_POINTS[method]}"
    lowest = int(np.argmin(sweep.loss))
    if lowest in (0, sweep.N.size - 1):
        side, more = ("smallest", "smaller") if lowest == 0 else ("largest", "larger")
        return f"the {side} size tried ({sweep.N[lowest]:.3g}) is the best: add {more} models"
    return "the curve has no minimum inside the sweep"
