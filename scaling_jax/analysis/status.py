"""Finds the finished runs of a table in the words of many tools."""

from __future__ import annotations

import pandas as pd

from scaling_jax.analysis.header import Header

DONE, DIVERGED, FAILED = "done", "diverged", "failed"
NAMES = ("status", "state", "run_state", "run_status", "job_state", "job_status")
FINISHED = {
    "done",
    "finished",
    "finish",
    "complete",
    "completed",
    "success",
    "succeeded",
    "successful",
    "ok",
    "terminated",
}
UNFINISHED = {
    "diverged": DIVERGED, "nan": DIVERGED, "exploded": DIVERGED, "failed": FAILED, "fail": FAILED, "failure": FAILED,
    "crashed": FAILED, "crash": FAILED, "error": FAILED, "errored": FAILED, "killed": FAILED, "preempted": FAILED,
    "stopped": FAILED, "canceled": FAILED, "cancelled": FAILED, "aborted": FAILED, "oom": FAILED, "timeout": FAILED,
    "interrupted": FAILED, "running": FAILED, "pending": FAILED, "queued": FAILED, "scheduled": FAILED,
}  # fmt: skip
FLAGS = {"diverged": DIVERGED, "crashed": FAILED, "failed": FAILED}  # columns of booleans


def status_column(header: Header) -> str | None:
    """The column that says how runs ended; a column `state` counts only where its cells are states of runs."""
    for name in NAMES:
        column = header.find(name)
        if column is None or not header.table[column].notna().any():
            continue
        words = set(header.table[column].dropna().map(lambda c: str(c).strip().lower()))
        if column == "status" or words & (FINISHED | set(UNFINISHED)):
            return column
    return None


def statuses(header: Header, column: str | None) -> pd.Series:
    """done, diverged or failed for each row; an unknown or empty word counts as failed.

    Args:
      header: of the table.
      column: of `status_column`; None counts every row as done.
    """
    table = header.table
    if column is None:
        out = pd.Series(DONE, index=table.index, dtype=object)
    else:
        words = table[column].map(lambda c: str(c).strip().lower())
        out = words.map({**dict.fromkeys(FINISHED, DONE), **UNFINISHED}).fillna(FAILED).astype(object)
    for name, status in FLAGS.items():
        flag = header.find(name)
        if flag is not None and pd.api.types.is_bool_dtype(table[flag]):
            out[table[flag].to_numpy(bool)] = status
    return out


def all_known(words: pd.Series) -> bool:
    """Returns True where every cell is a word for the end of a run."""
    return all(str(word).strip().lower() in FINISHED | set(UNFINISHED) for word in words)
