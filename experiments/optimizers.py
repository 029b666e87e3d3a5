"""AdamW against Muon: how much less compute for the same loss?

    scaling-jax run --study=experiments/optimizers.py --workdir=runs/adamw
    scaling-jax run --study=experiments/optimizers.py --workdir=runs/muon --set optimizer.name=muon
    scaling-jax compare runs/adamw runs/muon

Each optimizer sweeps its rate at every scale and budget, and the best of each enters the comparison: at one rate for both
the answer would be which of them the rate happens to suit.
"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Fit, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    return Study(
        name="optimizers",
        family=Transformer(head_dim=16, short_conv=3),
        ladder=Ladder(widths=(16, 32, 48, 64), depths=(2,)),
        budgets=Budgets(tokens=(0.3e6, 0.6e6, 1.2e6)),
        optimizer=Optimizer(learning_rates=(0.005, 0.01, 0.02, 0.04), batch_size=4),
        schedule=Schedule(warmup_steps=50),
        data=Data(source="python_sources", context=128),
        evaluation=Evaluation(examples=512),
        fit=Fit(law="chinchilla"),
    )
