"""A ladder of byte-level transformers on Python sources: from nothing to a compute-optimal frontier in five minutes.

    scaling-jax run --study=experiments/text_quickstart.py --workdir=runs/text_quickstart

30 runs on 2 CPU cores in about 3 minutes of training: five widths at depth 2 (6.3k .. 222k non-embedding parameters)
times six token budgets (0.5M .. 2.8M), all budgets of a width branched off one trunk. The losses go from 2.39 to 1.46
nats per byte, and the runs below 40% of the largest compute predict those above it to about 1%.

Why these numbers:

* Batches of 4 x 128 bytes: small models want many steps, not large batches; every run has at least 976 steps.
* In-context copying drops the loss steeply when it appears, and a ladder that straddles the drop follows no power law.
  Small batches and a tuned rate bring it on early: d ln(loss) / d ln(tokens) is steepest before 0.5M tokens at every
  width and falls slowly after, so the smallest budget lies there.
* Two layers, the fewest that can copy from context, at every width: N grows by width alone, 35x.
* The budgets are the same at every width, so ln N and ln D are uncorrelated and alpha and beta can be told apart.
* A rate of 0.014 at width 32 (muP carries it to the others): of 0.005, 0.01, 0.02 and 0.04, the middle two are within
  0.3% of each other at widths 16 and 48 and at all budgets, the outer two worse by 1 to 3%.
* The law is chosen among candidates by how well it extrapolates within the small runs, never by the held-out ones.
"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Fit, HoldOut, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    return Study(
        name="text_quickstart",
        family=Transformer(head_dim=16, short_conv=3),
        ladder=Ladder(widths=(16, 32, 48, 64), depths=(2,), seeds=(4, 3, 2, 2)),
        budgets=Budgets(tokens=(0.5e6, 0.7e6, 1e6, 1.4e6, 2e6)),
        optimizer=Optimizer(learning_rates=(0.014,), batch_size=4),
        schedule=Schedule(warmup_steps=100, cooldown_fraction=0.2),
        data=Data(source="python_sources", context=128),
        seeds=(0, 1, 2, 3),
        evaluation=Evaluation(examples=512),
        hold_out=HoldOut(cut=0.25),
        fit=Fit(law="chinchilla_outer"),
    )
