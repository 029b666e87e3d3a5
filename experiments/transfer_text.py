"""What is English worth to a model of Python? Fresh and fine-tuned ladders of byte-level transformers at several D.

    S=experiments/transfer_text.py R=runs/transfer_text
    scaling-jax run --study=$S --workdir=$R/english --set data.source=english --set budgets.tokens=1e6
    scaling-jax run --study=$S --workdir=$R/fresh
    scaling-jax run --study=$S --workdir=$R/tuned --set init.from_workdir=$R/english
    scaling-jax fit --results=$R/fresh --results=$R/tuned --law=transfer --at=S=D+1e6

6 models of English dictionaries train to 1M bytes each; 30 runs on Python sources start fresh, and 30 from these models
(Hernandez et al., arXiv:2102.01293). The last command fits both together: a fine-tuned run has the loss of a fresh one
with D_T = k D^alpha_T N^beta_T more bytes of Python. Sizes and rates are those of `text_quickstart.py`; D begins 8 times
lower, where a start matters most.
"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Evaluation, Fit, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    return Study(
        name="transfer_text",
        family=Transformer(head_dim=16, short_conv=3),
        ladder=Ladder(widths=(16, 32, 48), depths=(2,)),
        budgets=Budgets(tokens=(60e3, 120e3, 240e3, 480e3, 960e3)),
        optimizer=Optimizer(learning_rates=(0.014,), batch_size=4),
        schedule=Schedule(warmup_steps=20, cooldown_fraction=0.2),
        data=Data(source="python_sources", context=128),
        seeds=(0, 1),
        evaluation=Evaluation(examples=512),
        fit=Fit(law="chinchilla", objective="log_least_squares"),
    )
