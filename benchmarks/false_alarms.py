"""How often sound ladders are not trusted, and how often faulty ones are.

    python benchmarks/false_alarms.py --clean=200 --faulty=5

Ladders are simulated (tests/faulty_ladders.py): two or three seeds, noise of .15 to .6% shared by the branches of a
trunk, grids and IsoFLOP designs. One core takes some 2 s per ladder.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import re
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))
import faulty_ladders

from scaling_jax import analysis, study


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clean", type=int, default=200)
    parser.add_argument("--faulty", type=int, default=5, help="seeds per fault")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    args = parser.parse_args()
    fit = study.Fit(bootstrap=30)
    alarms: collections.Counter[str] = collections.Counter()
    wrong = 0
    for seed in range(args.first, args.first + args.clean):
        found = analysis.analyse(faulty_ladders.clean(seed), fit=fit)
        wrong += found.verdict != "trust"
        bad = [check.name for check in found.checks if check.status in ("warn", "fail")]
        alarms.update(bad)
        if bad:
            print(f"seed {seed}: {found.verdict}: {', '.join(bad)}", flush=True)
    print(f"sound ladders not trusted: {wrong} of {args.clean}; by check: {dict(alarms)}")
    missed = unnamed = count = 0
    for name, (make, words) in faulty_ladders.FAULTY.items():
        for seed in range(args.first, args.first + args.faulty):
            columns = analysis.Columns(best="rate" in name or "edge" in name)
            found = analysis.analyse(make(np.random.default_rng(seed)), fit=fit, columns=columns)
            count += 1
            named = re.search(words, " | ".join(found.reasons), re.I) is not None
            missed, unnamed = missed + (found.verdict == "trust"), unnamed + (not named)
            if found.verdict == "trust" or not named:
                print(f"{name}, seed {seed}: {found.verdict}: {found.reasons[:3]}", flush=True)
    print(f"faulty ladders trusted: {missed} of {count}; fault not named: {unnamed}")


if __name__ == "__main__":
    main()
