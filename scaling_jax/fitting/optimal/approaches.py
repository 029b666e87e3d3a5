"""The three approaches of Hoffmann et al. 2022 on one set of runs, side by side, with their disagreement."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from scaling_jax.fitting.data import check_positive
from scaling_jax.fitting.errors import FitError
from scaling_jax.fitting.fit import Fit, fit
from scaling_jax.fitting.laws.base import Law
from scaling_jax.fitting.laws.registry import find_law
from scaling_jax.fitting.optimal.allocation import best_sizes
from scaling_jax.fitting.optimal.envelope import Envelope, envelope
from scaling_jax.fitting.optimal.frontier import middle_of
from scaling_jax.fitting.optimal.isoflop import isoflop
from scaling_jax.fitting.optimal.isoflop_result import IsoFlop
from scaling_jax.fitting.optimal.sweeps import as_columns
from scaling_jax.text import short, table

LABELS = {
    "envelope": "1 envelope",
    "isoflop": "2 IsoFLOP, Akima",
    "parabola": "2 IsoFLOP, parabola",
    "parametric": "3 parametric law",
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The answer of one approach.

    Attributes:
      a: exponent of N* ~ C^a, at the target.
      b: exponent of D* ~ C^b, at the target.
      interval: 95% interval of a.
      N: N* at the target.
      D: D* at the target.
    """

    a: float
    b: float
    interval: tuple[float, float]
    N: float
    D: float


@dataclasses.dataclass(frozen=True, repr=False)
class Approaches:
    """All approaches that the runs allow. Made by `approaches`.

    Attributes:
      target: the compute at which N* and D* are compared.
      estimates: "envelope", "isoflop", "parabola", "parametric" -> `Estimate`, of those that worked.
      envelope: the `Envelope`; None where the approach is impossible, as below.
      isoflop: the `IsoFlop` by Akima.
      parabola: the `IsoFlop` by parabola.
      fit: the `Fit` of the parametric law.
      impossible: name -> why.
    """

    target: float
    estimates: dict[str, Estimate]
    impossible: dict[str, str]
    envelope: Envelope | None
    isoflop: IsoFlop | None
    parabola: IsoFlop | None
    fit: Fit | None

    @property
    def size_ratio(self) -> float:
        """Largest over smallest N* at the target; nan where no approach has one."""
        sizes = [self.estimates[name].N for name in self._sized]
        return max(sizes) / min(sizes) if sizes else float("nan")

    @property
    def _sized(self) -> list[str]:
        """Approaches with a size: a law that has lost a term has none."""
        return [name for name, estimate in self.estimates.items() if 0 < estimate.N < np.inf]

    @property
    def disagreement(self) -> list[str]:
        """How far the approaches are apart, in plain sentences."""
        out = []
        if len(self._sized) > 1:
            low, high = (f(self._sized, key=lambda k: self.estimates[k].N) for f in (min, max))
            out.append(
                f"at C = {self.target:.3g} N* is between {short(self.estimates[low].N)} ({LABELS[low]}) and "
                f"{short(self.estimates[high].N)} ({LABELS[high]}): {_times(self.size_ratio)} apart"
            )
        for one, other in itertools.combinations(self.estimates, 2):
            (low1, high1), (low2, high2) = self.estimates[one].interval, self.estimates[other].interval
            if low1 > high2 or low2 > high1:
                out.append(
                    f"{LABELS[one]} (a = {self.estimates[one].a:.3f}) and {LABELS[other]} "
                    f"(a = {self.estimates[other].a:.3f}) are incompatible at the 95% level"
                )
        return out

    @property
    def warnings(self) -> list[str]:
        """Those of the envelope, the sweeps and the law's frontier, each with the approach it is about.

        The law's own are `.fit.warnings`.
        """
        found = {"envelope": self.envelope, "isoflop": self.isoflop, "parabola": self.parabola}
        warnings = {k: v.warnings for k, v in found.items() if v is not None}
        if self.fit is not None and "parametric" in self.estimates:
            warnings["parametric"] = self.fit.frontier(self.target).warnings
        return [f"{LABELS[k]}: {w}" for k, sentences in warnings.items() for w in sentences]

    def __repr__(self) -> str:
        rows = [
            (
                LABELS[name],
                f"{e.a:.4f}",
                f"[{e.interval[0]:.3f}, {e.interval[1]:.3f}]",
                f"{e.b:.4f}",
                short(e.N),
                short(e.D),
                f"{e.D / e.N:.1f}",
            )
            for name, e in self.estimates.items()
        ]
        header = ("approach", "a", "95%", "b", f"N* at {self.target:.3g}", "D*", "D*/N*")
        reasons = dict.fromkeys(self.impossible.values())
        names = {why: " and ".join(LABELS[k] for k, w in self.impossible.items() if w == why) for why in reasons}
        lines = [table(header, rows)] + [f"  {name}: {why}" for why, name in names.items()]
        lines += [f"  {sentence}" for sentence in self.disagreement]
        return "\n".join(lines + [f"  ! {warning}" for warning in self.warnings])


def approaches(
    N: Any,
    D: Any,
    C: Any,
    loss: Any,
    *,
    target: float | None = None,
    budgets: Any = None,
    tolerance: float | None = None,
    law: str | Law | Fit = "chinchilla",
    seed: int = 0,
    **options: Any,
) -> Approaches:
    """Fits the envelope, IsoFLOP sweeps (by Akima and by parabola) and the parametric law to the same runs.

    Args:
      N: (n,) parameters of each run.
      D: (n,) tokens.
      C: (n,) training FLOPs.
      loss: (n,) final loss.
      target: compute at which N* and D* are compared; None takes ten times the largest C.
      budgets: nominal budgets; see `isoflop`.
      tolerance: relative difference of C inside a budget.
      law: the parametric law, of N and D; or a `Fit` of one to these runs, which is used as it is.
      seed: of the resampling behind the intervals.
      options: objective=, weights= and so on, for `fitting.fit`.

    Raises:
      FitError: values that are not finite and positive, an unknown law, or no approach works.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> C = np.repeat([1e18, 1e19, 1e20], 7)
      >>> N = np.sqrt(C / 120) * np.tile(np.logspace(-0.6, 0.6, 7), 3)
      >>> D = C / (6 * N)
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> {k: round(v.a, 2) for k, v in fitting.approaches(N, D, C, loss).estimates.items()}
      {'envelope': 0.5, 'isoflop': 0.51, 'parabola': 0.51, 'parametric': 0.51}
    """
    data = as_columns(N=N, D=D, C=C, loss=loss)
    if not isinstance(law, Fit):
        law = find_law(law)
    target = 10 * float(data["C"].max()) if target is None else check_positive(target, "target", "1e22")
    columns = (data["N"], data["D"], data["C"], data["loss"])
    grouping = {"budgets": budgets, "tolerance": tolerance, "seed": seed}

    def parametric() -> Fit:
        if isinstance(law, Fit):
            return law
        return fit(law, {"N": data["N"], "D": data["D"]}, data["loss"], seed=seed, **options)

    attempts: dict[str, Callable[[], Any]] = {
        "envelope": lambda: envelope(*columns, seed=seed),
        "isoflop": lambda: isoflop(*columns, **grouping),
        "parabola": lambda: isoflop(*columns, method="parabola", **grouping),
        "parametric": parametric,
    }
    return _compared(attempts, target)


def _compared(attempts: Mapping[str, Callable[[], Any]], target: float) -> Approaches:
    found, estimates, impossible = {}, {}, {}
    for name, attempt in attempts.items():
        try:
            found[name] = attempt()
            estimates[name] = (_parametric if name == "parametric" else _by_points)(found[name], target)
        except FitError as error:
            impossible[name] = str(error)
    if not estimates:
        raise FitError("no approach works on these runs: " + "; ".join(f"{k}: {v}" for k, v in impossible.items()))
    fits = {"fit" if k == "parametric" else k: found.get(k) for k in attempts}
    return Approaches(target=target, estimates=estimates, impossible=impossible, **fits)


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 100 else f"{ratio:.3g}x"


def _parametric(found: Fit, target: float) -> Estimate:
    at = found.frontier(target)
    N, D = (float(np.squeeze(getattr(at, k))) for k in "ND")
    if "a" in found.exponents:
        a, b = (found.exponents[k] for k in "ab")
        interval = found.interval(0.95)["a"]
    else:  # the frontier is not a power law: its slope at the target
        near = np.array([target, 1.01 * target])

        def slopes(params: Mapping[str, np.ndarray]) -> np.ndarray:
            sizes = best_sizes(found.law, params, near, middle=middle_of(found.ranges))[:2]
            with np.errstate(all="ignore"):
                return np.stack([np.log(v[:, 1] / v[:, 0]) / np.log(1.01) for v in sizes], axis=1)

        a, b = slopes({k: np.array([v]) for k, v in found.params.items()})[0].tolist()
        interval = tuple(found.interval_of(slopes, 0.95)[:, 0].tolist())
    return Estimate(a=a, b=b, interval=interval, N=N, D=D)


def _by_points(found: Envelope | IsoFlop, target: float) -> Estimate:
    at = found.frontier(target)[0]
    return Estimate(a=found.a, b=found.b, interval=found.interval(0.95)["a"], N=float(at.N), D=float(at.D))


@dataclasses.dataclass(frozen=True)
class CrossCheck:
    """IsoFLOP optima beside the parametric law on the same runs. Made by `cross_check`.

    Attributes:
      fit: the `Fit` of the law.
      a: exponent of N* ~ C^a by (the sweeps, the law).
      ratio: (budgets,) N* of the sweeps over N* of the law, at each budget with an optimum.
      warnings: sentences where they disagree by more than they are sure; empty when they agree.
    """

    fit: Fit
    a: tuple[float, float]
    ratio: np.ndarray
    warnings: list[str]


def cross_check(result: IsoFlop, law: str | Law = "chinchilla", **options: Any) -> CrossCheck:
    """Compares the optima of IsoFLOP sweeps with a parametric law fitted to the same runs.

    Args:
      result: of `isoflop`.
      law: the law, a name or a `Law`.
      options: objective=, seed= and so on, for `fitting.fit`.

    Returns:
      `CrossCheck`, whose `.warnings` are empty where the two agree.

    Raises:
      FitError: the law cannot be fitted to these runs.

    Example:
      >>> import numpy as np
      >>> from scaling_jax import fitting
      >>> C = np.repeat([1e18, 1e19, 1e20], 7)
      >>> N = np.sqrt(C / 120) * np.tile(np.logspace(-0.6, 0.6, 7), 3)
      >>> D = C / (6 * N)
      >>> loss = 1.7 + 480 / N**0.35 + 2100 / D**0.37
      >>> fitting.cross_check(fitting.isoflop(N, D, C, loss)).warnings
      []
    """
    columns = {k: np.concatenate([getattr(s, k) for s in result.sweeps]) for k in ("N", "D", "loss")}
    fitted = fit(law, {"N": columns["N"], "D": columns["D"]}, columns["loss"], **options)
    ratio = result.optima.N / fitted.frontier(result.optima.C).N
    ours, theirs = result.a, _parametric(fitted, float(result.optima.C[-1])).a
    sure = np.hypot(result.stderr["a"], fitted.stderr.get("a", 0.0))
    found = []
    if abs(ours - theirs) > max(0.005, 2 * sure):
        found.append(
            f"the sweeps give a = {ours:.3f} and {fitted.law.name} on the same runs {theirs:.3f}, "
            f"{abs(ours - theirs) / max(sure, 1e-12):.1f} standard errors apart"
        )
    # A constant factor moves no exponent, but it is a different recommendation.
    middle = float(np.exp(np.median(np.log(ratio))))
    noise = float(np.median(result.optima.N_logstd)) / np.sqrt(ratio.size)
    if abs(np.log(middle)) > max(0.1, 2 * noise):
        found.append(f"N* of the sweeps is {middle:.2f}x that of {fitted.law.name} at the same budgets")
    return CrossCheck(fit=fitted, a=(ours, theirs), ratio=ratio, warnings=found)
