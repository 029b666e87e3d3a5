"""A ladder of residual networks on Fashion-MNIST: laws of loss and of error against size, images seen and compute.

    scaling-jax run --study=experiments/image_quickstart.py --workdir=runs/image_quickstart

40 runs on 2 CPU cores in about 3.5 minutes of training: five widths (5k .. 78k parameters) times four budgets (30k ..
240k images seen) times two seeds. The loss goes from 0.68 to 0.285 nats, the error from 25% to 10.3%, and the runs below
40% of the largest compute predict those above it to about 2% (loss) and 3% (error).

The images come from Debian's package (`apt-get install dataset-fashion-mnist`) or from where TFDS has them prepared.
Without either the study is a smoke test on scikit-learn's digits, which are too few for a law: a minute.

Why these numbers:

* Small and many: on the frontier a network of this kind wants about 15 images per parameter, so the widths end where
  240k images are still worth their compute, and N* lies inside the ladder at every budget but the smallest.
* 240k images are four passes over the 60,000 that there are, each shifted and mirrored anew. Up to four, repeats are
  worth almost what new images are (arXiv:2305.16264); the report says so, and weighs a law that discounts them.
* Two seeds: networks of four to eight channels differ by 2 to 3% between seeds, as much as the law is off.
* The stem halves the picture: four times the images for the same compute, and a lower loss than halving it twice.
* A rate of 0.01 at width 16: from 0.005 to 0.04 the loss changes by less than two seeds do, since weight
  standardisation makes the network indifferent to the scale of its weights.
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
        ladder=Ladder(widths=(4, 6, 8, 12, 16), depths=(1,)),
        budgets=Budgets(tokens=(30e3, 60e3, 120e3, 240e3)),
        optimizer=Optimizer(learning_rates=(0.01,), batch_size=32),
        parametrization=Parametrization(base_width=16),
        schedule=Schedule(warmup_steps=100, cooldown_fraction=0.2),
        data=Data(source="fashion_mnist"),
        seeds=(0, 1),
        evaluation=Evaluation(examples=10_000, batch_size=200),
        hold_out=HoldOut(cut=0.4),
        fit=Fit(law="auto", also=("error",)),
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
