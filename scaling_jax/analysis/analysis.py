"""One Analysis of a table of runs: everything that is shown is drawn from it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings as python_warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.approaches import other_laws, side_by_side
from scaling_jax.analysis.checks import Check, Evidence, run_checks, verdict
from scaling_jax.analysis.cost import Cost, flops_cost
from scaling_jax.analysis.fits import (
    PARAM_COLUMNS,
    Fitted,
    exponents_by_choice,
    frontier_inputs,
    has_frontier,
    law_inputs,
    params_table,
    parse_inputs,
)
from scaling_jax.analysis.frames import rows_of
from scaling_jax.analysis.hold_out import HoldOut, hold_out, without_each_scale
from scaling_jax.analysis.isoflop import Sweeps, isoflop_sweeps
from scaling_jax.analysis.optima import COLUMNS, Best, best_runs
from scaling_jax.analysis.resources import Budget, Resource, each_budget, resources
from scaling_jax.analysis.runs import Runs, over_seeds, same_budget, y_name
from scaling_jax.analysis.shifts import Linearized
from scaling_jax.fitting.selection import Selection
from scaling_jax.study import Fit
from scaling_jax.study import HoldOut as Cut
from scaling_jax.text import listed, plural

TARGETS = (10.0, 100.0)
LADDER_ROWS, CURVE_POINTS = 3, 25
FRONTIER = (*COLUMNS[:-1], "beyond", COLUMNS[-1])


@dataclasses.dataclass(frozen=True, repr=False)
class Analysis:
    """The answer that a table of runs gives; the text, the figures, the page and the JSON only show it.

    The law is fitted at once; everything else is computed when it is first asked for.

    Attributes:
      name: of the study or the table.
      settings: of the fit, with the law that was chosen.
      cut: which runs are held out.
      runs: the table, sorted into what is fitted and what is not.
      curves: learning curves as given, or None.
      selection: the ranking that chose the law where the settings left it open ("auto"), or None.
      fitted: the law through all chosen runs with its bootstrap, or None; `no_fit` says why.
      notes: sentences on how the table was read and what was not fitted.
      also: the analyses of further metrics, by name.
      planned: the most parameters that `settings.max_memory` holds by the plan's estimate, where a plan was asked.

    Example:
      >>> import numpy as np, pandas as pd
      >>> from scaling_jax import analysis, study
      >>> grid = [(n, d) for n in (1e7, 3e7, 1e8, 3e8) for d in (1e9, 4e9, 1.6e10)]
      >>> table = pd.DataFrame(grid, columns=["params", "tokens"])
      >>> table["loss"] = 1.8 + 420 / table.params**0.35 + 900 / table.tokens**0.31
      >>> found = analysis.analyse(table, fit=study.Fit(bootstrap=0))
      >>> round(found.fit.params["alpha"], 3)
      0.35
    """

    name: str
    settings: Fit
    cut: Cut
    runs: Runs
    curves: pd.DataFrame | None
    selection: Selection | None
    fitted: Fitted | None
    no_fit: str
    notes: tuple[str, ...]
    also: Mapping[str, Analysis] = dataclasses.field(default_factory=dict)
    planned: float | None = None

    def __repr__(self) -> str:
        law = self.settings.law if self.fitted is not None else f"no law fitted: {self.no_fit}"
        return f"<Analysis of {self.name}: {plural(self.used, 'run')}, {law}>"

    @property
    def fit(self) -> fitting.Fit | None:
        """The law through all chosen runs."""
        return None if self.fitted is None else self.fitted.fit

    @property
    def metric(self) -> str:
        """The fitted quantity in a word or two."""
        if self.settings.metric == "loss":
            return self.runs.names.get("y", "loss")
        return y_name(self.settings.metric)

    @property
    def unit(self) -> str:
        """The unit of D: tokens or samples."""
        if self.runs.table.get("accuracy", pd.Series(dtype=float)).notna().any():
            return "samples"
        return "samples" if "sample" in self.runs.names.get("D", "") else "tokens"

    @property
    def y_label(self) -> str:
        """y in words."""
        if self.metric != "loss":
            return f"validation {self.metric}" + (" (1 - accuracy)" if self.metric == "error" else "")
        return f"validation loss (nats per {self.unit[:-1]})"

    @property
    def used(self) -> int:
        """Number of runs that the law is fitted to."""
        return len(self.runs.chosen)

    @property
    def dataset_hash(self) -> str | None:
        """Identity of the corpus that all finished runs share."""
        chosen = self.runs.chosen
        return str(chosen.dataset_hash.iloc[0]) if len(chosen) and "dataset_hash" in chosen else None

    @functools.cached_property
    def cost(self) -> Cost | None:
        """C beyond the runs; None is 6ND."""
        if not self.runs.has_compute:
            return None
        found = flops_cost(self.runs.chosen)
        return None if found is None or found.is_6nd else found

    @property
    def cost_note(self) -> str:
        """A note on how C is counted on the frontier."""
        if self.cost is not None:
            return f"C is {self.cost}"
        return f"C = 6 N D with N = {self.runs.names.get('N', 'N')}"

    @functools.cached_property
    def params(self) -> pd.DataFrame:
        """One row per parameter and derived exponent: name, value, low, high."""
        if self.fitted is None:
            return pd.DataFrame(columns=list(PARAM_COLUMNS))
        return params_table(self.fitted, self.settings.level)

    @functools.cached_property
    def _held(self) -> tuple[HoldOut | None, str]:
        if self.fitted is None:
            return None, "no law was fitted"
        return hold_out(self.runs, self.settings, self.cut)

    @property
    def hold_out(self) -> HoldOut | None:
        """The blind prediction of the most expensive runs, or None."""
        return self._held[0]

    @property
    def no_hold_out(self) -> str:
        """The reason where there is none."""
        return self._held[1]

    @property
    def targets(self) -> tuple[float, ...]:
        """Compute at which the frontier is read off beyond the ladder, ascending."""
        if not self.runs.has_compute:
            return ()
        largest = float(self.runs.chosen.C.max())
        return tuple(sorted(self.settings.target_flops)) or tuple(factor * largest for factor in TARGETS)

    @functools.cached_property
    def _frontiers(self) -> tuple[pd.DataFrame, pd.DataFrame, str, tuple[str, ...]]:
        """(rows to read, dense rows to draw, why there are none, what is doubtful)."""
        none = pd.DataFrame(columns=list(FRONTIER))
        if self.fitted is None:
            return none, none, self.no_fit, ()
        law = self.fitted.fit.law
        if not has_frontier(law) or not self.runs.has_compute:
            return none, none, "", ()
        if self.runs.suspect_units:
            return none, none, self.runs.suspect_units, ()
        C = self.runs.chosen.C
        rows = np.unique([*np.geomspace(C.min(), C.max(), LADDER_ROWS), *self.targets])
        dense = np.unique([*np.geomspace(rows[0], rows[-1], CURVE_POINTS), *rows])
        try:
            curve, _, doubts = self.best_runs(dense)
        except fitting.FitError as error:
            return none, none, str(error), ()
        curve = curve.assign(beyond=curve.C / C.max())[list(FRONTIER)]
        return curve[np.isin(dense, rows)].reset_index(drop=True), curve, "", doubts

    def best_runs(self, C: Any, cost: Any = None, max_N: float | None = None) -> Best:
        """The best runs of budgets C in the unit of a cost (None: FLOPs), with N of at most `max_N`: see `optima`.

        Raises:
          FitError: neither the law nor the forecast has a frontier, or the cap leaves nothing.
        """
        assert self.fitted is not None, self.no_fit
        C, found = np.atleast_1d(np.asarray(C, float)), None
        for beyond in (np.inf, self.targets[0]):  # far out there may be no answer where there is one nearby
            near = C if cost is not None else C[beyond * 1.0001 >= C]
            found = self.forecast_frontier(near, cost, max_N) if len(near) else found
            if found is None or found.answer:
                break
        law = self.fitted.fit.law
        return best_runs(
            self.fitted, C, forecast=self.forecast, found=found, cost=cost or self.cost,
            inputs=frontier_inputs(law, self.runs, self.settings) if has_frontier(law) else None,
            level=self.settings.level, max_N=max_N,
        )  # fmt: skip

    def forecast_frontier(self, C: Any, cost: Any = None, max_N: float | None = None) -> Any:
        """The forecast's frontier at budgets C, `.answer` False where there is none; None without a forecast."""
        key = (np.atleast_1d(np.asarray(C, float)).tobytes(), cost, max_N)
        if key not in self._frontiers_of_forecast and self.forecast is not None:
            with contextlib.suppress(fitting.FitError):
                found = self.forecast.frontier(C, cost=cost or self.cost, max_N=max_N)
                self._frontiers_of_forecast[key] = found
        return self._frontiers_of_forecast.get(key)

    _frontiers_of_forecast = functools.cached_property(lambda self: {})

    @functools.cached_property
    def resources(self) -> tuple[dict[str, Resource], str]:
        """(what runs take besides FLOPs as laws of N, whose runs): see `resources.resources`."""
        return resources(self.runs.table, self.settings.level)

    @functools.cached_property
    def budgets(self) -> tuple[tuple[Budget, ...], str]:
        """(the best model of each kind of budget at the first target, why one is missing)."""
        if not len(self.frontier):
            return (), self.no_frontier or "the law has no frontier of N and D"
        first = self.frontier[np.isclose(self.frontier.C, self.targets[0])].iloc[0]
        return each_budget(self.best_runs, first, self.settings, self.resources[0], self.planned)

    @property
    def frontier(self) -> pd.DataFrame:
        """Loss-minimal rows over the ladder's range and at the targets.

        Columns: C, N, D, loss, each of the last three with _low and _high, beyond = C / largest C of a run, law_loss:
        the law's own where `loss` is the forecast's.
        """
        return self._frontiers[0]

    @property
    def curve(self) -> pd.DataFrame:
        """The same, dense, for figures."""
        return self._frontiers[1]

    @property
    def no_frontier(self) -> str:
        """The reason for no frontier; "" where there is one, or the law has none."""
        return self._frontiers[2]

    @functools.cached_property
    def forecast(self) -> fitting.Forecast | None:
        """`fitting.Forecast` of the runs: intervals that are valid beyond the data; None where it cannot be made."""
        fit = self.fit
        if fit is None or not self.runs.decided_by_compute or self.settings.bootstrap < 2 or fit.fixed:
            return None
        if (
            fit.law.nd(fit.data) is None
            or not fit.law.lower_is_better
            or not (fit.y > 0).all()
            or self.runs.suspect_units
        ):
            return None
        chosen, trunk = self.runs.chosen, self.runs.clusters
        data = {"N": chosen.N.to_numpy(float), "D": chosen.D.to_numpy(float)}
        try:
            with python_warnings.catch_warnings():
                python_warnings.simplefilter("ignore", fitting.FitWarning)
                y, C = chosen.y.to_numpy(float), chosen.C.to_numpy(float)
                return fitting.forecast(data, y, C=C, clusters=trunk, level=self.settings.level)
        except fitting.FitError:
            return None

    @functools.cached_property
    def isoflop(self) -> Sweeps:
        """IsoFLOP curves of the runs."""
        if not self.runs.decided_by_compute or not (self.runs.chosen.y > 0).all():
            return Sweeps(
                pd.DataFrame(columns=["budget", "scale", "N", "D", "y"]), False, None, "the runs have no compute"
            )
        return isoflop_sweeps(self.runs.chosen, self.runs.noise, self.settings.isoflop_budgets)

    @functools.cached_property
    def envelope(self) -> fitting.Envelope | None:
        """The lower hull of the runs, seeds averaged, or None where fewer than two are on it."""
        if not self.runs.decided_by_compute or not (self.runs.chosen.y > 0).all():
            return None
        runs, _ = over_seeds(self.runs.chosen)
        try:
            # Of runs of one budget the best counts, not the one that rounding made a little cheaper.
            return fitting.envelope(runs.N, runs.D, same_budget(runs.C), runs.y)
        except fitting.FitError:
            return None

    @functools.cached_property
    def approaches(self) -> pd.DataFrame:
        """One row per law and approach: approach, a (N* ~ C^a), low, high, N (N* at the largest target)."""
        if not len(self.frontier) or self.fitted is None:
            return pd.DataFrame(columns=["approach", "a", "low", "high", "N"])
        target = float(self.frontier.C.iloc[-1])
        laws = {self.settings.law: (self.fitted.fit, float(self.frontier.N.iloc[-1]))}
        laws |= other_laws(self.selection, self.runs, self.settings, self.cost, target)
        own = self.params.set_index("name")
        interval = (float(own.low.get("a", np.nan)), float(own.high.get("a", np.nan)))
        return side_by_side(
            laws, interval, self.isoflop, self.envelope, self.forecast_frontier, target, self.settings.level
        )

    @functools.cached_property
    def without_scale(self) -> dict[str, float]:
        """Scale -> N* at the first target with that scale left out; nan where it is then undetermined.

        Empty where there are too few scales, or so many that no one of them can matter.
        """
        if not len(self.frontier) or self.fit is None:
            return {}
        return without_each_scale(self.runs, self.settings, self.fit, self.targets[0], self.cost)

    @functools.cached_property
    def sensitivity(self) -> Any:
        """The fit under other objectives, without influential points and with other counts of N; None without a fit."""
        if self.fitted is None or self.fitted.fit.law.custom:
            return None
        target = self.targets[-1] if len(self.frontier) else None
        try:
            inputs = parse_inputs(self.fitted.fit.law, self.settings.inputs) or None
            return fitting.sensitivity(
                self.fitted.fit, conventions=dict(self.runs.conventions) or None, target=target, inputs=inputs
            )
        except fitting.FitError:
            return None

    @functools.cached_property
    def exponents(self) -> dict[str, float]:
        """Exponent a as fitted, by least squares in ln y, and with every other count of N."""
        return {} if self.fit is None else exponents_by_choice(self.fit, self.runs)

    @functools.cached_property
    def linearized(self) -> Linearized | None:
        """The law linearized at its fit, for tests of shifts; None without a fit of positive y."""
        fit = self.fit
        if fit is None or not (self.runs.chosen.y > 0).all() or not np.all(fit.predict(fit.data) > 0):
            return None
        return Linearized(fit, law_inputs(fit.law, self.runs), self.runs.chosen)

    @functools.cached_property
    def checks(self) -> tuple[Check, ...]:
        """Every check: failures first, then warnings, then checks that cannot tell, then passes."""
        # A cached_property meets a protocol's property, which pyright does not see.
        return run_checks(cast(Evidence, self))

    @functools.cached_property
    def _verdict(self) -> tuple[str, list[str]]:
        return verdict(self.checks)

    @property
    def verdict(self) -> str:
        """ "trust", "caution" or "no answer"."""
        return self._verdict[0]

    @property
    def reasons(self) -> list[str]:
        """Reasons against trusting the answer, most important first; empty only with "trust"."""
        return list(self._verdict[1])

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        """The sentences of the fit, its frontier and its IsoFLOP curves on what makes the numbers less sure."""
        out: list[str] = []
        if self.fitted is not None:
            out += [w for w in self.fitted.fit.warnings]
            flagged = fitting.influence(self.fitted.fit, refits=0).flagged
            if len(flagged):
                rows = rows_of(self.runs.chosen.iloc[flagged])
                names = listed(f"row {i} is {run.run_id}" for i, run in zip(flagged, rows))
                out.append(f"of the influential points, {names}")
        out += self._frontiers[3]
        if self.isoflop.found is not None:
            out += [f"IsoFLOP: {sentence}" for sentence in self.isoflop.found.warnings]
        return tuple(out)
