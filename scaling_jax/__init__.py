"""scaling_jax: train a ladder of small models, learn from it what the big one should be.

Importing this package imports nothing else; `from scaling_jax import fitting` is the fitter alone.
"""

__version__ = "0.1.0"
