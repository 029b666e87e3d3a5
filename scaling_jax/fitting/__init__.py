"""Scaling laws: fits with honest uncertainty, and the compute-optimal frontier.

    from scaling_jax import fitting
    fit = fitting.fit("chinchilla", {"N": N, "D": D}, loss)
    print(fit)

Everything runs on the CPU in float64, starts no JAX backend and leaves JAX's configuration as it was.
"""

from scaling_jax.fitting.comparison import Comparison, compare
from scaling_jax.fitting.curve import CurveFit, fit_curves
from scaling_jax.fitting.errors import DataError, FileError, FitError, FitWarning, LawError
from scaling_jax.fitting.fit import Fit, fit, load
from scaling_jax.fitting.forecast import Forecast, forecast
from scaling_jax.fitting.holdout import extrapolation, holdout
from scaling_jax.fitting.inference.influence import influence
from scaling_jax.fitting.laws import laws
from scaling_jax.fitting.laws.base import Law, law
from scaling_jax.fitting.laws.registry import register_law
from scaling_jax.fitting.objectives import LAD, Huber, LeastSquares, Objective
from scaling_jax.fitting.optimal.approaches import Approaches, approaches, cross_check
from scaling_jax.fitting.optimal.design import next_runs
from scaling_jax.fitting.optimal.envelope import Envelope, envelope
from scaling_jax.fitting.optimal.isoflop import isoflop
from scaling_jax.fitting.optimal.isoflop_result import IsoFlop
from scaling_jax.fitting.optimal.power_law import power_law
from scaling_jax.fitting.optimal.suggest import Suggestion, suggest
from scaling_jax.fitting.published import published
from scaling_jax.fitting.selection import aicc, select
from scaling_jax.fitting.sensitivity import sensitivity
from scaling_jax.fitting.tasks import Chain, NoiseCeiling, chain, noise_ceiling

__all__ = [
    "LAD", "Approaches", "Chain", "Comparison", "CurveFit", "DataError", "Envelope", "FileError", "Fit", "FitError",
    "FitWarning", "Forecast", "Huber", "IsoFlop", "Law", "LawError", "LeastSquares", "NoiseCeiling", "Objective",
    "Suggestion", "aicc", "approaches", "chain", "compare", "cross_check", "envelope", "extrapolation", "fit",
    "fit_curves", "forecast", "holdout", "influence", "isoflop", "law", "laws", "load", "next_runs", "noise_ceiling",
    "power_law", "published", "register_law", "select", "sensitivity", "suggest",
]  # fmt: skip
