"""IsoFLOP curves of byte-level transformers: every size trained at the same compute, four times over.

    scaling-jax run --study=experiments/isoflop_text.py --workdir=runs/isoflop_text

Approach 2 of Hoffmann et al. (arXiv:2203.15556): for each compute budget the loss is read against N, and the minimum of
each curve is N*(C). The sizes differ by at most 2x from one to the next, and each budget leaves out the sizes that would
see fewer than 3 or more than 600 tokens per non-embedding parameter, where a curve tells nothing about its minimum. Law
and objective are those of `text_quickstart.py`: chinchilla, whose two terms only add up, misses the largest budget by 1.4%
on average.
"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Fit, HoldOut, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    return Study(
        name="isoflop_text",
        family=Transformer(head_dim=8, short_conv=3),
        ladder=Ladder(widths=(16, 24, 32, 40, 48, 64, 80), depths=(2,)),
        budgets=Budgets(flops=(0.8e11, 1.6e11, 3.2e11, 6.4e11), ratio_range=(3, 600)),
        optimizer=Optimizer(learning_rates=(0.014,), batch_size=4),
        schedule=Schedule(warmup_steps=50),
        data=Data(source="python_sources", context=128),
        seeds=(0, 1),
        evaluation=Evaluation(examples=512),
        hold_out=HoldOut(cut=0.9),
        fit=Fit(law="chinchilla_outer", objective="log_least_squares"),
    )
