"""A ladder of byte-level transformers on Python sources: from nothing to a compute-optimal model in five minutes.

    scaling-jax run --study=experiments/text_quickstart.py --workdir=runs/text_quickstart

64 runs on 2 CPU cores: four widths at depth 2 (10.7k .. 116k parameters in matrix products) times four token budgets
(0.5M .. 1.4M), all budgets of a width and seed branched off one trunk, two to six seeds. The losses go from 2.27 to 1.61
nats per byte, and runs below a quarter of the largest compute predict those above it.

Why these numbers:

* Batches of 4 x 128 bytes: small models want many steps, not large batches; every run has at least 976 steps.
* In-context copying drops the loss steeply when it appears, and a ladder that straddles the drop follows no power law. A
  short convolution on q, k and v (Primer, arXiv:2109.08668) brings it on early, lowers the loss by 3 to 6%, and makes
  seeds differ less. Beyond 1.4M bytes one seed in six at width 64 finds a further trick worth 4%: the ladder ends below.
* Seeds differ by 0.6 to 1.1% of the loss, all branches of a trunk alike: two at width 64, and more where they are cheap.
* The law has an outer exponent: at width 16 the loss falls less with tokens than at width 64, which a sum of one term in
  N and one in D cannot follow (chinchilla is off by up to 2.7% at width 16, this law by 0.3%; seen on seeds 0 and 1).
* Least squares of ln loss: the seeds scatter by far more than the usual Huber delta, below which nothing is averaged.
* The budgets are the same at every width, so ln N and ln D are uncorrelated and alpha and beta can be told apart.
* A rate of 0.014 at width 32, which muP carries to the others: of 0.007, 0.01, 0.014 and 0.02 it is the best at width 64
  at 0.5M, 1M and 2M tokens alike.
"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Fit, HoldOut, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    return Study(
        name="text_quickstart",
        family=Transformer(head_dim=16, short_conv=3),
        ladder=Ladder(widths=(16, 32, 48, 64), depths=(2,), seeds=(6, 4, 4, 2)),
        budgets=Budgets(tokens=(0.5e6, 0.7e6, 1e6, 1.4e6)),
        optimizer=Optimizer(learning_rates=(0.014,), batch_size=4),
        schedule=Schedule(warmup_steps=100, cooldown_fraction=0.2),
        data=Data(source="python_sources", context=128),
        seeds=(0, 1, 2, 3, 4, 5),
        evaluation=Evaluation(examples=512),
        hold_out=HoldOut(cut=0.25),
        fit=Fit(law="chinchilla_outer", objective="log_least_squares"),
    )
