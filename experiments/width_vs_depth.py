"""At the same number of parameters, wide or deep? Three sizes, each in three shapes.

    scaling-jax run --study=experiments/width_vs_depth.py --workdir=runs/width_vs_depth

CompleteP (arXiv:2505.01618) carries one rate across widths and depths, so that the shapes differ by their shape and not
by how well they are tuned. The law is one of N and D alone: what the shape adds are its residuals, by scale.
"""

from scaling_jax.models import Transformer
from scaling_jax.study import (
    Budgets,
    Data,
    Evaluation,
    Fit,
    Ladder,
    Optimizer,
    Parametrization,
    Schedule,
    Study,
)


def get_study() -> Study:
    return Study(
        name="width_vs_depth",
        family=Transformer(head_dim=16, short_conv=3),
        # 24k, 49k and 98k parameters in the layers, or within an eighth of it.
        ladder=Ladder(widths=(48, 32, 16, 64, 48, 32, 96, 64, 32), depths=(1, 2, 8, 1, 2, 4, 1, 2, 8)),
        budgets=Budgets(tokens=(0.4e6, 0.8e6)),
        optimizer=Optimizer(learning_rates=(0.014,), batch_size=4),
        parametrization=Parametrization(name="completep"),
        schedule=Schedule(warmup_steps=50),
        data=Data(source="python_sources", context=128),
        seeds=(0, 1),
        evaluation=Evaluation(examples=512),
        fit=Fit(law="chinchilla"),
    )
