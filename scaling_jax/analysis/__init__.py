"""A results table -> gates, fits, frontier: one frozen Analysis that text, figures, page and JSON are drawn from."""

from scaling_jax.analysis.analyse import Analysis, analyse
from scaling_jax.analysis.fits import AUTO, HoldOut
from scaling_jax.analysis.gates import MAX_HOLD_OUT_ERROR, Gate
from scaling_jax.analysis.runs import Runs

__all__ = ["AUTO", "MAX_HOLD_OUT_ERROR", "Analysis", "Gate", "HoldOut", "Runs", "analyse"]
