"""draft"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    return Study(
        name="text_quickstart",
        family=Transformer(head_dim=16),
        ladder=Ladder(widths=(16, 32, 48, 64), depths=(2,)),
        budgets=Budgets(tokens=(0.25e6, 0.5e6, 1e6)),
        optimizer=Optimizer(learning_rates=(0.02,), batch_size=4),
        schedule=Schedule(warmup_steps=100),
        data=Data(context=128),
        evaluation=Evaluation(examples=512),
    )
