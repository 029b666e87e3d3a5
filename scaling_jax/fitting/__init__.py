"""Scaling laws: fit them, say how sure they are, and read the compute-optimal frontier off them.

    from scaling_jax import fitting
    fit = fitting.fit("chinchilla", {"N": N, "D": D}, loss)
    print(fit)

Everything runs on the CPU in float64, starts no JAX backend and leaves JAX's configuration as it was.
"""

from .approaches import Approaches, approaches
from .catalogue import laws
from .design import next_runs
from .envelope import Envelope, envelope
from .errors import DataError, FileError, FitError, FitWarning, LawError
from .fit import fit
from .fitted import Fit
from .holdout import extrapolation, holdout
from .influence import influence
from .isoflop import IsoFlop, isoflop, power_law
from .law import Law, law
from .objectives import LAD, Huber, LeastSquares, Objective
from .persistence import load
from .selection import aicc, select
from .sensitivity import sensitivity

__all__ = [
    "LAD", "Approaches", "DataError", "Envelope", "FileError", "Fit", "FitError", "FitWarning", "Huber", "IsoFlop",
    "Law", "LawError", "LeastSquares", "Objective", "aicc", "approaches", "envelope", "extrapolation", "fit",
    "holdout", "influence", "isoflop", "law", "laws", "load", "next_runs", "power_law", "select", "sensitivity",
]  # fmt: skip
