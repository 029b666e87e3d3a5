"""How far the layouts of lanes drift apart, beside a run one of whose weights was moved by one unit in the last place:

    python benchmarks/layout_drift.py [--width=16] [--steps=1000]

Two lanes of a byte language model on one CPU device, the same batches. Prints the largest relative difference of a
training loss from that of `sequential` up to a step, and that of the mean of the last 100.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from absl import app, flags

from scaling_jax import data
from scaling_jax.models import Scaling, Transformer
from scaling_jax.planning import NO_DECAY, Lane, Phase
from scaling_jax.study import Budgets, Data, Evaluation, Execution, Ladder, Optimizer, Study
from scaling_jax.training import hardware
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.program import LaneProgram, make_mesh

WIDTH = flags.DEFINE_integer("width", 16, "Width of the model; its depth is 2.")
STEPS = flags.DEFINE_integer("steps", 1000, "Steps of 8 x 128 tokens.")
RATES, SHOWN = (0.01, 0.02), (10, 50, 100, 200, 500)


def program(layout: str) -> LaneProgram:
    width, head_dim = WIDTH.value, min(32, WIDTH.value)
    study = Study(
        name="drift",
        family=Transformer(head_dim=head_dim),
        ladder=Ladder(widths=(width,), depths=(2,)),
        budgets=Budgets(tokens=(1e9,)),
        optimizer=Optimizer(batch_size=8),
        data=Data(source="python_sources", context=128),
        evaluation=Evaluation(examples=16, batch_size=16),
    )
    dataset = data.load(study.data)
    execution = hardware.resolve(Execution(layout="map", microbatches=2), width, 2, dataset.spec, head_dim)
    model = study.family.build(width, 2, dataset.spec, Scaling("mup", width, 32), execution)
    execution = dataclasses.replace(execution, layout=layout)
    mesh, lanes = make_mesh(jax.devices()[:1], (1, 1, 1)), [Lane(rate, 0.0, 1.0, 0, 100) for rate in RATES]
    return LaneProgram(model, study, execution, mesh, lanes, ResidentFeed(dataset), STEPS.value)


def losses(of: LaneProgram, nudge: bool = False) -> np.ndarray:
    """[lanes, steps]."""
    states: Any = of.init()
    if nudge:
        states = tuple({**state, "params": nudged(state["params"])} for state in states)
    trunk = of.hparams(Phase("trunk", 0, STEPS.value, NO_DECAY, NO_DECAY, 0))
    return np.stack(of.fetch(of.train(states, trunk, 0, STEPS.value)[1]))[:, : STEPS.value]


def nudged(params: Any) -> Any:
    """The parameters with the first number of the embedding moved to the next float32."""
    embed = np.array(params["embed"])
    embed.reshape(-1)[0] = np.nextafter(embed.reshape(-1)[0], np.float32(np.inf))
    return {**params, "embed": jax.device_put(embed, params["embed"].sharding)}


def main(argv: list[str]) -> None:
    del argv
    hardware.use_cpu_devices(1)
    shown = [step for step in (*SHOWN, STEPS.value) if step <= STEPS.value]
    print(
        "| | "
        + " | ".join(f"to step {step}" for step in shown)
        + " | mean of the last 100 |\n|---"
        + "|--:" * (len(shown) + 1)
        + "|"
    )
    plain = program("sequential")
    base = losses(plain)
    for name, other in (("one weight by one ulp", losses(plain, nudge=True)), ("vmap", losses(program("vmap")))):
        gap, ends = np.abs(other / base - 1), [x[:, -100:].mean(1) for x in (other, base)]
        cells = [gap[:, :step].max() for step in shown] + [np.abs(ends[0] / ends[1] - 1).max()]
        print(f"| {name} | " + " | ".join(f"{cell:.0e}" for cell in cells) + " |")


if __name__ == "__main__":
    app.run(main)
