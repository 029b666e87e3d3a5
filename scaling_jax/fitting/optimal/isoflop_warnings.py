"""Warnings about IsoFLOP sweeps, in plain sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Sized

import numpy as np

from scaling_jax.fitting.optimal.isoflop_result import IsoFlop
from scaling_jax.fitting.optimal.sweeps import Sweep, merge_close
from scaling_jax.fitting.rows import mistaken_columns

# A parabola over sweeps wider than this in N (largest over smallest) is not local any more: on a noise-free
# Chinchilla surface a span of 64 moves D* by 3%, on an asymmetric one by 14% (Open-Athena 2026).
WIDE = 30.0
# The optimum's distance from the sweep's middle, in half-widths (of ln N), from which it is off center.
OFF_CENTER = 0.5


def warnings(result: IsoFlop, local: IsoFlop | None) -> list[str]:
    """All warnings about an `IsoFlop`, in sentences; empty when there are none."""
    return [
        *_about_points(result),
        *_about_edges(result),
        *_about_dips(result),
        *_about_shape(result),
        *_about_polynomial(result, local),
        *_about_scatter(result),
    ]


def _about_points(result: IsoFlop) -> Iterator[str]:
    N, D, C = (np.concatenate(v) for v in zip(*((s.N, s.D, np.full(len(s.N), s.C)) for s in result.sweeps)))
    if mistaken := mistaken_columns({"N": N, "D": D}, C):
        yield mistaken
    if result.left_out:
        yield f"{result.left_out} points are near none of the given budgets and were left out"
    if result.merged:
        yield f"{result.merged} points repeat a size at their budget; interpolation averages them"
    spread = max(sweep.spread for sweep in result.sweeps)
    if spread > 1.05:
        yield (
            f"C varies by {spread - 1:.0%} inside a budget: runs with more compute look better for it; "
            "prefer runs interpolated to one C, or the parametric law"
        )
    thin = [s for s in result.sweeps if np.unique(s.N).size < 5]
    if thin:
        yield f"{_of(thin, result)} {_have(thin)} fewer than 5 sizes ({_budgets(thin)}): their optima are weak"
    if result.optima.size < 4:
        yield f"only {result.optima.size} budgets have an optimum: exponents from so few are a rough guide"


def _about_edges(result: IsoFlop) -> Iterator[str]:
    alike = {}
    for budget, why in result.dropped:  # the number of each is in parentheses
        alike.setdefault(re.sub(r" \([^)]*\)", "", why), []).append((budget, why))
    for why, dropped in alike.items():
        if len(dropped) == 1:
            yield "budget {:.3g} dropped: {}".format(*dropped[0])
        else:
            yield f"{_of(dropped, result)} dropped ({_listed([budget for budget, _ in dropped])}): {why}"
    outside = [s for s, u in _positions(result) if abs(u) > 1]
    if outside:
        yield (
            f"{_of(outside, result)} {_have(outside)} an optimum outside the sizes tried ({_budgets(outside)}): "
            "it is extrapolated; add runs on that side"
        )
    if result.method == "akima":
        lonely = []
        for sweep, _ in _positions(result):
            x, y = merge_close(np.log(sweep.N), np.log(sweep.loss))
            if x.size >= 5 and int(np.argmin(y)) in (1, x.size - 2):
                lonely.append(sweep)
        if lonely:
            yield (
                f"{_of(lonely, result)} {_have(lonely)} a single size beyond the lowest ({_budgets(lonely)}): "
                "the optimum is at the edge of the sweep; add runs on that side"
            )


def _about_dips(result: IsoFlop) -> Iterator[str]:
    """An interpolant follows noise: with several dips in a sweep it is noise that picks the lowest."""
    if result.method != "akima":
        return
    dips = []
    for sweep in result.sweeps:
        _, y = merge_close(np.log(sweep.N), np.log(sweep.loss))
        if np.sum((y[1:-1] < y[:-2]) & (y[1:-1] < y[2:])) > 1:
            dips.append(sweep)
    if dips:
        yield (
            f"{_of(dips, result)} dip{_s(dips)} more than once ({_budgets(dips)}): noise picks the lowest; "
            "method='cubic' smooths it"
        )


def _about_shape(result: IsoFlop) -> Iterator[str]:
    positions = _positions(result)
    off = [s for s, u in positions if OFF_CENTER < abs(u) <= 1]
    if off:
        yield (
            f"{_of(off, result)} {_are(off)} swept off center ({_budgets(off)}): the optimum is in the outer half of "
            "the sizes tried" + ("" if result.method == "akima" else ", which biases a polynomial")
        )
    # Sizes tried relative to the optimum: a trend over budgets turns into a bias of the exponent.
    ratio = np.array([np.log(np.sqrt(s.N[0] * s.N[-1])) for s, _ in positions]) - np.log(result.optima.N)
    if result.method != "akima" and positions:
        slope = np.polyfit(np.log(result.optima.C), ratio, 1)[0]
        drift = np.exp(abs(slope) * np.ptp(np.log(result.optima.C)))
        if drift > 2:
            yield (
                f"the middle of the sweeps drifts by {drift:.1f}x against the optimum over the budgets: "
                f"a {result.method} turns that into a bias of the exponents"
            )
        wide = [s for s, _ in positions if s.span > WIDE]
        if wide:
            yield (
                f"{_of(wide, result)} span{_s(wide)} more than {WIDE:.0f}x in N ({_budgets(wide)}): too wide for "
                f"a {result.method}; use method='akima' or window=5"
            )


def _about_polynomial(result: IsoFlop, local: IsoFlop | None) -> Iterator[str]:
    """A polynomial over whole sweeps beside the local interpolation of the same points."""
    if result.method == "akima":
        return
    if local is None:
        yield (
            f"local interpolation finds no optimum to check the {result.method} against: "
            "the sweeps do not enclose the optimum"
        )
        return
    gap = abs(result.a - local.a)
    sure = np.nan_to_num(local.stderr["a"])
    _, ours, theirs = np.intersect1d(result.optima.C, local.optima.C, return_indices=True)
    apart = np.exp(np.max(np.abs(np.log(result.optima.N[ours] / local.optima.N[theirs])), initial=0.0))
    if gap > max(0.005, 2 * sure):
        yield (
            f"the {result.method} is unreliable here: it gives a = {result.a:.3f}, local interpolation of "
            f"the same points {local.a:.3f} +- {sure:.3f}, and their N* differ by up to {apart:.3g}x at one "
            "budget; use method='akima', window=5 or the parametric law"
        )


def _about_scatter(result: IsoFlop) -> Iterator[str]:
    scatter = float(np.max(result.widening))
    # Below a noise of 1e-5 the losses are computed, not measured, and any bend of the method exceeds it.
    if scatter > 2 and result.optima.size > 3 and result.noise > 1e-5:
        yield (
            f"the optima scatter {scatter:.1f}x more about a power law than noise of {result.noise:.2g} in "
            "ln loss explains: intervals are widened by that much"
        )
    if not result.samples.size and not result.noise > 0:
        yield "too few sizes per budget to see the noise: intervals come from the optima alone; pass noise="


def _positions(result: IsoFlop) -> list[tuple[Sweep, float]]:
    """(sweep, position of its optimum: -1 smallest size, 0 middle, 1 largest) of every budget with one."""
    optimum = dict(zip(result.optima.C.tolist(), np.log(result.optima.N)))
    out = []
    for sweep in result.sweeps:
        if sweep.C in optimum:
            low, high = np.log(sweep.N[0]), np.log(sweep.N[-1])
            out.append((sweep, (optimum[sweep.C] - (low + high) / 2) / ((high - low) / 2)))
    return out


def _of(some: Sized, result: IsoFlop) -> str:
    return f"{len(some)} of {len(result.sweeps)} budgets"


def _have(some: Sized) -> str:
    return "has" if len(some) == 1 else "have"


def _are(some: Sized) -> str:
    return "is" if len(some) == 1 else "are"


def _s(some: Sized) -> str:
    return "s" if len(some) == 1 else ""


def _budgets(some: Sequence[Sweep]) -> str:
    return _listed([s.C for s in some])


def _listed(budgets: Sequence[float], limit: int = 4) -> str:
    shown = ", ".join(f"{C:.3g}" for C in budgets[:limit])
    return shown + (", ..." if len(budgets) > limit else "")
