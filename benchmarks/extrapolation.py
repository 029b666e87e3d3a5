r"""How often a 90% interval covers the run that comes next: rolling origins over public ladders.

    python benchmarks/extrapolation.py FITDATA [--seconds 900] [--save targets.csv]

FITDATA is a folder with the ladders (see `ladders`), or a CSV with N, D, C and loss of a single one. Each ladder is
cut at up to four budgets; the runs below a cut are the data, the runs above it are the targets, in bins by how many
times beyond the data's largest budget they lie. `fitting.forecast` is compared with the bootstrap of one law. Takes 7
minutes on a busy core.
"""

import argparse
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.fitting.inference.rolling import inner_cuts, levels
from scaling_jax.text import table

BINS = {"2x": (1, 10**0.5), "5x": (10**0.5, 50**0.5), "10x": (50**0.5, 200**0.5), "20x": (200**0.5, 800**0.5),
        "40x+": (800**0.5, np.inf)}  # fmt: skip
LEVEL = 0.9
MIN_ROWS, MIN_LEVELS, MIN_SPAN, MAX_CUTS = 12, 3, 6.0, 4  # of what lies below a cut; cuts of a ladder


class Ladder(NamedTuple):
    """Runs of one experiment: N, D, C and loss, each (n,)."""

    source: str
    name: str
    N: np.ndarray
    D: np.ndarray
    C: np.ndarray
    y: np.ndarray


def ladders(folder: pathlib.Path) -> Iterator[Ladder]:
    """The public ladders: one row per run, without the runs that the authors or their curators excluded.

    Or, of a CSV file with the columns N, D, C and loss, that one ladder.
    """

    def ladder(source: str, name: str, rows: pd.DataFrame) -> Ladder:
        columns = (rows[k].to_numpy(float) for k in ("params", "tokens", "flops", "loss"))
        return Ladder(source, name, *columns)

    if folder.is_file():
        rows = pd.read_csv(folder)
        yield Ladder(folder.stem, folder.stem, *(rows[k].to_numpy(float) for k in ("N", "D", "C", "loss")))
        return
    rows = pd.read_csv(folder / "chinchilla_epoch.csv")
    yield ladder("hoffmann", "epoch_svg", rows[rows.excluded == 0])
    rows = pd.read_csv(folder / "isoflop.csv")
    sources = {"epochai": "hoffmann", "ml": "hoffmann", "llama": "llama3", "marin": "marin", "misfitting": "misfitting"}
    for name, part in rows[rows.outlier == 0].groupby("experiment"):
        yield ladder(sources[str(name).split("_")[0]], str(name), part)
    for name, part in pd.read_csv(folder / "porian.csv").groupby("experiment"):
        yield ladder("porian_" + str(name).split("/")[0], str(name), part)
    rows = pd.read_csv(folder / "datablations.csv")
    yield ladder("datablations", "datablations, one epoch", rows[(rows.epochs <= 1) & (rows.in_fit == 1)])
    rows = pd.read_csv(folder / "misfitting.csv")
    best = rows.loc[rows.groupby(["params", "tokens"]).loss.idxmin()]
    yield ladder("misfitting", "misfitting, best rate", best)


def cuts(C: np.ndarray) -> list[float]:
    """Budgets to cut at: enough rows, rungs and range below, four of them evenly spaced where there are more."""
    good = []
    for rung in levels(C)[MIN_LEVELS:] * 0.999:
        below = C[rung > C]
        if len(below) >= MIN_ROWS and below.max() / C.min() >= MIN_SPAN:
            good.append(float(rung))
    if len(good) > MAX_CUTS:
        good = [good[i] for i in np.unique(np.round(np.linspace(0, len(good) - 1, MAX_CUTS + 1)).astype(int))]
    return good[:MAX_CUTS]


Method = Callable[[dict, np.ndarray, dict], tuple[np.ndarray, np.ndarray, np.ndarray]]


def forecast(data: dict, y: np.ndarray, asked: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`fitting.forecast` as it comes: value, low, high."""
    found = fitting.forecast(data, y, level=LEVEL).predict(asked)
    return found.value, found.low, found.high


def one_law(law: str, recent: bool = False) -> Method:
    """One law with its pairs bootstrap; with `recent`, rows weighted as in the forecast."""

    def method(data: dict, y: np.ndarray, asked: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from scaling_jax.fitting.inference.rolling import recency_weights

        weights = recency_weights(6 * data["N"] * data["D"]) if recent else None
        fit = fitting.fit(law, data, y, starts=8, weights=weights)
        low, high = fit.bootstrap(200).predict(asked, LEVEL).interval
        return fit.predict(asked), low, high

    return method


def mean_of_laws(data: dict, y: np.ndarray, asked: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The forecast's three laws with equal weights and rows; the spread of laws, scatter and the smallest drift, x .70.

    Drift: rms error of a law's forecasts from inner cuts per decade. The plainest method that covers about 90%.
    """
    laws, C = ("chinchilla", "chinchilla_tied", "chinchilla_outer"), 6 * data["N"] * data["D"]
    logs, scatters, drifts = [], [], []
    for law in laws:
        whole = fitting.fit(law, data, y, starts=8)
        logs.append(np.log(whole.predict(asked)))
        scatters.append(np.sqrt(np.sum(whole.residuals**2) / max(len(y) - 5, 1)))
        errors, decades = [], []
        for below in (cut > C for cut in inner_cuts(C)):
            if below.sum() < 7:
                continue
            fit = fitting.fit(law, {k: v[below] for k, v in data.items()}, y[below], starts=4)
            errors.append(np.log(fit.predict({k: v[~below] for k, v in data.items()}) / y[~below]))
            decades.append(np.maximum(np.log10(C[~below] / C[below].max()), 0.2))
        if errors:
            drifts.append(np.sqrt(np.sum(np.concatenate(errors) ** 2) / np.sum(np.concatenate(decades) ** 2)))
    beyond = np.log10(6 * asked["N"] * asked["D"] / C.max())
    variance = np.var(logs, axis=0, ddof=1) + min(scatters) ** 2 + (min(drifts, default=0.0) * beyond) ** 2
    mean, half = np.mean(logs, axis=0), 0.70 * 1.645 * np.sqrt(variance)
    return np.exp(mean), np.exp(mean - half), np.exp(mean + half)


METHODS: dict[str, Method] = {
    "forecast": forecast,
    "mean of the same laws and smallest drift, x .70": mean_of_laws,
    "chinchilla, pairs bootstrap": one_law("chinchilla"),
    "chinchilla_tied, pairs bootstrap": one_law("chinchilla_tied"),
    "chinchilla_outer, pairs bootstrap": one_law("chinchilla_outer"),
    "chinchilla, rows weighted as in the forecast": one_law("chinchilla", recent=True),
}


def judged(folder: pathlib.Path, seconds: float) -> pd.DataFrame:
    """One row per method, cut and target: factor, error in ln y, width in ln y, score."""
    found, start = [], time.time()
    for ladder in ladders(folder):
        for cut in cuts(ladder.C):
            below = cut > ladder.C
            data, asked = ({"N": ladder.N[m], "D": ladder.D[m]} for m in (below, ~below))
            for name, method in METHODS.items():
                if time.time() - start > seconds:
                    raise SystemExit(f"more than {seconds:.0f} s")
                try:
                    value, low, high = (np.log(v) for v in method(data, ladder.y[below], asked))
                except fitting.FitError as error:
                    print(f"{ladder.name} below {cut:.2g}, {name}: {error}")
                    continue
                y = np.log(ladder.y[~below])
                found.append(
                    pd.DataFrame(
                        {
                            "method": name,
                            "source": ladder.source,
                            "ladder": ladder.name,
                            "cut": cut,
                            "factor": ladder.C[~below] / ladder.C[below].max(),
                            "error": value - y,
                            "covered": (low <= y) & (y <= high),
                            "width": high - low,
                            "score": high - low + 2 / (1 - LEVEL) * (np.maximum(low - y, 0) + np.maximum(y - high, 0)),
                        }
                    )
                )
        print(
            f"{ladder.name}: {len(ladder.y)} runs, {len(cuts(ladder.C))} cuts, {time.time() - start:.0f} s", flush=True
        )
    return pd.concat(found)


def by_factor(rows: pd.DataFrame) -> str:
    """Coverage, median width and median |error| of every method by factor."""
    lines = []
    for name, part in rows.groupby("method", sort=False):
        bins = [part[(part.factor > low) & (part.factor <= high)] for low, high in BINS.values()]
        by_cut = part.groupby(["ladder", "cut"])
        lines.append(
            [name]
            + [" ".join(f"{b.covered.mean():.2f}" for b in bins), f"{part.covered.mean():.2f}"]
            + [" ".join(f"{b.width.median():.3f}" for b in bins)]
            + [" ".join(f"{b.error.abs().median():.4f}" for b in bins)]
            + [" ".join(f"{b.error.abs().mean():.3f}" for b in bins)]
            + [f"{part.score.mean():.3f}", f"{by_cut.score.mean().mean():.3f}"]
        )
    header = ["method", "coverage", "mean", "median width", "median error", "mean error", "score", "score by cut"]
    return table([f"{h} ({' '.join(BINS)})" if 0 < i < 6 and h != "mean" else h for i, h in enumerate(header)], lines)


def by_source(rows: pd.DataFrame) -> str:
    """Coverage, median width and median |error| of the forecast by source."""
    part = rows[rows.method == "forecast"]
    lines = [
        [name, len(p), f"{p.covered.mean():.2f}", f"{p.width.median():.3f}", f"{p.error.abs().median():.4f}"]
        for name, p in part.groupby("source", sort=False)
    ]
    return table(["source", "targets", "coverage", "median width", "median error"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--save", type=pathlib.Path, help="CSV of every target")
    flags = parser.parse_args()
    warnings.simplefilter("ignore", fitting.FitWarning)
    rows = judged(flags.folder, flags.seconds)
    targets = rows[rows.method == "forecast"]
    counts = [int(((targets.factor > low) & (targets.factor <= high)).sum()) for low, high in BINS.values()]
    print(f"{targets.groupby(['ladder', 'cut']).ngroups} cuts of {targets.ladder.nunique()} ladders; targets {counts}")
    print(by_factor(rows), by_source(rows), sep="\n\n")
    if flags.save:
        rows.to_csv(flags.save, index=False)


if __name__ == "__main__":
    main()
