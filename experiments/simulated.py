"""A study at the compute of large laboratories, simulated in seconds: what would such a ladder be able to tell?

    scaling-jax run --engine=simulate --study=experiments/simulated.py --workdir=runs/simulated

Losses follow the law of Besiroglu et al. 2024 (arXiv:2404.10102), with the noise of seeds. Other worlds:

    --set simulation.law=hoffmann2022 --set simulation.trunk_noise=0.01 --set "simulation.faults=('bend',)"
"""

from scaling_jax.models import Transformer
from scaling_jax.study import Budgets, Data, Fit, Ladder, Optimizer, Schedule, Study


def get_study() -> Study:
    """14 scales from 41M to 200B parameters, nine budgets from 1e18 to 1e26 FLOPs, two seeds."""
    return Study(
        name="simulated",
        family=Transformer(head_dim=128),
        ladder=Ladder(
            widths=(512, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192, 12288, 16384), aspect=128
        ),
        budgets=Budgets(flops=(1e18, 1e19, 1e20, 1e21, 1e22, 1e23, 1e24, 1e25, 1e26), ratio_range=(3, 400)),
        optimizer=Optimizer(learning_rates=(0.002,), batch_size=256),
        schedule=Schedule(warmup_steps=100),
        data=Data(source="not_on_this_machine", tokenizer="bytes", context=4096),
        seeds=(0, 1),
        fit=Fit(target_flops=(1e27,), bootstrap=500),
    )
