"""What can be done with the trained models of a workdir: score, compress, start from, sample, export, serve.

import scaling_jax as sj

models = sj.trained.Models("runs/mine")
model = models.load("w96-d2")            # the best finished run at its largest budget
model.params, model.logits(tokens_BxT)
"""

from scaling_jax.trained.compress import Treatment, prune, quantize
from scaling_jax.trained.generate import Generator, Sampling
from scaling_jax.trained.models import Models, TrainedModel
from scaling_jax.trained.scores import check_sets as check_sets
from scaling_jax.trained.scores import evaluate

__all__ = [
    "Generator", "Models", "Sampling", "TrainedModel", "Treatment", "evaluate", "prune", "quantize",
]  # fmt: skip
