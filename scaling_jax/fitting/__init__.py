"""Scaling laws: fit them, say how sure they are, and read the compute-optimal frontier off them.

    from scaling_jax import fitting
    fit = fitting.fit("chinchilla", {"N": N, "D": D}, loss)
    print(fit)

Everything runs on the CPU in float64, starts no JAX backend and leaves JAX's configuration as it was.
"""

from .catalogue import laws
from .errors import DataError, FileError, FitError, FitWarning, LawError
from .fit import Fit, fit
from .law import Law, law
from .objectives import LAD, Huber, LeastSquares, Objective

__all__ = [
    "LAD", "DataError", "FileError", "Fit", "FitError", "FitWarning", "Huber", "Law", "LawError", "LeastSquares",
    "Objective", "fit", "law", "laws",
]  # fmt: skip
