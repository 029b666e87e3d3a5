"""The result of IsoFLOP sweeps: optima, exponents and their intervals."""

from __future__ import annotations

import dataclasses

import numpy as np

from scaling_jax.fitting.data import check_level
from scaling_jax.fitting.optimal.power_law import Allocation, power_law
from scaling_jax.fitting.optimal.sweeps import Sweep, curve


@dataclasses.dataclass(frozen=True, repr=False)
class IsoFlop(Allocation):
    """Exponents of N* ~ C^a and D* ~ C^b from IsoFLOP sweeps. Made by `isoflop`.

    Attributes beside those of `Allocation`:
      optima: also has `.N_logstd .D_logstd`, the standard deviations of ln N* and ln D* under noise in the losses
        (`optima.N`, `optima["N"]` and `pandas.DataFrame(optima)` all work).
      method: akima, cubic or parabola.
      noise: standard deviation of ln loss that the intervals assume.
      sweeps: the sweeps as fitted.
      dropped: (budget, why) of those without an optimum.
      window: how many points around the lowest of each sweep were used; None for all.
      merged: how many points repeat a size at their budget.
      left_out: how many points are near none of the given budgets.
    """

    method: str
    noise: float
    sweeps: tuple[Sweep, ...]
    dropped: tuple[tuple[float, str], ...]
    window: int | None
    merged: int
    left_out: int

    @property
    def stderr(self) -> dict[str, float]:
        """Standard errors of a and b: the noise in the losses, widened where the optima scatter by more.

        Widened by max(1, s) with s = sqrt(chi^2 / (budgets - 2)) of the optima about the power law in units of
        their own noise (the scale factor of the Particle Data Group).
        """
        if not self.samples.size:
            return {"a": self.N_law.stderr, "b": self.D_law.stderr}
        return dict(zip("ab", (np.std(self.samples, axis=0) * self.widening).tolist()))

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Interval of a and b: percentiles of the resampled exponents about the estimate, widened as `stderr`.

        Falls back on Student's t about the line where the noise could not be estimated.
        """
        check_level(level)
        if not self.samples.size:
            from scipy.special import stdtrit

            reach = float(stdtrit(max(self.optima.size - 2, 1), (1 + level) / 2))
            return {k: (float(v - reach * s), float(v + reach * s)) for k, v, s in self._estimates()}
        tails = np.quantile(self.samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
        middle = np.median(self.samples, axis=0)
        low, high = (tails - middle) * self.widening
        return {k: (v + float(low[i]), v + float(high[i])) for i, (k, v, _) in enumerate(self._estimates())}

    def curve(self, i: int, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
        """(N, loss), each (points,): the curve drawn through sweep i, for figures."""
        N = np.geomspace(self.sweeps[i].N[0], self.sweeps[i].N[-1], points)
        N[[0, -1]] = self.sweeps[i].N[[0, -1]]  # geomspace can step past the ends by rounding
        return N, curve(self.method, self.sweeps[i], N)

    @property
    def widening(self) -> np.ndarray:
        """(2,) factors by which the optima scatter more than their noise explains, for a and b; at least 1."""
        laws = [power_law(self.optima.C, self.optima[k], self.optima[f"{k}_logstd"]) for k in "ND"]
        return np.array([max(1.0, np.nan_to_num(law.scatter)) for law in laws])

    def _estimates(self) -> list[tuple[str, float, float]]:
        return [("a", self.a, self.N_law.stderr), ("b", self.b, self.D_law.stderr)]

    def __repr__(self) -> str:
        lines = [
            f"IsoFLOP ({self.method}{f', window of {self.window}' if self.window else ''}): "
            f"{self.optima.size} of {len(self.sweeps)} budgets have an optimum",
            *self._exponent_lines(),
            f"  {'C':>10} {'N*':>10} {'D*':>10} {'loss*':>8} {'D*/N*':>8}",
        ]
        lines += [f"  {o.C:10.3g} {o.N:10.4g} {o.D:10.4g} {o.loss:8.4f} {o.D / o.N:8.1f}" for o in self.optima]
        lines += [f"  ! {warning}" for warning in self.warnings]
        return "\n".join(lines)
