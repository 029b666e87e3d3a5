"""The planner's memory of one training step beside XLA's own figure for the compiled program:

    python benchmarks/memory.py [--width=1024] [--depth=16] [--context=2048] [--topology=v5p:2x2x1]

XLA's figure is what the compiled program holds at its peak: arguments, results that are not donated arguments, and
temporaries. Compiles for the backend of this machine, or with `--topology` for a TPU that it does not have (`pip
install` of the libtpu that goes with this JAX, the one that `jax[tpu]` names); nothing runs.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies

from scaling_jax.data.dataset import Dataset
from scaling_jax.models import Scaling, Transformer
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan, step_bytes
from scaling_jax.study import Budgets, Data, Evaluation, Execution, Ladder, Optimizer, Study
from scaling_jax.training import hardware
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.program import LaneProgram, make_mesh

WIDTH = flags.DEFINE_integer("width", 1024, "Width of the scale.")
DEPTH = flags.DEFINE_integer("depth", 16, "Its layers.")
CONTEXT = flags.DEFINE_integer("context", 2048, "Tokens per sequence.")
TOPOLOGY = flags.DEFINE_string("topology", None, "TPU to compile for, as in v5e:2x2; default this machine's devices.")
VOCAB = flags.DEFINE_integer("vocab_size", 32_768, "Tokens of the vocabulary.")
CASES = [  # batch size, execution
    (8, {"remat": True}),
    (8, {"remat": False}),
    (2, {"remat": True}),
    (32, {"remat": True}),
    (32, {"remat": True, "microbatches": 8}),
    (8, {"remat": True, "attention": "xla"}),
]


class AbstractFeed(ResidentFeed):
    """Arrays that are nowhere."""

    def arrays(self, mesh):
        everywhere = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
        x = self.dataset.train
        like = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere)}
        return {"train": like, "validation": like}


class AbstractProgram(LaneProgram):
    """Can be compiled for devices that are not there."""

    def _put(self, tree, spec):
        return self._abstract(tree, spec)


def measured(study: Study, batch_size: int, devices, backend: str) -> tuple[int, int]:
    """(planned, XLA's) peak bytes of the training program of one lane."""
    spec = Spec("tokens", VOCAB.value, CONTEXT.value)
    study = dataclasses.replace(study, optimizer=Optimizer(batch_size=batch_size))
    (pack,) = make_plan(study, spec)
    execution = hardware.resolve(study.execution, pack.width, pack.depth, spec, study.family.head_dim, backend)
    model = study.family.build(pack.width, pack.depth, spec, Scaling("mup", pack.width, 256), execution)
    tokens = np.zeros(CONTEXT.value * 64 + 1, np.uint16)
    feed = AbstractFeed(Dataset(spec, tokens, tokens, "d" * 16, 1.0, len(tokens), {}))
    program = AbstractProgram(model, study, execution, make_mesh(devices, (1, 1, 1)), pack.lanes, feed, 64)
    found = program.trainer.peak_bytes
    assert found is not None, "this backend does not say"
    return step_bytes(study, pack, spec, (1, 1, 1), execution), found


def main(argv: list[str]) -> None:
    del argv
    if TOPOLOGY.value:
        devices, backend = topologies.get_topology_desc(TOPOLOGY.value, platform="tpu").devices[:1], "tpu"
    else:
        devices, backend = jax.devices()[:1], jax.default_backend()
    where = TOPOLOGY.value or backend
    print(f"d={WIDTH.value}, L={DEPTH.value}, T={CONTEXT.value}, vocabulary {VOCAB.value:,}, {where}\n")
    print("| batch | execution | planned | XLA | planned / XLA |\n|--:|---|--:|--:|--:|")
    for batch_size, changes in CASES:
        study = Study(
            name="memory",
            family=Transformer(head_dim=128),
            ladder=Ladder(widths=(WIDTH.value,), depths=(DEPTH.value,)),
            budgets=Budgets(tokens=(1e9,)),
            data=Data(context=CONTEXT.value),
            evaluation=Evaluation(examples=2, batch_size=2),
            execution=Execution(**{"layout": "map", "scan_layers": True} | changes),
        )
        planned, found = measured(study, batch_size, devices, backend)
        shown = ", ".join(f"{k}={v}" for k, v in changes.items())
        print(
            f"| {batch_size} | {shown} | {planned / 1e9:.2f} GB | {found / 1e9:.2f} GB | {planned / found:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
