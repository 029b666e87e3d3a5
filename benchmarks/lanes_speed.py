"""Eight runs of one shape as lanes of one program, beside the same eight one after another in one process:

    python benchmarks/lanes_speed.py [--rounds=3] [--seconds=5]

"one by one" is our own engine with one lane on one device that uses every core; "plain loop" is that of step_speed.py,
what one writes first. Compile times, which lanes pay once and runs one by one pay once as well here, are left out.
Prints medians of tokens/s over all runs; "lanes" is the fastest of the three layouts.

"bound" is what no schedule of the same kernels can beat: every core as fast as one core that trains one run alone, over
one run that uses every core. The better one run spreads over the cores, the less there is to gain from lanes.
"""

from __future__ import annotations

import os
import statistics

import step_speed
from absl import app, flags

LANES = 8
CASES = [(16, 4), (32, 4), (64, 4), (16, 16), (32, 16), (64, 16)]  # width, batch size


def main(argv: list[str]) -> None:
    del argv
    columns = "plain loop | one by one | vmap | map | sequential | lanes / one by one | bound | lanes / plain"
    print(f"| d | batch | {columns} |")
    print("|--:" * 10 + "|")
    core = min(os.sched_getaffinity(0))
    for width, batch_size in CASES:
        flags.FLAGS.batch_size = batch_size
        rounds = []
        for _ in range(step_speed.ROUNDS.value):
            row = {"plain": step_speed.result(step_speed.start("plain", width))}
            row["single"] = step_speed.result(step_speed.start("ours", width, 1, 1, "map"))
            row["core"] = step_speed.result(step_speed.start("ours", width, 1, 1, "map", core=core))
            for layout in ("vmap", "map", "sequential"):
                row[layout] = step_speed.result(step_speed.start("ours", width, LANES, step_speed.cores(), layout))
            rounds.append(row | {"lanes": max(row[k] for k in ("vmap", "map", "sequential"))})
        medians = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
        by_single, by_plain = (statistics.median(r["lanes"] / r[k] for r in rounds) for k in ("single", "plain"))
        bound = statistics.median(step_speed.cores() * r["core"] / r["single"] for r in rounds)
        shown = " | ".join(f"{medians[k]:,.0f}" for k in ("plain", "single", "vmap", "map", "sequential"))
        print(f"| {width} | {batch_size} | {shown} | {by_single:.2f} | {bound:.2f} | {by_plain:.2f} |", flush=True)


if __name__ == "__main__":
    app.run(main)
