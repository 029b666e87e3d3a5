"""Losses of one small pack on eight CPU devices in a process of its own, for test_mesh: JSON on stdout."""

import dataclasses
import json
import sys

import jax
from packs import make_program, make_study, run_phase

from scaling_jax.models import Transformer
from scaling_jax.planning import Phase

CASES = {
    # name: (layout, mesh, execution)
    "map, 1 device": ("map", (1, 1, 1), {}),
    "map, 2 data": ("map", (1, 2, 1), {}),
    "map, 2 data x 2 fsdp": ("map", (1, 2, 2), {}),
    "map, 2 of each": ("map", (2, 2, 2), {}),
    "vmap, 1 device": ("vmap", (1, 1, 1), {}),
    "vmap, 2 run": ("vmap", (2, 1, 1), {}),
    "vmap, 4 fsdp": ("vmap", (1, 1, 4), {}),
    "vmap, 8 run": ("vmap", (8, 1, 1), {}),
    "sequential, 1 device": ("sequential", (1, 1, 1), {}),
    "sequential, 2 fsdp": ("sequential", (1, 1, 2), {}),
    "sequential, 4 run": ("sequential", (4, 1, 1), {}),
    "sequential, 2 of each": ("sequential", (2, 2, 2), {}),
    "4 microbatches": ("map", (1, 1, 1), {"microbatches": 4}),
    "2 microbatches, 2 data x 2 fsdp": ("map", (1, 2, 2), {"microbatches": 2}),
    "scan": ("map", (1, 1, 1), {"scan_layers": True}),
    "scan, remat, 2 of each": ("map", (2, 2, 2), {"scan_layers": True, "remat": True}),
}
STEPS = 20


def main() -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    out = {}
    for name, (layout, mesh, execution) in CASES.items():
        # Three lanes divide over neither 2, 4 nor 8 devices: some places are padding.
        study = make_study(
            rates=(0.01, 0.02, 0.03),
            family=Transformer(head_dim=8),
            execution={"scan_layers": False, "remat": False} | execution,
        )
        study = dataclasses.replace(study, optimizer=dataclasses.replace(study.optimizer, batch_size=8))
        program = make_program(study, layout, mesh, steps=32)
        states, losses = run_phase(program, Phase("trunk", 0, STEPS, 2**31 - 1, 2**31 - 1, -1))
        sums = program.fetch(program.evaluate(states))
        out[name] = {"losses": losses.tolist(), "evaluated": [float(s["loss_sum"] / s["count"]) for s in sums]}
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
