"""Models as `scaling_jax.trained` reads them from a workdir, made without training."""

import dataclasses
from typing import Any

import jax
import numpy as np

from scaling_jax.data import tokenizers
from scaling_jax.models import CNN, Scaling, Spec, Transformer
from scaling_jax.study import Budgets, Data, Execution, Ladder, Study
from scaling_jax.trained import TrainedModel

EXECUTION = Execution(compute_dtype="float32", scan_layers=False, remat=False, attention="blocked")


@dataclasses.dataclass
class Made:
    """In place of `Models`: one model.

    Attributes:
      trained: the model.
      tokenizer: bytes, or None for images.
    """

    trained: TrainedModel
    tokenizer: Any
    path: str = ""

    @property
    def study(self):
        return self.trained.study

    @property
    def spec(self):
        return self.trained.spec

    @property
    def scales(self):
        return [self.trained.scale]

    def best(self, scale=None, run_id=None):
        return self.trained.row

    def load(self, scale=None, run_id=None):
        return self.trained

    def model(self, width, depth, attention="blocked"):
        execution = dataclasses.replace(EXECUTION, attention=attention)
        return build(self.study.family, width, depth, self.spec, self.study.parametrization.name, execution)


def build(family, width, depth, spec, parametrization="mup", execution=EXECUTION):
    scaling = Scaling(parametrization, width, 32, "adamw", depth, 2)
    return family.build(width, depth, spec, scaling, execution)


SMALL = Transformer(head_dim=8)


def make(family=SMALL, width=16, depth=2, context=32, parametrization="mup", **execution) -> Made:
    """A model with random parameters, none of them zero."""
    images = family.inputs == "images"
    spec = Spec("images", 10, 1, (8, 8, 1)) if images else Spec("tokens", 256, context)
    study = Study(
        name="made",
        family=family,
        ladder=Ladder(widths=(width,), depths=(depth,)),
        budgets=Budgets(tokens=(1e6,)),
        data=Data(source="digits" if images else "python_sources", context=context),
    )
    study = dataclasses.replace(study, parametrization=dataclasses.replace(study.parametrization, name=parametrization))
    model = build(family, width, depth, spec, parametrization, dataclasses.replace(EXECUTION, **execution))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def one(leaf):
        scale = 1 / np.sqrt(leaf.shape[-2]) if leaf.ndim > 1 else 0.2
        return ((leaf.ndim < 2) + scale * rng.normal(size=leaf.shape)).astype(np.float32)

    params = jax.tree.map(one, shapes)
    row = {
        "run_id": "0" * 16, "study": "made", "scale": f"w{width}-d{depth}", "width": width, "depth": depth, "seed": 0,
        "tokens": 1000, "flops": 1e9, "loss": 2.0,
    }  # fmt: skip
    return Made(TrainedModel(row, study, spec, model, params), None if images else tokenizers.Bytes())


def images(count: int) -> np.ndarray:
    """Random images of the shape that `make(CNN())` reads."""
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


__all__ = ["CNN", "Made", "images", "make"]
