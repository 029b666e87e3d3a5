"""What `scaling-jax fit` shows: the law, how sure it is, what is wrong with it, and what it decides."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import numpy as np

from scaling_jax import fitting
from scaling_jax.cli.fit_at import further_inputs
from scaling_jax.cli.fit_columns import Columns
from scaling_jax.fitting.optimal.allocation import law_columns
from scaling_jax.text import short, table


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything shown about one fit; computed when first asked for.

    Attributes:
      fit: the `Fit`. read: the columns it was made from. source: what the table is called.
      rows: how many rows the table has.
      level: of the intervals.
      intervals: where they come from, in words.
      target: compute of the run to plan; None for laws without N and D.
      budgets: nominal compute budgets of IsoFLOP sweeps; None finds them.
      cut: compute that separates fitted from judged runs in the hold-out; None for none.
      held: inputs of the law besides N and D -> what they are on the frontier.
    """

    fit: fitting.Fit
    read: Columns
    source: str
    rows: int
    level: float
    intervals: str
    target: float | None
    cut: float | None
    budgets: list[float] | None = None
    held: Mapping = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """Sections separated by empty lines; those that do not apply are left out."""
        sections = [
            self._head(), self._parameters(), self._warnings(), self._frontier(), self._holdout(), self._approaches(),
            self._sensitivity(),
        ]  # fmt: skip
        return "\n\n".join(section for section in sections if section)

    def figures(self) -> Iterator[tuple[str, object]]:
        """(name, figure) of every picture that applies."""
        from scaling_jax.report import fit_figures

        y_label = self.read.names["y"]
        if self.read.C is None:
            name = self.fit.law.inputs[0]
            label = self.read.names[name]
            if len(self.fit.law.inputs) == 1:
                yield "law", fit_figures.law_of_one(self.fit, level=self.level, y_label=y_label, x_label=label)
            else:
                yield "residuals", fit_figures.residuals(self.fit, self.fit.data[name], scale_label=label)
            return
        if not self._no_frontier:
            found = fit_figures.loss_vs_compute(
                self.fit, self.read.C, target_flops=self.target, level=self.level, y_label=y_label,
                frontier=self._frontier_at,
            )  # fmt: skip
            yield "loss", found
        yield "residuals", fit_figures.residuals(self.fit, self.read.C)
        if self.approaches is not None and self.approaches.isoflop is not None:
            yield "isoflop", fit_figures.isoflop(self.approaches.isoflop, y_label=y_label)
            optima = {
                "envelope": self.approaches.envelope, "IsoFLOP": self.approaches.isoflop,
            }  # fmt: skip
            yield (
                "allocation",
                fit_figures.allocation(
                    None if self._no_frontier else self._frontier_at,
                    {k: v.optima for k, v in optima.items() if v is not None},
                    self.target,
                    self.level,
                ),
            )

    @functools.cached_property
    def approaches(self) -> fitting.Approaches | None:
        """The three approaches, where the law is one of N and D and the runs have budgets; None otherwise."""
        nd = self.fit.law.nd(self.fit.data)
        if nd is None or further_inputs(self.fit.law) or not self.fit.law.lower_is_better:
            return None
        try:
            return fitting.approaches(
                *nd, self.read.C, self.fit.y,
                target=self.target, law=self.fit, budgets=self.budgets,
            )  # fmt: skip
        except fitting.FitError:
            return None

    @functools.cached_property
    def _no_frontier(self) -> str:
        """Why there is no frontier; empty when there is one."""
        if self.target is None:
            return "the law has no compute"
        untold = [k for k in further_inputs(self.fit.law) if k not in self.held]
        if untold and self.fit.law.lower_is_better:
            asked = ",".join(f"{k}=<value>" for k in untold)
            return f"{self.fit.law.name} also reads {', '.join(untold)}: say what it is at the target, --at={asked}"
        try:
            self._frontier_at(self.target)
        except fitting.FitError as error:
            return str(error)
        return ""

    def _frontier_at(self, C, level: float | None = None) -> fitting.Frontier:
        return self.fit.frontier(C, level=level, inputs=self.held or None)

    @functools.cached_property
    def _intervals(self) -> dict:
        """Parameter or exponent -> (low, high)."""
        return self.fit.interval(self.level)

    def _head(self) -> str:
        law, names = self.fit.law, self.read.names
        columns = ", ".join(f"{k} = {v}" for k, v in names.items() if k != "C")
        flops = f"; C = {names['C']}" if "C" in names else ""
        lines = [
            f"{law.name}: {law.equation}",
            f"  {law.reference}",
            f"  {self.fit.n} of {self.rows} rows of {self.source}: {columns}{flops}",
        ]
        return "\n".join(lines + [f"  {note}" for note in self.read.notes])

    def _parameters(self) -> str:
        fit = self.fit
        source, values = self.intervals, fit.params | fit.exponents
        rows = []
        for name, value in values.items():
            low, high = self._intervals.get(name, (np.nan, np.nan))
            held = name in fit.fixed or (name in fit.exponents and low == high)
            rows.append((name, f"{value:.6g}", "(fixed)" if held else f"[{low:.5g}, {high:.5g}]"))
        return "\n".join(
            [
                table(("parameter", "value", f"{self.level:.0%} interval"), rows),
                f"  intervals: {source}",
                f"  objective: {fit.objective} = {fit.objective_value:.8g}",
                f"  certificate: {'converged' if fit.converged else 'NOT CONVERGED'}, {fit.certificate}",
            ]
        )

    def _warnings(self) -> str:
        found = self.fit.warnings
        if not found:
            return "warnings: none"
        lines = ["warnings", *(f"  ! {w}" for w in found)]
        flagged = fitting.influence(self.fit, refits=0).flagged
        if flagged.size and not np.array_equal(self.read.rows[flagged], flagged):
            lines.append(f"  influential rows, as the table has them: {', '.join(map(str, self.read.rows[flagged]))}")
        return "\n".join(lines)

    def _frontier(self) -> str:
        if self._no_frontier:
            return (
                f"no frontier\n  {self._no_frontier}"
                if self.target is not None and self.fit.law.lower_is_better
                else ""
            )
        at = self._frontier_at(self.target, self.level)
        held = "".join(f", {k} = {getattr(v, 'text', None) or format(v, '.4g')}" for k, v in self.held.items())
        lines = [f"frontier at C = {self.target:.3g} FLOPs (C = 6 N D{held})"]
        y_name = self.read.names["y"]
        width = max(len("D*/N*"), len(y_name))
        for name, label, show in (("N", "N*", short), ("D", "D*", short), ("loss", y_name, "{:.4f}".format)):
            value = float(np.squeeze(getattr(at, name)))
            low, high = (float(np.squeeze(end)) for end in at.interval[name])
            lines.append(f"  {label:<{width}} {show(value):>8}  [{show(low)}, {show(high)}]")
        N, D = (float(np.squeeze(getattr(at, k))) for k in "ND")
        with np.errstate(all="ignore"):
            lines.append(f"  {'D*/N*':<{width}} {np.divide(D, N):>8.1f}")
        if 0 < N < np.inf and 0 < D < np.inf:  # else a term has left the law, which the warnings say
            there = law_columns(self.fit.law, N, D, self.held)
            lines.append(f"  {fitting.extrapolation(self.fit, there)}")
        return "\n".join(lines + [f"  ! {w}" for w in at.warnings])

    def _holdout(self) -> str:
        if self.cut is None:
            return ""
        scale = self.read.C if self.read.C is not None else None
        found = fitting.holdout(
            self.fit.law, self.fit.data, self.fit.y, cut=self.cut, C=scale, objective=self.fit.objective,
            weights=self.fit.weights, clusters=self.fit.clusters, fixed=self.fit.fixed,
        )  # fmt: skip
        return f"hold-out\n  {found}"

    def _approaches(self) -> str:
        return "" if self.approaches is None else f"three approaches\n{self.approaches}"

    def _sensitivity(self) -> str:
        counted = self.read.conventions or None
        found = fitting.sensitivity(self.fit, conventions=counted, target=self.target, inputs=self.held)
        lines = ["sensitivity to the analyst's choices", str(found)]
        spread = found.size_ratio()
        if spread is not None:
            lines.append(f"  N* at C = {found.target:.3g} varies {spread:.2f}x over these choices")
        return "\n".join(lines)


def resampled(fit: fitting.Fit, resamples: int, method: str) -> tuple[fitting.Fit, str]:
    """The fit with its intervals taken from a bootstrap, and the name of that bootstrap, or why there is none."""
    try:
        fit = fit.with_bootstrap(fit.bootstrap(resamples, seed=fit.seed, method=method))
    except fitting.FitError as error:
        return fit, str(error)
    clustered = fit.clusters is not None and method != "residual"
    kind = {"pairs": "cluster", "wild": "wild cluster"}[method] if clustered else method
    return fit, f"{kind} bootstrap, {resamples} resamples"
