"""A ladder of residual networks on Fashion-MNIST: laws of loss and of error against size, images seen and compute.

    scaling-jax run --study=experiments/image_quickstart.py --workdir=runs/image_quickstart

40 runs on 2 CPU cores: four widths (5k .. 44k parameters) times five budgets (60k .. 240k images seen), two seeds. The
loss goes from 0.58 to 0.30 nats, the error from 22% to 11%, and runs of up to a quarter of the largest compute predict
those above it.

The images come from Debian's package (`apt-get install dataset-fashion-mnist`) or from where TFDS has them prepared.
Without either the study is a smoke test on scikit-learn's digits, which are too few for a law: a minute.

Why these numbers:

* Small: on the frontier a network of this kind wants about 15 images per parameter, so the widths end where 240k images
  are still worth their compute, and N* lies inside the ladder at every budget.
* 240k images are four passes over the 60,000 that there are, each shifted and mirrored anew. Up to four, repeats are
  worth almost what new images are (arXiv:2305.16264). Runs of 30k images (938 steps) lie off any law: left out.
* Budgets before seeds: a budget costs a fifth of a run, since it leaves the trunk of the longest one for its cool-down
  only. Networks of four channels differ by 3% between seeds, of twelve by 1%. Simulated with this scatter, the forecast
  of the held-out runs has a standard error of 2.2%, where three budgets and two to four seeds that train as long leave
  2.8%.
* The cut is just above the shortest run of the largest width: without any run of that width the standard error is 3.9%.
* Least squares of ln loss: the seeds scatter by far more than the usual Huber delta, below which nothing is averaged.
* The stem halves the picture: four times the images for the same compute, and a lower loss than halving it twice.
* A rate of 0.01 at width 16: from 0.005 to 0.04 the loss changes by less than two seeds do, since weight
  standardization makes the network indifferent to the scale of its weights.
"""

import sys

from scaling_jax.data.builtin import images as image_sets
from scaling_jax.models import CNN
from scaling_jax.study import (
    Budgets,
    Data,
    Evaluation,
    Fit,
    HoldOut,
    Ladder,
    Optimizer,
    Parametrization,
    Schedule,
    Study,
)

SMOKE_TEST = (
    "image_quickstart: no Fashion-MNIST here (`apt-get install dataset-fashion-mnist`); this is a smoke test on "
    "1,437 digits of 8x8, too few for a law"
)


def get_study() -> Study:
    if not image_sets.has_fashion_mnist():
        print(SMOKE_TEST, file=sys.stderr)
        return smoke_test()
    return Study(
        name="image_quickstart",
        family=CNN(group_size=2, stem_stride=2),
        ladder=Ladder(widths=(4, 6, 8, 12), depths=(1,)),
        budgets=Budgets(tokens=(60e3, 85e3, 120e3, 170e3, 240e3)),
        optimizer=Optimizer(learning_rates=(0.01,), batch_size=32),
        parametrization=Parametrization(base_width=16),
        schedule=Schedule(warmup_steps=100, cooldown_fraction=0.2),
        data=Data(source="fashion_mnist"),
        seeds=(0, 1),
        evaluation=Evaluation(examples=5_000, batch_size=200),
        hold_out=HoldOut(cut=0.26),
        fit=Fit(law="chinchilla_outer", objective="log_least_squares", also=("error",)),
    )


def smoke_test() -> Study:
    return Study(
        name="image_quickstart_digits",
        family=CNN(group_size=2),
        ladder=Ladder(widths=(2, 4, 6, 8), depths=(1,)),
        budgets=Budgets(tokens=(4e3, 8e3, 16e3)),
        optimizer=Optimizer(learning_rates=(0.01,), batch_size=32),
        parametrization=Parametrization(base_width=16),
        schedule=Schedule(warmup_steps=20, cooldown_fraction=0.2),
        data=Data(source="digits"),
        seeds=(0, 1),
        evaluation=Evaluation(examples=360, batch_size=60),
        hold_out=HoldOut(cut=0.4),
        fit=Fit(law="auto", also=("error",)),
    )
