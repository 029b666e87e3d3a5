"""Losses of one small pack on eight CPU devices in a process of its own, for test_mesh: JSON on stdout."""

import dataclasses
import json
import sys

import jax
from bigram import Bigram
from packs import make_program, make_study, run_phase

from scaling_jax.models import Transformer
from scaling_jax.planning import Phase

LIGHT, TRANSFORMER = Bigram(), Transformer(head_dim=8)
SCAN = {"scan_layers": True}
# The first case of a family and an execution that rounds alike is the reference of the others.
CASES = {
    # name: (family, layout, mesh, execution)
    "map, 1 device": (LIGHT, "map", (1, 1, 1), {}),
    "map, 2 data": (LIGHT, "map", (1, 2, 1), {}),
    "map, 2 data x 2 fsdp": (LIGHT, "map", (1, 2, 2), {}),
    "map, 2 of each": (LIGHT, "map", (2, 2, 2), {}),
    "vmap, 1 device": (LIGHT, "vmap", (1, 1, 1), {}),
    "vmap, 2 run": (LIGHT, "vmap", (2, 1, 1), {}),
    "vmap, 4 fsdp": (LIGHT, "vmap", (1, 1, 4), {}),
    "vmap, 8 run": (LIGHT, "vmap", (8, 1, 1), {}),
    "sequential, 1 device": (LIGHT, "sequential", (1, 1, 1), {}),
    "sequential, 2 fsdp": (LIGHT, "sequential", (1, 1, 2), {}),
    "sequential, 4 run": (LIGHT, "sequential", (4, 1, 1), {}),
    "sequential, 2 of each": (LIGHT, "sequential", (2, 2, 2), {}),
    "4 microbatches": (LIGHT, "map", (1, 1, 1), {"microbatches": 4}),
    "2 microbatches, 2 data x 2 fsdp": (LIGHT, "map", (1, 2, 2), {"microbatches": 2}),
    "transformer": (TRANSFORMER, "map", (1, 1, 1), {}),
    "transformer, vmap, 4 fsdp": (TRANSFORMER, "vmap", (1, 1, 4), {}),
    "transformer, sequential, 2 of each": (TRANSFORMER, "sequential", (2, 2, 2), {}),
    "transformer, 2 microbatches, 2 data x 2 fsdp": (TRANSFORMER, "map", (1, 2, 2), {"microbatches": 2}),
    "scan": (TRANSFORMER, "map", (1, 1, 1), SCAN),
    "scan, remat, 2 of each": (TRANSFORMER, "map", (2, 2, 2), {**SCAN, "remat": True}),
}
STEPS = 20


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    out = {}
    for name, (family, layout, mesh, execution) in CASES.items():
        # Three lanes divide over neither 2, 4 nor 8 devices: some places are padding.
        execution = {"scan_layers": False, "remat": False} | execution
        study = make_study(rates=(0.01, 0.02, 0.03), family=family, execution=execution)
        study = dataclasses.replace(study, optimizer=dataclasses.replace(study.optimizer, batch_size=8))
        program = make_program(study, layout, mesh, steps=32)
        states, losses = run_phase(program, Phase("trunk", 0, STEPS, 2**31 - 1, 2**31 - 1, -1))
        sums = program.fetch(program.evaluate(states))
        out[name] = {"losses": losses.tolist(), "evaluated": [float(s["loss_sum"] / s["count"]) for s in sums]}
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
