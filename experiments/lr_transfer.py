"""Does the best learning rate move with the width? A sweep of rates at four widths.

    scaling-jax run --study=experiments/lr_transfer.py --workdir=runs/lr_mup
    scaling-jax run --study=experiments/lr_transfer.py --workdir=runs/lr_standard --set parametrization.name=standard

Under muP (arXiv:2203.03466) the best rate, given at the base width, is the same at every width; under the standard
parametrization it falls as the width grows. The report's "rates" figure shows both.
"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Fit, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    return Study(
        name="lr_transfer",
        family=Transformer(head_dim=16, short_conv=3),
        ladder=Ladder(widths=(16, 32, 64, 128), depths=(2,)),
        budgets=Budgets(tokens=(0.25e6,)),
        optimizer=Optimizer(learning_rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08), batch_size=4),
        schedule=Schedule(warmup_steps=50),
        data=Data(source="python_sources", context=128),
        evaluation=Evaluation(examples=512),
        fit=Fit(law="power"),
    )
