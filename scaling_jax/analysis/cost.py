"""Exact training FLOPs beyond the ladder: what a token costs a model of N parameters."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from scaling_jax.text import short

MAX_MISFIT = 0.1
SAME_AS_6ND = 0.01  # of 6 N D: rounding of N or D explains less


@dataclasses.dataclass(frozen=True)
class Cost:
    """C = N D x 6 x (1 + excess (N / N0)^slope): what attention and the output head add shrinks as models grow.

    Attributes:
      excess, slope, N0: of the power law through the scales' FLOPs per token over 6 N; slope <= 0.
      misfit: largest relative error on a scale.
    """

    excess: float
    slope: float
    N0: float
    misfit: float

    def __call__(self, N: np.ndarray | float, D: np.ndarray | float) -> np.ndarray | float:
        """FLOPs of training N parameters on D tokens; broadcasts."""
        return 6.0 * N * D * (1.0 + self.excess * (N / self.N0) ** self.slope)

    @property
    def is_6nd(self) -> bool:
        """True where it is 6 N D up to rounding of N and D."""
        return abs(self.excess) < SAME_AS_6ND

    def __str__(self) -> str:
        about = f" (to {self.misfit:.1%})" if self.misfit > 5e-4 else ""
        return f"exact training FLOPs{about}, {1 + self.excess:.2f} x 6ND at N = {short(self.N0)}"


def flops_cost(runs: pd.DataFrame) -> Cost | None:
    """The cost through the runs' own FLOPs (columns N, D, C), or None where no such law is within 10% of them.

    Args:
      runs: one row per run.
    """
    if runs.empty:
        return None
    per_size = (runs.C / (6 * runs.N * runs.D)).groupby(runs.N).mean()
    N, excess = per_size.index.to_numpy(float), per_size.to_numpy() - 1
    N0 = float(N[-1])
    if np.ptp(per_size) < 1e-9 * per_size.max():
        return Cost(float(excess[-1]), 0.0, N0, 0.0)
    if not (excess > 0).all() and not (excess < 0).all():
        return None
    slope, level = np.polyfit(np.log(N / N0), np.log(np.abs(excess)), 1)
    slope = min(float(slope), 0.0)
    level = float(np.mean(np.log(np.abs(excess)) - slope * np.log(N / N0)))
    cost = Cost(float(np.sign(excess[0]) * np.exp(level)), slope, N0, 0.0)
    misfit = float(np.max(np.abs(cost(N, 1.0) / (6 * N * per_size) - 1)))
    return dataclasses.replace(cost, misfit=misfit) if misfit <= MAX_MISFIT else None
