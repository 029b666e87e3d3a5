"""Does a sweep in rounds (`sweep="halving"`) find the winners of the full sweep, and at what cost?

    python benchmarks/halving.py --workdir=runs/halving [--train]

A full sweep of learning rates over small transformers on Python sources is trained once. Its losses then answer what
the rounds ask for, in studies of part of its budgets and seeds: every (scale, budget) is a cell, whose winner is the
rate with the lowest mean of ln(loss) over the seeds. `--train` also trains one of these studies in rounds, and compares
losses, FLOPs and seconds with a full sweep of the same study.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence

import numpy as np

import scaling_jax as sj
from scaling_jax import data
from scaling_jax.models import Transformer
from scaling_jax.planning import Sweep, identified, make_plan, subset, with_rungs
from scaling_jax.storage.records import Records, losses_of
from scaling_jax.study import Budgets, Data, Evaluation, Fit, Ladder, Optimizer, Schedule, Study

RATES = (0.00125, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
TOKENS = (16e3, 32e3, 64e3, 128e3, 256e3)  # the first ones are rungs of the others
SEEDS = (0, 1, 2)
STUDIES = (TOKENS[2:], TOKENS[3:], TOKENS[4:])


def study_of(
    tokens: Sequence[float] = TOKENS, seeds: Sequence[int] = SEEDS, sweep: str = "full", rates: Sequence[float] = RATES
) -> Study:
    return Study(
        name="halving",
        family=Transformer(head_dim=8, short_conv=3),
        ladder=Ladder(widths=(8, 16, 24), depths=(2,)),
        budgets=Budgets(tokens=tuple(tokens), min_steps=10),
        optimizer=Optimizer(learning_rates=tuple(rates), batch_size=4),
        schedule=Schedule(warmup_steps=20),
        data=Data(source="python_sources", context=64),
        sweep=sweep,
        seeds=tuple(seeds),
        evaluation=Evaluation(examples=512),
        fit=Fit(bootstrap=0),
    )


def replay(study: Study, dataset_hash: str, losses: Mapping[str, float]) -> tuple[list[tuple[bool, float]], float]:
    """([same winner, how much worse in ln loss] of every cell, FLOPs of the rounds over those of the full sweep)."""
    spec = data.describe(study.data)
    packs = identified(with_rungs(make_plan(study, spec)), study, spec, dataset_hash)
    sweep, seen = Sweep(packs, True, True), {}
    while todo := sweep.todo(seen):
        seen |= {run.run_id: losses[run.run_id] for pack in todo for run in pack.runs}
    full = sum(pack.trained_flops for pack in make_plan(study, spec))
    spent, cells = 0.0, {}
    for pack in packs:
        lanes = sorted({run.lane for run in pack.runs if run.run_id in seen})
        spent += subset(pack, lanes, lambda run: run.run_id in seen).trained_flops
        for run in pack.runs:
            if not run.rung:
                rates = cells.setdefault((pack.scale, run.wanted), {})
                rates.setdefault(pack.lanes[run.lane].learning_rate, []).append(run.run_id)
    out = []
    for rates in cells.values():
        means = {rate: np.mean([math.log(losses[i]) for i in ids]) for rate, ids in rates.items()}
        left = {rate: mean for rate, mean in means.items() if all(i in seen for i in rates[rate])}
        best, found = min(means, key=means.get), min(left, key=left.get)
        out.append((best == found, float(means[found] - means[best])))
    return out, spent / full


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", default="runs/halving")
    parser.add_argument("--train", action="store_true")
    args = parser.parse_args()
    results = sj.run(study_of(), args.workdir, verbose=False)
    losses = losses_of(Records(args.workdir).finished())
    dataset_hash = results.table.dataset_hash[0]
    total = []
    for rates in (RATES, RATES[1:]):
        for tokens in STUDIES:
            found = [
                replay(study_of(tokens, seeds, "halving", rates), dataset_hash, losses)
                for count in range(1, len(SEEDS) + 1)
                for seeds in itertools.combinations(SEEDS, count)
            ]
            cells = [cell for some, _ in found for cell in some]
            total += cells
            same, worse = np.mean([s for s, _ in cells]), max(w for _, w in cells)
            cost = np.mean([share for _, share in found])
            print(
                f"{len(rates)} rates, {len(tokens)} budgets: full sweep's winner in {same:.1%} of {len(cells)} cells "
                f"(else at most {worse:.2%} of the loss above), {cost:.1%} of its FLOPs",
                flush=True,
            )
    print(f"all: {np.mean([s for s, _ in total]):.1%} of {len(total)} cells")
    if args.train:
        for sweep in ("full", "halving"):
            folder = pathlib.Path(f"{args.workdir}-{sweep}")
            shutil.rmtree(folder, ignore_errors=True)
            begin = time.monotonic()
            done = sj.run(study_of(STUDIES[0], SEEDS[:2], sweep), folder, verbose=False).table
            done = done[done.status == "done"]
            equal = np.mean([losses[i] == loss for i, loss in zip(done.run_id, done.loss)])
            print(
                f"{sweep}: {time.monotonic() - begin:.0f} s, {len(done)} runs, {equal:.0%} of them bit by bit as above"
            )


if __name__ == "__main__":
    main()
