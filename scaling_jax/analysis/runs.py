"""The results table sorted into what enters a fit and what does not, loudly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from scaling_jax.errors import UserError
from scaling_jax.storage.records import DIVERGED, DONE, FAILED

# Of these more is better: what they lack of 1 is what a law describes.
LACKING = {"accuracy": "error", "macro_f1": "1 - macro F1"}
ONE_EPOCH = 1.001  # budgets are rounded to whole steps


@dataclasses.dataclass(frozen=True)
class Runs:
    """What the results table holds.

    Attributes:
      table: every run, one row each, with the columns N, D, C and y that the law reads.
      chosen: of the finished runs the best over rates, decays and initialisations at each (scale, tokens, seed):
        what is fitted; `trunk` is equal for runs that branched off one trunk.
      scales: one row per scale in order of N, as `scale_table` says.
      counts: status -> number of runs.
      noise: standard deviation of ln y between seeds; None without repeats.
      noise_runs: how many runs it is estimated from.
      pinned: scale -> what is said about a best rate at the edge of the rates swept.
      rates: how many rates were swept.
      repeated: the most epochs of a chosen run, where one saw data again, else None.
    """

    table: pd.DataFrame
    chosen: pd.DataFrame
    scales: pd.DataFrame
    counts: Mapping[str, int]
    noise: float | None
    noise_runs: int
    pinned: Mapping[str, str]
    rates: int
    repeated: float | None

    def of_status(self, status: str) -> pd.DataFrame:
        """The runs with this status."""
        return self.table[self.table.status == status]


def read_runs(table: pd.DataFrame, metric: str, params: str) -> Runs:
    """Sorts the results table; `metric` becomes y, `params` N, `tokens` D, `flops` C and `unique_tokens` U.

    Accuracy and macro F1 become y = 1 - value.

    Raises:
      UserError: no rows, missing columns, corpora mixed, or a finished run with a value that is no positive number.
    """
    needed = ["run_id", "scale", "seed", "status", "lr", "tokens", "flops", "dataset_hash", params, metric]
    missing = [name for name in dict.fromkeys(needed) if name not in table.columns]
    if missing:
        raise UserError(
            f"the results table has no column {', '.join(map(repr, missing))}; it has "
            + ", ".join(map(str, table.columns))
        )
    if table.empty:
        raise UserError("the results table holds no run; train first with scaling-jax run")
    unknown = sorted(set(table.status.astype(str)) - {DONE, DIVERGED, FAILED})
    if unknown:
        raise UserError(f"the results table has status {unknown[0]!r}; known are {DONE}, {DIVERGED}, {FAILED}")
    table = table.drop_duplicates("run_id", keep="last").reset_index(drop=True)
    table = table.assign(N=table[params], D=table["tokens"], C=table["flops"], y=table[metric])
    if metric in LACKING:
        table["y"] = 1 - pd.to_numeric(table[metric], errors="coerce")
    if "unique_tokens" in table:
        table["U"] = pd.to_numeric(table["unique_tokens"], errors="coerce")
    done = table[table.status == DONE]
    _check_numbers(done, {"N": params, "D": "tokens", "C": "flops", "y": y_name(metric)})
    hashes = list(dict.fromkeys(done.dataset_hash.astype(str)))
    if len(hashes) > 1:
        raise UserError(
            f"the runs were trained on {len(hashes)} different corpora (dataset_hash {', '.join(hashes[:3])}): "
            "losses on different data follow no common law; keep the rows of one"
        )
    # Runs that did not finish may lack numbers, and what a file holds of them may be text.
    table = table.assign(**{k: pd.to_numeric(table[k], errors="coerce").astype(float) for k in "NDCy"})
    best = _best(table[table.status == DONE])
    trunk = best["trunk_id"] if "trunk_id" in best else best[["scale", "lr", "seed"]].astype(str).agg("/".join, axis=1)
    best = best.assign(trunk=trunk.to_numpy())
    return Runs(
        table=table,
        chosen=best.reset_index(drop=True),
        scales=scale_table(best),
        counts={s: int((table.status == s).sum()) for s in (DONE, DIVERGED, FAILED)},
        **_noise(best),
        pinned=_pinned_rates(table, best),
        rates=int(table.lr.nunique()),
        repeated=_repeated(best),
    )


def y_name(metric: str) -> str:
    """What y is in a word or two."""
    return LACKING.get(metric, metric)


def _repeated(best: pd.DataFrame) -> float | None:
    if "epochs" not in best:
        return None
    most = float(pd.to_numeric(best["epochs"], errors="coerce").max())
    return most if most > ONE_EPOCH else None


def _check_numbers(done: pd.DataFrame, columns: Mapping[str, str]) -> None:
    for name, original in columns.items():
        values = pd.to_numeric(done[name], errors="coerce").to_numpy(float)
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            row = done.iloc[int(np.argmax(bad))]
            raise UserError(
                f"run {row.run_id} is done but its {original} is {row[name]}, not a positive number; "
                "mark the run failed or mend the value"
            )


def _best(done: pd.DataFrame) -> pd.DataFrame:
    ranked = done.sort_values(["y", "run_id"], kind="stable")
    return ranked.drop_duplicates(["scale", "tokens", "seed"]).sort_values(["C", "N", "run_id"])


def scale_table(best: pd.DataFrame) -> pd.DataFrame:
    """One row per scale: N, the number of budgets, and its best run (y, D, C, lr) at its largest and at any budget.

    Columns: scale, N, budgets, y (best at any budget), D, C, lr (of that run), longest (the largest D), y_longest (the
    best there).
    """
    rows = []
    for scale, group in best.groupby("scale", sort=False):
        group = group.sort_values("y", kind="stable")
        top, longest = group.iloc[0], group.loc[group.D.idxmax()]
        rows.append((scale, top.N, group.D.nunique(), top.y, top.D, top.C, top.lr, longest.D, longest.y))
    frame = pd.DataFrame(rows, columns=["scale", "N", "budgets", "y", "D", "C", "lr", "longest", "y_longest"])
    return frame.sort_values(["N", "scale"], kind="stable").reset_index(drop=True)


def _noise(best: pd.DataFrame) -> dict:
    """Pooled standard deviation of ln y over seeds at equal (scale, tokens)."""
    log_y = np.log(best.y)
    groups = log_y.groupby([best.scale, best.tokens])
    repeated = groups.transform("size") > 1
    freedom = int(repeated.sum()) - int((groups.size() > 1).sum())
    if freedom < 1:
        return {"noise": None, "noise_runs": 0}
    squares = ((log_y - groups.transform("mean")) ** 2).sum()
    return {"noise": float(np.sqrt(squares / freedom)), "noise_runs": int(repeated.sum())}


def _pinned_rates(table: pd.DataFrame, best: pd.DataFrame) -> dict[str, str]:
    """Scales where every budget's best rate is the lowest or the highest tried; a diverged rate counts as tried."""
    pinned = {}
    for scale, group in best.groupby("scale", sort=False):
        tried = np.sort(table.lr[(table.scale == scale) & (table.status != FAILED)].unique())
        winners = group.lr.unique()
        if tried.size > 1 and winners.size == 1 and winners[0] in (tried[0], tried[-1]):
            side, way = ("lowest", "lower") if winners[0] == tried[0] else ("highest", "higher")
            pinned[scale] = f"{winners[0]:g} is the {side} of {tried.size} rates: try {way}"
    return pinned
