"""Where packs run: in this process ("local"), or elsewhere through an engine."""

from scaling_jax.engines.registry import Engine, find, names, register

__all__ = ["Engine", "find", "names", "register"]
