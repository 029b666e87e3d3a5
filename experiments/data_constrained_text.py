"""What are repeated tokens worth? The same 150,000 bytes read up to twelve times.

    scaling-jax run --study=experiments/data_constrained_text.py --workdir=runs/data_constrained_text
    scaling-jax run --study=experiments/data_constrained_text.py --workdir=runs/data_plenty \
      --set data.unique_tokens=none --set name=data_plenty

Muennighoff et al. (arXiv:2305.16264): up to four passes, repeats are worth almost what new tokens are; beyond, their
value decays. The law "data_constrained" discounts them; the second command is the same ladder on new tokens alone.
"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Fit, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    return Study(
        name="data_constrained_text",
        family=Transformer(head_dim=16, short_conv=3),
        ladder=Ladder(widths=(16, 32, 48, 64), depths=(2,)),
        budgets=Budgets(tokens=(0.15e6, 0.3e6, 0.6e6, 1.2e6, 1.8e6)),
        optimizer=Optimizer(learning_rates=(0.014,), batch_size=4),
        schedule=Schedule(warmup_steps=50),
        data=Data(source="python_sources", context=128, unique_tokens=150_000),
        evaluation=Evaluation(examples=512),
        fit=Fit(law="data_constrained"),
    )
