"""Finds the finished runs of a table in the words of many tools."""

from __future__ import annotations

import re

import pandas as pd

from scaling_jax.analysis.frames import names_of
from scaling_jax.analysis.header import Header, simple

DONE, DIVERGED, FAILED = "done", "diverged", "failed"
STOPPED = "stopped"  # in our own tables, where no result was wanted; elsewhere a run that was stopped has failed
FINISHED = frozenset((
    "done", "finished", "finish", "complete", "completed", "success", "succeeded", "successful", "ok", "passed",
    "terminated",
))  # fmt: skip
UNFINISHED = {
    "diverged": DIVERGED, "nan": DIVERGED, "exploded": DIVERGED, "failed": FAILED, "fail": FAILED, "failure": FAILED,
    "crashed": FAILED, "crash": FAILED, "error": FAILED, "errored": FAILED, "killed": FAILED, "preempted": FAILED,
    "preempting": FAILED, "stopped": FAILED, "canceled": FAILED, "cancelled": FAILED, "aborted": FAILED, "oom": FAILED,
    "out_of_memory": FAILED, "timeout": FAILED, "timed_out": FAILED, "node_fail": FAILED, "interrupted": FAILED,
    "running": FAILED, "pending": FAILED, "queued": FAILED, "scheduled": FAILED, "waiting": FAILED, "pruned": FAILED,
}  # fmt: skip
YES, NO = frozenset(("true", "yes", "y", "1", "1.0")), frozenset(("false", "no", "n", "0", "0.0"))
_STATUS = re.compile(r"(?:^|_)(?:status|state|outcome|phase|result)$")
_GOOD = re.compile(r"(?:^|_)(?:finished|done|completed?|succeeded|success)$")
_BAD = re.compile(r"(?:^|_)(diverged|exploded|nan|crashed|failed|killed|preempted)$")
_CODE = re.compile(r"(?:^|_)(?:exit_?code|return_?code|exit_?status)$")


def status_column(header: Header) -> str | None:
    """The column that says how runs ended: one called status, state or the like (also `info.status`) that does.

    A column called exactly `status` is taken whatever its words are; any other only where it holds states of runs.
    """
    table = header.table
    named = [c for c in names_of(table) if _STATUS.search(_simple(c)) and table[c].notna().any()]
    for column in sorted(named, key=lambda c: (c != "status", len(c))):
        words = set(map(_word, table[column].dropna()))
        if column == "status" or 2 * sum(map(_known, words)) > len(words):  # `state` may also be of the USA
            return column
    return None


def statuses(header: Header, column: str | None) -> pd.Series:
    """done, diverged or failed for each row; an unknown or empty word counts as failed.

    Columns of yes and no (`finished`, `diverged`, `has_nan` ...) and exit codes are read too.

    Args:
      header: of the table.
      column: of `status_column`; None counts every row as done.
    """
    table = header.table
    if column is None:
        out = pd.Series(DONE, index=table.index, dtype=object)
    else:
        out = table[column].map(_meaning).astype(object)
    for name in flag_columns(header):
        bad = _BAD.search(_simple(name))
        words = table[name].map(_word)
        if _CODE.search(_simple(name)):
            out[~words.map(_is_zero) & (out == DONE)] = FAILED
        elif bad:
            out[words.isin(YES)] = DIVERGED if bad[1] in ("diverged", "exploded", "nan") else FAILED
        else:
            out[~words.isin(YES) & (out == DONE)] = FAILED
    return out


def flag_columns(header: Header) -> list[str]:
    """Columns of yes and no, or of exit codes, that say how runs ended."""
    found = []
    for name in names_of(header.table):
        plain = _simple(name)
        flag, code = _GOOD.search(plain) or _BAD.search(plain), _CODE.search(plain)
        if not (flag or code):
            continue
        words = set(map(_word, header.table[name].dropna()))
        codes = code and all(re.fullmatch(r"-?\d+(\.0)?(:\d+)?", word) for word in words)
        if words and (codes or (flag and words <= YES | NO)):
            found.append(name)
    return found


def all_known(words: pd.Series) -> bool:
    """Returns True where every cell is a word for the end of a run."""
    return all(map(_known, map(_word, words)))


def is_done(cell: object) -> bool:
    """Returns True for a word such as `finished`."""
    return _meaning(cell) == DONE


def _word(cell: object) -> str:
    return str(cell).strip().lower()


def _known(word: str) -> bool:
    return word in FINISHED or _stem(word) in FINISHED or _stem(word) in UNFINISHED


def _stem(word: str) -> str:
    """The state in Slurm's `cancelled by 1000` and Python's `TrialState.FAIL`."""
    return re.sub(r"[ -]", "_", re.sub(r" by .*|.*\.", "", word))


def _meaning(cell: object) -> str:
    word = _word(cell)
    return DONE if word in FINISHED or _stem(word) in FINISHED else UNFINISHED.get(_stem(word), FAILED)


def _is_zero(word: str) -> bool:
    return re.fullmatch(r"0(\.0)?(:0)?", word) is not None


def _simple(name: str) -> str:
    """`JobState`, `info.status` and `Exit Code` as job_state, info_status and exit_code."""
    return simple(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
