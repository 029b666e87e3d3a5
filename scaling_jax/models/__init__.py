"""Families of models by width and depth, and the registries that a user can add to."""

from scaling_jax.models import accounting, classification, metrics, optimizers
from scaling_jax.models.cnn import CNN
from scaling_jax.models.family import Counts, Family, Model, Spec, from_dict, mean_loss, register
from scaling_jax.models.mlp import MLP
from scaling_jax.models.parametrization import Scaling
from scaling_jax.models.transformer import Transformer

__all__ = [
    "CNN",
    "MLP",
    "Counts",
    "Family",
    "Model",
    "Scaling",
    "Spec",
    "Transformer",
    "accounting",
    "classification",
    "from_dict",
    "mean_loss",
    "metrics",
    "optimizers",
    "register",
]
