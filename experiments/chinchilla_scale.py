"""The ladder of Hoffmann et al. (arXiv:2203.15556) for a pod: 70M to 15B parameters over nine IsoFLOP budgets.

    scaling-jax plan --study=experiments/chinchilla_scale.py --set data.source=/path/to/tokens

Planned, lowered for TPU and GPU, and memory-checked on a CPU; never trained by us. The data must be yours: 6e18 to 3e21
FLOPs see up to 300B tokens. docs/operations.md says how to run it on a pod.
"""

from scaling_jax.models import Transformer
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


def get_study() -> Study:
    return Study(
        name="chinchilla_scale",
        family=Transformer(head_dim=128),
        ladder=Ladder(
            widths=(640, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120),
            depths=(10, 12, 16, 20, 24, 24, 32, 32, 36, 47),
        ),
        budgets=Budgets(flops=(6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21), ratio_range=(2, 400)),
        optimizer=Optimizer(learning_rates=(0.008,), weight_decays=(0.1,), batch_size=256),
        parametrization=Parametrization(base_width=512, base_depth=8),
        schedule=Schedule(warmup_steps=1000),
        data=Data(source="c4/en", tokenizer="bpe:32000", context=2048),
        seeds=(0,),
        evaluation=Evaluation(examples=4096, batch_size=64),
        hold_out=HoldOut(cut=0.9),
        fit=Fit(law="chinchilla", target_flops=(5.76e23,)),
    )
