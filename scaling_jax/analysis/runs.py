"""The runs of a results table: what is fitted, what is not, and how they repeat each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd

from scaling_jax.analysis.frames import log
from scaling_jax.analysis.status import DIVERGED, DONE, FAILED
from scaling_jax.analysis.winners import Tuned
from scaling_jax.errors import UserError
from scaling_jax.text import listed, short

# Higher is better for these; the law is fitted to 1 - value.
# Metrics that rise, and what is fitted of them: 1 - value.
LACKING = {
    "accuracy": "error", "token_accuracy": "token error", "macro_f1": "1 - macro F1",
    "macro_precision": "1 - macro precision", "macro_recall": "1 - macro recall",
}  # fmt: skip
FEWEST = 3  # sizes, and budgets, of which a law of five parameters can be told
ONE_EPOCH = 1.001  # budgets are rounded to whole steps
SAME_BUDGET = 0.03  # relative: budgets equal but for rounding to whole steps differ by less


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Rows that differ in a tuned quantity only, where every row was taken for a run of its own.

    Attributes:
      groups: (N, D) with several rows; cells: all (N, D).
      column: what differs; "" where no column says.
      spread: largest relative difference of y within a group.
      best_taken: whether the lowest y of each group was taken.
    """

    groups: int
    cells: int
    column: str
    spread: float
    best_taken: bool


@dataclasses.dataclass(frozen=True)
class Runs:
    """The content of a table of runs, from any source.

    Attributes:
      table: every row, with the columns run_id, scale, seed, lr, status (done, diverged or failed), N, D, C and y.
        What a law does not need may be nan.
      chosen: what is fitted, in order of C: of the finished runs those of the best combination of what was tuned at
        each (scale, budget), one per seed, with y corrected (see `winners`); `trunk` is equal for runs that branched
        off one trunk.
      inputs: the law's other inputs -> their (len(chosen),) values.
      clusters: (len(chosen),) labels of rows that are not independent, or None.
      weights: (len(chosen),) or None.
      scales: one row per scale in order of N; see `scale_table`.
      counts: status -> number of rows.
      noise: standard deviation of ln y between seeds; None without repeats.
      noise_runs: how many runs it is estimated from.
      rates: how many learning rates were tried.
      repeated: the most epochs of a chosen run where one saw data again, else None.
      names: N, D, C, y -> the column each was read from.
      conventions: other counts of N in the table -> (len(chosen),) values.
      notes: sentences on what was left out, understood or assumed.
      suspect_units: why N, D or C do not look like counts; "" where they do.
      corpora: names of the data sets, where the table has several.
      sweep: the tuned quantity in the table of somebody else, or None.
      tuned: what our own table tuned and how the winners came about, or None.
      ours: whether the table is one of our results tables.
      curves: why its rows are points of learning curves; "" where they are runs.
    """

    table: pd.DataFrame
    chosen: pd.DataFrame
    inputs: Mapping[str, np.ndarray]
    clusters: np.ndarray | None
    weights: np.ndarray | None
    scales: pd.DataFrame
    counts: Mapping[str, int]
    noise: float | None
    noise_runs: int
    rates: int
    repeated: float | None
    names: Mapping[str, str]
    conventions: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    suspect_units: str
    corpora: tuple[str, ...]
    sweep: Sweep | None
    tuned: Tuned | None
    ours: bool
    curves: str = ""

    def of_status(self, status: str) -> pd.DataFrame:
        """The runs with this status."""
        return self.table[self.table.status == status]

    @property
    def simulated(self) -> str:
        """The laws that runs were drawn from instead of trained, in words; empty where all were trained."""
        laws = self.table["simulated"].dropna().map(str).unique() if "simulated" in self.table else ()
        return listed(law for law in laws if law)

    @property
    def has_compute(self) -> bool:
        """True where every chosen run has N, D and C."""
        return len(self.chosen) > 0 and bool(self.chosen[["N", "D", "C"]].notna().all(axis=None))

    @property
    def too_few(self) -> str:
        """What to run before any law of N and D can be told; "" where there are sizes and budgets enough."""
        enough = not self.has_compute or min(self.chosen.N.nunique(), self.chosen.D.nunique()) >= FEWEST
        return "" if enough else f"run at least {FEWEST} scales with {FEWEST} budgets each"

    @property
    def decided_by_compute(self) -> bool:
        """True where N, D and C are known, and all that decides a loss: no run has a start that others have not."""
        return self.has_compute and "S" not in self.inputs


def seen_before(runs: pd.DataFrame) -> pd.Series:
    """The tokens that the start of every run had seen; 0 of fresh ones."""
    if "pretrain_tokens" not in runs:
        return pd.Series(0.0, index=runs.index)
    return pd.to_numeric(runs["pretrain_tokens"], errors="coerce").fillna(0.0)


def starts_note(done: pd.DataFrame, described: bool) -> str:
    """What is said of runs that start from trained models; "" without such runs.

    Raises:
      UserError: runs of one size start from different training, and the law does not describe that (`described`).
    """
    before = seen_before(done)
    if not before.any():
        return ""
    if not described and ((before == 0).any() or (before.groupby(done["scale"]).nunique() > 1).any()):
        raise UserError(
            "runs of one size start from different training (pretrain_tokens): fit one kind at a time with "
            "--where='pretrain_tokens > 0', or fresh and fine-tuned ones together with --law=transfer"
        )
    least, most = (short(x) for x in (before[before > 0].min(), before.max()))
    span = most if least == most else f"{least} to {most}"
    return f"{int((before > 0).sum())} runs start from models of {span} tokens, which D and C do not count"


def y_name(metric: str) -> str:
    """The fitted quantity in a word or two."""
    name = rising(metric)
    return metric if name is None else LACKING[name] + metric.removeprefix(name).replace("_", " ")


def rising(metric: str) -> str | None:
    """The metric of `LACKING` that a column holds, on whatever validation set: accuracy_news is an accuracy."""
    return next((name for name in LACKING if metric == name or metric.startswith(f"{name}_")), None)


def same_budget(values: pd.Series) -> pd.Series:
    """The budget of each run: the geometric mean of those that are equal but for rounding to whole steps.

    A staircase of nearly equal values is not a budget: its values are returned as they are.
    """
    ordered = log(values).sort_values()
    group = (ordered.diff() > np.log1p(SAME_BUDGET)).cumsum()
    width = ordered.groupby(group).transform(np.ptp)
    mean = ordered.groupby(group).transform("mean").where(width <= 2 * np.log1p(SAME_BUDGET), ordered)
    return np.exp(mean).reindex(values.index)


def best_of(done: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The lowest y of each group, in order of C."""
    ranked = done.sort_values(["y", "run_id"], kind="stable")
    return ranked.drop_duplicates(keys).sort_values(["C", "N", "run_id"])


def scale_table(best: pd.DataFrame) -> pd.DataFrame:
    """One row per scale: N, the number of budgets, and its best run (y, D, C, lr) at its largest and at any budget.

    Columns: scale, N, budgets, y (best at any budget), D, C, lr (of that run), longest (the largest D), y_longest (the
    best there).
    """
    ranked = best.sort_values("y", kind="stable")  # one sort for all: a table of others may hold a size per row
    top = ranked.drop_duplicates("scale").set_index("scale")[["N", "y", "D", "C", "lr"]]
    last = ranked.sort_values("D", ascending=False, kind="stable").drop_duplicates("scale").set_index("scale")
    frame = top.assign(budgets=best.groupby("scale").D.nunique(), longest=last.D, y_longest=last.y).reset_index()
    frame = frame[["scale", "N", "budgets", "y", "D", "C", "lr", "longest", "y_longest"]]
    return frame.sort_values(["N", "scale"], kind="stable").reset_index(drop=True)


def seed_noise(best: pd.DataFrame) -> tuple[float | None, int]:
    """(pooled standard deviation of ln y over seeds at equal (scale, D), runs that it comes from)."""
    log_y = log(best.y)
    groups = log_y.groupby([best.scale, best.D])
    repeated = groups.transform("size") > 1
    freedom = int(repeated.sum()) - int((groups.size() > 1).sum())
    if freedom < 1:
        return None, 0
    squares = ((log_y - groups.transform("mean")) ** 2).sum()
    return float(np.sqrt(squares / freedom)), int(repeated.sum())


def over_seeds(runs: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """One row per (scale, D) with the geometric mean of y over seeds, and how many seeds there are on average.

    Of repeats the luckiest would pass for an optimum.
    """
    groups = runs.assign(y=np.log(runs.y)).groupby(["scale", "D"], sort=False)[["N", "C", "y"]]
    means = groups.mean().reset_index()
    return means.assign(y=np.exp(means.y)), len(runs) / max(len(means), 1)


def most_epochs(best: pd.DataFrame) -> float | None:
    """The most epochs of a run where one saw data again, else None."""
    if "epochs" not in best:
        return None
    most = float(pd.to_numeric(best["epochs"], errors="coerce").max())
    return most if most > ONE_EPOCH else None


def count_statuses(table: pd.DataFrame) -> dict[str, int]:
    """Status -> number of rows."""
    return {s: int((table.status == s).sum()) for s in (DONE, DIVERGED, FAILED)}
