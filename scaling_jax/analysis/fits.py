"""The law fitted to the runs, with the bootstrap that its intervals come from."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis.runs import Runs
from scaling_jax.errors import UserError
from scaling_jax.fitting.selection import Selection
from scaling_jax.fitting.sensitivity import refit_near, starts_near
from scaling_jax.formula import Formula
from scaling_jax.study import Fit as Settings

PARAM_COLUMNS = ("name", "value", "low", "high")
# Laws of N and D alone that a ladder of a few dozen runs can carry (Farseer's nine parameters it cannot).
CANDIDATES = ("chinchilla", "chinchilla_outer", "kaplan")
FOR_REPEATED = "data_constrained"  # a candidate beside them where runs see data again
EARNS_ITS_PARAMETERS = 0.9  # of the next best error; as good as a law that it contains is not a reason to take it
MANY = 4_000  # independent rows beyond which resamples take minutes to refit and give the normal distribution
EXACT = 1e-5  # root mean square of ln y below which a law's error is rounding: fewer digits of a loss are written down


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fit and its bootstrap; without one all intervals are nan.

    Attributes:
      fit: of the law to the chosen runs.
      bootstrap: refits on resamples, or None.
      source: where the intervals come from, in a few words.
    """

    fit: fitting.Fit
    bootstrap: Any
    source: str

    def intervals(self, level: float) -> dict[str, tuple[float, float]]:
        """Parameter or exponent -> (low, high)."""
        return self.fit.interval(level) if self.bootstrap is not None else {}

    def predict(self, inputs: Mapping[str, np.ndarray], level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, low, high), each (n,): the law's mean, without the scatter of one run."""
        if self.bootstrap is None:
            value = self.fit.predict(inputs)
            return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
        value, (low, high) = self.fit.predict(inputs, level=level)
        return value, low, high

    def frontier(
        self, C: np.ndarray, level: float | None, cost: Callable | None, inputs: Mapping | None, max_N: float | None
    ) -> Any:
        """`Fit.frontier` with the bootstrap's intervals."""
        level = level if self.bootstrap is not None else None
        return self.fit.frontier(C, cost=cost, level=level, inputs=inputs, max_N=max_N)


def objective(settings: Settings) -> fitting.Objective:
    """The objective that the settings name."""
    makers: dict[str, Callable] = {
        "huber": functools.partial(fitting.Huber, settings.huber_delta),
        "lad": fitting.LAD,
        "least_squares": fitting.LeastSquares,
        "log_least_squares": functools.partial(fitting.LeastSquares, log=True),
    }
    return makers[settings.objective](overestimate_penalty=settings.overestimate_penalty)


def law_inputs(law: fitting.Law, runs: Runs, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The law's inputs from the chosen runs, or some rows of them.

    Raises:
      FitError: an input that the runs do not have.
    """
    chosen = runs.chosen
    columns = {k: chosen[k].to_numpy(float) for k in ("N", "D")} | dict(runs.inputs)
    columns.setdefault("x", chosen["C"].to_numpy(float))
    if law.from_nd is not None:
        columns |= law.from_nd({"N": columns["N"], "D": columns["D"]})
    missing = [k for k in law.inputs if k not in columns and k not in chosen]
    if missing:
        raise fitting.FitError(f"law {law.name!r} reads {missing[0]!r}, which the results table does not have")
    found = {k: columns[k] if k in columns else chosen[k].to_numpy(float) for k in law.inputs}
    return found if rows is None else {k: v[rows] for k, v in found.items()}


def fit_law(
    runs: Runs,
    settings: Settings,
    *,
    law: str | None = None,
    rows: np.ndarray | None = None,
    resample: bool = True,
    near: fitting.Fit | None = None,
) -> Fitted:
    """The law through y of the chosen runs, bootstrapped by whole trunks: the branches off one are not independent.

    Args:
      runs: of the table.
      settings: of the fit.
      law: instead of the one in the settings.
      rows: (n,) positions of the chosen runs that are fitted; None for all.
      resample: whether to bootstrap.
      near: a fit of the same law to nearly the same runs, whose optimum the search starts from; None searches widely.

    Raises:
      FitError: too few or too uniform runs for this law.
    """
    chosen_law = fitting.laws[law or settings.law]
    rows = np.arange(len(runs.chosen)) if rows is None else rows
    fixed = {k: v for k, v in settings.fixed.items()} if law is None else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fitting.FitWarning)  # reported by the checks
        fit = fitting.fit(
            chosen_law, law_inputs(chosen_law, runs, rows), runs.chosen.y.to_numpy(float)[rows],
            objective=objective(settings), weights=None if runs.weights is None else runs.weights[rows],
            clusters=None if runs.clusters is None else runs.clusters[rows], seed=settings.seed, fixed=fixed or None,
            starts=None if near is None else starts_near(near),
        )  # fmt: skip
    if not resample or settings.bootstrap < 2:
        return Fitted(fit, None, "no bootstrap")
    many = (len(rows) if runs.clusters is None else len(pd.unique(runs.clusters[rows]))) > MANY
    try:
        method = "normal" if many else settings.resampling
        boot = fit.bootstrap(settings.bootstrap, seed=settings.seed, method=method)
    except fitting.FitError as error:
        return Fitted(fit, None, str(error))
    if many:
        source = f"normal approximation, sandwich covariance (more than {MANY:,} independent rows)"
        return Fitted(fit.with_bootstrap(boot), boot, source)
    clustered = runs.clusters is not None and settings.resampling != "residual"
    kind = {"pairs": "cluster", "wild": "wild cluster"}[settings.resampling] if clustered else settings.resampling
    return Fitted(fit.with_bootstrap(boot), boot, f"{kind} bootstrap, {settings.bootstrap} resamples")


def choose_law(runs: Runs, settings: Settings, below: np.ndarray) -> tuple[str, Selection | None, str]:
    """The candidate that extrapolates best within the runs below the hold-out cut; the others are not used.

    Args:
      runs: of the table.
      settings: of the fit.
      below: (n,) chosen runs that are not held out.

    Returns:
      (name, the ranking, ""), or (the first candidate, None, why there is no ranking).
    """
    seen = runs.chosen[below]
    repeated = runs.repeated is not None and "U" in runs.chosen
    candidates = (*CANDIDATES, FOR_REPEATED) if repeated else CANDIDATES
    columns = {name: seen[name].to_numpy() for name in ("N", "D", "U") if name in seen}
    try:
        ranking = fitting.select(
            candidates, columns, seen.y.to_numpy(), C=seen["C"].to_numpy(), objective=objective(settings)
        )
    except fitting.FitError as error:
        return CANDIDATES[0], None, f"the law is {CANDIDATES[0]}, since none could be chosen: {error}"
    best, *others = ranking.candidates
    if best.name == FOR_REPEATED and others and max(best.score, EXACT) > EARNS_ITS_PARAMETERS * others[0].score:
        ranking = dataclasses.replace(ranking, candidates=[others[0], best, *others[1:]])
    return ranking.candidates[0].name, ranking, ""


def params_table(fitted: Fitted, level: float) -> pd.DataFrame:
    """Parameters and derived exponents: name, value, low, high; the ends are nan without a bootstrap."""
    fit = fitted.fit
    values = dict(fit.params) | {k: v for k, v in fit.exponents.items() if k not in fit.params}
    ends = fitted.intervals(level)
    rows = [(name, value, *ends.get(name, (np.nan, np.nan))) for name, value in values.items()]
    return pd.DataFrame(rows, columns=list(PARAM_COLUMNS))


def exponents_by_choice(fit: fitting.Fit, runs: Runs) -> dict[str, float]:
    """Exponent a as fitted, by least squares in ln y, and with every other count of N; empty for laws without one."""
    if "a" not in fit.exponents or "N" not in fit.law.inputs or fit.data is None:
        return {}
    out = {"as fitted": fit.exponents["a"]}
    others: dict[str, tuple[dict, fitting.Objective]] = {"least squares": ({}, fitting.LeastSquares(log=True))}
    others |= {name: ({"N": values}, fit.objective) for name, values in runs.conventions.items()}
    every = np.arange(len(fit.y))
    for name, (changed, other) in others.items():
        with contextlib.suppress(fitting.FitError):
            out[name] = refit_near(fit, {**fit.data, **changed}, every, other).exponents["a"]
    return out


def further_inputs(law: fitting.Law) -> tuple[str, ...]:
    """Inputs of a law that N and D do not give: its frontier needs their values."""
    return () if law.from_nd is not None else tuple(k for k in law.inputs if k not in ("N", "D"))


def has_frontier(law: fitting.Law) -> bool:
    """Returns True where N and D are inputs that the law's y decreases in."""
    return law.lower_is_better and (law.from_nd is not None or {"N", "D"} <= set(law.inputs))


def parse_inputs(law: fitting.Law, texts: Mapping[str, str], flag: str = "--at") -> dict[str, float | Callable]:
    """{"U": "1e11", "width": "sqrt(N/288)"} -> values and functions of (N, D), as `Fit.frontier(inputs=)` takes them.

    Raises:
      UserError: an input that the law does not have or that the frontier chooses itself, a formula that cannot be
        read, or one that is not positive.
    """
    wanted = further_inputs(law)
    out: dict[str, float | Callable] = {}
    for name, text in texts.items():
        if not has_frontier(law):
            raise UserError(f"{flag}={name}={text}: {law.name} of {', '.join(law.inputs)} has no frontier of N and D")
        if name not in wanted:
            takes = f"takes {', '.join(wanted)}" if wanted else "needs none: it chooses N and D"
            raise UserError(f"{flag}={name}={text}: the frontier of {law.name} {takes}")
        try:
            formula = Formula(text, ("N", "D"))
        except ValueError as error:
            why = f": {error}" if str(error) else ""
            raise UserError(
                f"{flag}={name}={text} cannot be read{why}; give a number or arithmetic of N and D, e.g. "
                f"{flag}={name}=1e11 or {flag}={name}=sqrt(N/288)"
            ) from None
        with np.errstate(all="ignore"):
            probe = float(formula(N=1e9, D=1e10))
        if not (np.isfinite(probe) and probe > 0):
            raise UserError(f"{flag}={name}={text} is {probe:g} at N=1e9, D=1e10: give something positive and finite")
        out[name] = OfND(formula) if formula.used else probe
    return out


@dataclasses.dataclass(frozen=True)
class OfND:
    """A formula as a function of (N, D) that broadcasts."""

    formula: Formula

    def __call__(self, N: np.ndarray | float, D: np.ndarray | float) -> np.ndarray:
        return np.broadcast_to(self.formula(N=N, D=D), np.broadcast_shapes(np.shape(N), np.shape(D)))

    def __str__(self) -> str:
        return self.formula.text


def frontier_inputs(law: fitting.Law, runs: Runs, settings: Settings) -> dict[str, float | Callable] | None:
    """Values of the law's inputs besides N and D on the frontier.

    The unique tokens of our own tables are the data at hand: the most of any run.

    Raises:
      UserError: the settings' inputs cannot be read.
      FitError: an input is not given.
    """
    given = parse_inputs(law, settings.inputs)
    if "U" in further_inputs(law) and "U" not in given and runs.ours:
        given["U"] = float(runs.chosen["U"].max())
    missing = [k for k in further_inputs(law) if k not in given]
    if missing:
        asked = ",".join(f"{k}=<value>" for k in missing)
        raise fitting.FitError(
            f"{law.name} also reads {', '.join(missing)}: give its value at the target, --at={asked}"
        )
    return given or None
