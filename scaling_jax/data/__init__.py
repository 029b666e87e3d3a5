"""Data: a name or a path becomes flat memory-mapped arrays, made once and shared by every run and process.

`describe` gives the shape of a source to a model, `load` its arrays, `notes` the data that is left out of them;
`batches` maps (seed, step) to the windows of a batch. `register` adds a source of your own.
"""

from scaling_jax.data import tokenizers
from scaling_jax.data.dataset import Dataset, describe, known_tokens, load, notes
from scaling_jax.data.sources.registry import register
from scaling_jax.data.sources.source import Source

__all__ = ["Dataset", "Source", "describe", "known_tokens", "load", "notes", "register", "tokenizers"]
