"""Ladders with one known fault each, and clean ones: what the checks must tell apart.

Losses follow E + A / N^alpha + B / D^beta with noise that the branches of a trunk share, as seeds do in real ladders.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

E, A, B, ALPHA, BETA = 1.3, 14.0, 110.0, 0.34, 0.34
SIZES = (2e4, 5e4, 1.2e5, 3e5, 7e5)
TRUNK, RUN = 0.003, 0.0015  # standard deviations of ln loss
STEP_TOKENS = 2048.0


def law(N, D):
    """The truth."""
    return E + A / N**ALPHA + B / D**BETA


def best_ratio() -> float:
    """D / N where 6 N D of the middle size is spent best."""
    N = SIZES[len(SIZES) // 2]
    return float((B * BETA / (A * ALPHA)) ** (1 / BETA) * N ** (ALPHA / BETA - 1))


def ladder(
    rng: np.random.Generator,
    *,
    sizes=SIZES,
    tokens=None,
    seeds: int = 2,
    trunk: float = TRUNK,
    run: float = RUN,
    factor: Callable | None = None,
    rates=(0.02,),
) -> pd.DataFrame:
    """A ladder in the columns of anybody's table.

    Args:
      rng: of the noise.
      sizes: N of the scales.
      tokens: budgets that every scale trains to; None spreads six around the best for the middle size.
      seeds: trunks per scale.
      trunk, run: standard deviations of ln loss, shared by a trunk's branches and of each run.
      factor: factor(N, D, rate) on the loss: the fault.
      rates: learning rates, each trained with every seed.
    """
    middle = best_ratio() * sizes[len(sizes) // 2]
    tokens = middle * np.geomspace(0.12, 12.0, 6) if tokens is None else tokens
    rows = []
    for i, N in enumerate(sizes):
        for rate in rates:
            for seed in range(seeds):
                shared = rng.normal(0, trunk)
                for D in tokens(N) if callable(tokens) else tokens:
                    steps = max(round(D / STEP_TOKENS), 1)
                    loss = law(N, D) * np.exp(shared + rng.normal(0, run))
                    loss *= 1.0 if factor is None else factor(N, D, rate)
                    rows.append((f"w{i}", N, D, 6 * N * D, seed, rate, steps, loss))
    return pd.DataFrame(rows, columns=["model", "params", "tokens", "flops", "seed", "lr", "steps", "loss"])


def clean(seed: int) -> pd.DataFrame:
    """A sound ladder of a kind that changes with the seed: grid or IsoFLOP, two or three seeds, more or less noise."""
    rng = np.random.default_rng([7, seed])
    seeds, noise = int(rng.integers(2, 4)), float(rng.choice([0.5, 1.0, 2.0]))
    sizes = SIZES if rng.random() < 0.5 else tuple(np.geomspace(1.5e4, 1.2e6, 6))
    kwargs = {"sizes": sizes, "seeds": seeds, "trunk": noise * TRUNK, "run": noise * RUN}
    if rng.random() < 0.4:
        C = 6 * sizes[len(sizes) // 2] ** 2 * best_ratio() * np.geomspace(0.05, 20, 5)
        return ladder(rng, tokens=lambda N: C / (6 * N), **kwargs)
    return ladder(rng, **kwargs)


def _scale(size: float, off: float) -> Callable:
    return lambda N, D, rate: 1 + off if size == N else 1.0


def _short_runs(N, D, rate):
    return 1.05 if 0.2 * best_ratio() * SIZES[2] > D else 1.0


def _tuning_worsens(N, D, rate):
    return 1 + 0.012 * np.log2(N / SIZES[0]) ** 2 / 4


def _transition(N, D, rate):
    return 0.95 if N > 2e5 else 1.0


def _late_transition(N, D, rate):
    return 0.94 if 6 * SIZES[2] ** 2 * best_ratio() * 3 < 6 * N * D else 1.0


def _held_out(off: float) -> Callable:
    def factor(N, D, rate):
        largest = 6 * SIZES[-1] * best_ratio() * SIZES[2] * 12
        return 1 + off if 0.5 * largest * 0.99 <= 6 * N * D else 1.0

    return factor


def _edge_at_long_budgets(N, D, rate):
    best = 0.02 if 2 * best_ratio() * SIZES[2] > D else 0.005
    return 1 + 0.02 * np.log(rate / best) ** 2 / np.log(2) ** 2


def _edge_everywhere(N, D, rate):
    return 1 + 0.02 * np.log(rate / 0.2) ** 2 / np.log(2) ** 2


def _outlier(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[17, "loss"] *= 1.07
    return table


def _diverged_unmarked(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[[5, 30], "loss"] = 7.9
    return table


def _noise_only(rng) -> pd.DataFrame:
    table = ladder(rng)
    return table.assign(loss=2.4 * np.exp(rng.normal(0, 0.01, len(table))))


def _dataset_change(rng) -> pd.DataFrame:
    table = ladder(rng)
    table["dataset"] = np.where(table.params > 2e5, "c4", "pile")
    return table.assign(loss=table.loss * np.where(table.dataset == "c4", 1.06, 1.0))


def _code_change(rng) -> pd.DataFrame:
    table = ladder(rng)
    return table.assign(code_version=np.where(table.params > 2e5, "b2", "b1"))


def _millions(rng) -> pd.DataFrame:
    table = ladder(rng)
    return table.assign(params=table.params / 1e6, tokens=table.tokens / 1e9).drop(columns="flops")


def _batch_too_large(N, D, rate):
    """Beyond the critical batch size short runs of the smallest model take too few steps."""
    return 1 + 0.08 * (0.12 * best_ratio() * SIZES[2] / D) ** 0.5 if SIZES[0] == N else 1.0


def _decay_off(N, D, rate):
    """A weight decay that is wrong for one width costs more the longer it acts."""
    return 1 + 0.012 * np.log2(D / (0.1 * best_ratio() * SIZES[2])) if SIZES[3] == N else 1.0


def _no_cooldown(N, D, rate):
    return 1.04 if 11 * best_ratio() * SIZES[2] < D else 1.0


def _recovered(table: pd.DataFrame) -> pd.DataFrame:
    """A trunk that diverged and came back is worse from there on."""
    late = (table.params == SIZES[3]) & (table.seed == 1) & (table.tokens > table.tokens.median())
    return table.assign(loss=table.loss * np.where(late, 1.06, 1.0))


def _other_evaluation(rng) -> pd.DataFrame:
    """The second seed was scored on another validation set."""
    table = ladder(rng)
    return table.assign(loss=table.loss * np.where(table.seed == 1, 1.03, 1.0))


def _copied_seed(rng) -> pd.DataFrame:
    table = ladder(rng)
    first = table[table.seed == 0]
    return pd.concat([first, first.assign(seed=1)], ignore_index=True)


def _thousands(rng) -> pd.DataFrame:
    """One scale's tokens were written down in thousands."""
    table = ladder(rng)
    table["tokens"] /= np.where(table.params == SIZES[1], 1000.0, 1.0)
    return table


def _flops_off(rng) -> pd.DataFrame:
    """One scale's FLOPs were counted three times."""
    table = ladder(rng)
    return table.assign(flops=6 * table.params * table.tokens * np.where(table.params == SIZES[2], 3.0, 1.05))


def _seeds_at_the_smallest(rng) -> pd.DataFrame:
    table = ladder(rng)
    return table[(table.params == SIZES[0]) | (table.seed == 0)].reset_index(drop=True)


def _untuned_decay(rng) -> pd.DataFrame:
    parts = [ladder(rng, factor=lambda N, D, rate, d=d: 1 + 0.02 * (d - 0.4) ** 2 / 0.01) for d in (0.1, 0.2, 0.3)]
    return pd.concat([t.assign(weight_decay=d) for t, d in zip(parts, (0.1, 0.2, 0.3))], ignore_index=True)


# Name -> (the ladder, a word or pattern that its reasons must hold).
FAULTY: dict[str, tuple[Callable[[np.random.Generator], pd.DataFrame], str]] = {
    "middle scale 5% high": (lambda r: ladder(r, factor=_scale(SIZES[2], 0.05)), r"scale 120k is .* above"),
    "second scale 4% low": (lambda r: ladder(r, factor=_scale(SIZES[1], -0.04)), r"scale 50\.0k is .* below"),
    "largest scale 6% high": (lambda r: ladder(r, factor=_scale(SIZES[4], 0.06)), r"scale|700k|held-out|bend"),
    "one scale high, one seed": (
        lambda r: ladder(r, seeds=1, factor=_scale(SIZES[3], 0.05)), r"scale 300k is .* above",
    ),
    "shortest budget too high": (lambda r: ladder(r, factor=_short_runs), r"budget of .* is .* above"),
    "tuning worsens with width": (lambda r: ladder(r, factor=_tuning_worsens), r"bend|scale|held-out|below the"),
    "transition with size": (lambda r: ladder(r, factor=_transition), r"step|scale|bend"),
    "transition with compute": (lambda r: ladder(r, factor=_late_transition), r"step|bend|held-out|misses"),
    "hold-out 1.8% off, one sign": (lambda r: ladder(r, factor=_held_out(0.018)), r"held-out"),
    "hold-out 4% off": (lambda r: ladder(r, factor=_held_out(0.04)), r"held-out"),
    "rates at the edge at long budgets": (
        lambda r: ladder(r, rates=(0.005, 0.01, 0.02), factor=_edge_at_long_budgets), r"best rate is at the edge",
    ),
    "rates at the edge everywhere": (
        lambda r: ladder(r, rates=(0.01, 0.02, 0.04), factor=_edge_everywhere), r"0\.04 is the highest of 3 rates",
    ),
    "two rates won by noise": (lambda r: ladder(r, rates=(0.01, 0.02), trunk=0.01), r"wins by noise"),
    "D = 20 N": (
        lambda r: ladder(r, sizes=tuple(np.geomspace(1e4, 1e6, 8)), tokens=lambda N: [20 * N]), r"correlate at 1\.00",
    ),
    "one outlier": (lambda r: _outlier(ladder(r)), r"is .* above what the others predict: check or drop"),
    "unmarked divergence": (lambda r: _diverged_unmarked(ladder(r)), r"check or drop it"),
    "noise only": (_noise_only, r"hardly depends|vanished|explain"),
    "optimum outside": (
        lambda r: ladder(r, tokens=best_ratio() * SIZES[4] * 100 * np.geomspace(1, 8, 4)),
        r"above the largest|below the smallest",
    ),
    "six points for five parameters": (
        lambda r: ladder(r, sizes=SIZES[:3], tokens=best_ratio() * SIZES[1] * np.array([0.3, 3.0])),
        r"6 distinct points",
    ),
    "one seed": (lambda r: ladder(r, seeds=1), r"one seed per run"),
    "too much noise": (lambda r: ladder(r, trunk=0.04, run=0.02, sizes=SIZES[1:4]), r"."),
    "two data sets": (_dataset_change, r"2 data sets"),
    "two versions of the code": (_code_change, r"2 versions of the code"),
    "millions and billions": (
        _millions,
        r"too small to be counts",
    ),
    "a sweep taken for runs": (
        lambda r: ladder(r, rates=(0.005, 0.02, 0.08), factor=lambda N, D, rate: 1 + 0.02 * np.log(rate / 0.02) ** 2),
        r"differ in lr",
    ),
    "batch far above the critical one at the smallest scale": (
        lambda r: ladder(r, factor=_batch_too_large), r"scale 20\.0k|held-out|bend",
    ),
    "weight decay off for one width": (lambda r: ladder(r, factor=_decay_off), r"300k.* above"),
    "no cool-down at the largest budget": (
        lambda r: ladder(r, factor=_no_cooldown), r"budget of .* is .* above|held-out",
    ),
    "one trunk diverged and recovered": (lambda r: _recovered(ladder(r)), r"300k.* is .* above"),
    "seeds scored on two validation sets": (_other_evaluation, r"seed [01] is .* the others"),
    "a seed copied": (_copied_seed, r"seeds 0 and 1 have the same"),
    "one scale's tokens in thousands": (_thousands, r"in another unit"),
    "one scale's FLOPs counted three times": (_flops_off, r"120k flops is 2\.9 times as much"),
    "seeds at the smallest scale alone": (_seeds_at_the_smallest, r"alone: the scatter of other scales is unknown"),
    "best weight decay at the edge": (_untuned_decay, r"0\.3 is the highest of 3 weight decays"),
    "too few steps": (lambda r: ladder(r).assign(steps=lambda t: (t.steps / 400).astype(int) + 10), r"optimizer steps"),
}  # fmt: skip
