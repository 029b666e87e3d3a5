"""Families of models by width and depth."""

from scaling_jax.models.cnn import CNN
from scaling_jax.models.family import Counts, Family, Model, Spec, from_dict, register
from scaling_jax.models.mlp import MLP
from scaling_jax.models.parametrization import Scaling
from scaling_jax.models.transformer import Transformer

__all__ = ["CNN", "MLP", "Counts", "Family", "Model", "Scaling", "Spec", "Transformer", "from_dict", "register"]
