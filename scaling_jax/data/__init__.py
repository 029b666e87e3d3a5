"""Data: a name or a path becomes flat memory-mapped arrays, made once and shared by every run and process.

`describe` says what a source looks like to a model, `load` gives the arrays, `batches` says which window is trained on
at which step.
"""

from scaling_jax.data.dataset import Dataset, describe, load

__all__ = ["Dataset", "describe", "load"]
