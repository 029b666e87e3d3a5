"""Detects N, D and C that are not counts but millions, billions or exaFLOPs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from scaling_jax.errors import UserError
from scaling_jax.text import short

# No ladder has all of its models below a thousand parameters or all of its runs below ten thousand tokens.
SMALLEST_N, SMALLEST_D, SMALLEST_C = 1e3, 1e4, 1e9
SMALL_N = 1e5  # largest N below which N is doubted together with D
# Tokens (or samples) per parameter that no run of a ladder goes beyond.
RATIO_LOW, RATIO_HIGH = 1e-3, 2e5
MIXED = 1e5  # between the smallest and the largest of a column, where the smallest is no count
FLOPS_APART = 100.0  # times 6 N D
SCALE_APART = 30.0  # the same of one scale, against the others
JUMP = 1.5  # the same of one scale against its neighbors
AGREE, MIN_SCALES = 1.05, 4  # of all other scales, where it is the first or last; and how many there must be
COUNTED_APART = 0.05  # in ln C: by this much FLOPs may differ from 6 N D without a note


def suspect_units(values: pd.DataFrame, names: Mapping[str, str]) -> str:
    """A sentence on the counts that cannot be counts, with the way out; "" where all can.

    Args:
      values: columns N, D, C; nan where there is none.
      names: of those that were read, the column.
    """
    N, D, C = (values[k].max() if k in names else np.nan for k in "NDC")
    wrong = []
    if N < SMALLEST_N or ("D" in names and N < SMALL_N and (D < SMALLEST_D or D / N > RATIO_HIGH)):
        wrong.append(("N", N))
    if D < SMALLEST_D or ("N" in names and D / N < RATIO_LOW):
        wrong.append(("D", D))
    for k, smallest in (("N", SMALLEST_N), ("D", SMALLEST_D)):
        if not wrong and k in names and values[k].min() < smallest and values[k].max() > MIXED * values[k].min():
            row = values.index[values[k].to_numpy().argmin()]
            return (
                f"{k} ({names[k]}) is {short(values[k].min())} in row {row} and {short(values[k].max())} elsewhere: "
                "the column mixes units; write all of it in one"
            )
    if names.get("C", "6 N D") != "6 N D" and {"N", "D"} <= set(names) and not wrong:
        ratio = float(np.median(values.C / (6 * values.N * values.D)))
        if ratio < 1 / FLOPS_APART or ratio > FLOPS_APART:
            return (
                f"{names['C']} is {ratio:.2g} times 6 N D: N, D and C are not all counts; give the factor, e.g. "
                f"--columns='C={names['C']}*1e18' or 'N={names['N']}*1e6'"
            )
        apart = np.log(values.C / (6 * values.N * values.D)).groupby(values.N).median() - np.log(ratio)
        if not wrong and apart.abs().max() > np.log(SCALE_APART):
            at = float(apart.abs().idxmax())
            return (
                f"at N = {short(at)} {names['C']} is {np.exp(apart[at]):.2g} times as much of 6 N D as elsewhere: N, D "
                "or C of that scale is in another unit; write each column in one"
            )
    if names.get("C", "6 N D") != "6 N D" and C < SMALLEST_C:
        wrong.append(("C", C))
    if wrong and not _known(names, [k for k, _ in wrong]):
        largest = ", ".join(f"{k} ({names[k]}) is at most {short(v)}" for k, v in wrong)
        factors = {"N": "1e6", "D": "1e9", "C": "1e18"}
        way = ",".join(f"{k}={names[k]}*{factors[k]}" for k, _ in wrong)
        return (
            f"{largest}: too small to be counts, perhaps millions or billions; give the factor, e.g. --columns='{way}'"
        )
    return ""


def odd_flops(values: pd.DataFrame, names: Mapping[str, str]) -> str:
    """A sentence on a scale whose FLOPs are another multiple of 6 N D than those of its neighbors; "" where none is.

    Attention, embeddings and the mix of width and depth change the multiple from scale to scale. So a scale is odd only
    if it is above both neighbors, or below both; at an end of the ladder, where all others agree.

    Args:
      values, names: as in `suspect_units`.
    """
    if names.get("C", "6 N D") == "6 N D" or not {"N", "D"} <= set(names):
        return ""
    ratio = np.log(values.C / (6 * values.N * values.D)).groupby(values.N).median()
    y, last = ratio.to_numpy(), len(ratio) - 1
    for i in range(len(y)) if last >= MIN_SCALES - 1 else ():
        others = np.delete(y, i)
        near = others if i in (0, last) else y[[i - 1, i + 1]]
        if i in (0, last) and np.ptp(others) > np.log(AGREE):
            continue
        off = y[i] - near.max() if y[i] > near.max() else min(y[i] - near.min(), 0.0)
        if abs(off) > np.log(JUMP):
            return (
                f"at N = {short(ratio.index[i])} {names['C']} is {np.exp(y[i] - near.mean()):.2g} times as much of "
                "6 N D as at its neighbors: check how the FLOPs of that scale were counted, or leave the column out"
            )
    return ""


def check_signs(
    values: pd.DataFrame, names: Mapping[str, str], run_ids: pd.Series | None, metric: str, logs: bool
) -> None:
    """Refuses counts that are empty or not positive, and losses that are not positive.

    Args:
      values: columns N, D, C, y of the finished rows.
      names: of those that were read, the column.
      run_ids: of our own tables; None for tables of others.
      metric: what y is called.
      logs: whether ln y is fitted.

    Raises:
      UserError: with the column, the row and the way out.
    """
    rules = {"C": "FLOPs are positive and finite"} | dict.fromkeys("ND", "a count is positive and finite")
    for name, rule in rules.items():
        if name not in names or names[name] == "6 N D":
            continue
        column, found = names[name], values[name].to_numpy()
        empty = np.isnan(found) & values.y.notna().to_numpy()
        if empty.any():
            raise UserError(
                f"column {column} is empty in {int(empty.sum())} rows (first: row {values.index[empty][0]}); drop "
                "them or fill them in"
            )
        bad = ~np.isnan(found) & ~(np.isfinite(found) & (found > 0))
        if bad.any():
            raise UserError(
                f"column {column}, row {values.index[bad][0]}: {found[bad][0]:g}; {rule}: correct it, or leave such "
                f"rows out ({int(bad.sum())} of {len(values)})"
            )
    bad = np.isfinite(values.y) & ~(values.y > 0)
    if not bad.any() or not (logs or run_ids is not None):
        return
    row, value, y = values.index[bad][0], values.y[bad].iloc[0], names["y"]
    if run_ids is not None:
        raise UserError(
            f"run {run_ids[row]} is done but its {metric} is {value:g}, not a positive number; mark the run as failed, "
            "or fix the value"
        )
    if bad.all():
        raise UserError(f"column {y}, row {row}: {value:g}; a loss is positive: of log-likelihoods, --columns=y=-`{y}`")
    raise UserError(
        f"column {y}, row {row}: {value:g}; a loss is positive: leave such rows out ({int(bad.sum())} of "
        f"{len(values)}), e.g. --where='{y} > 0', or fit y itself with --objective=least_squares"
    )


def _known(names: Mapping[str, str], wrong: list[str]) -> bool:
    return any(k not in names for k in wrong)


def compute_note(values: pd.DataFrame, names: Mapping[str, str]) -> str:
    """A note on FLOPs that differ from 6 N D; "" where they hardly do."""
    if names.get("C", "6 N D") == "6 N D" or not {"N", "D"} <= set(names):
        return ""
    ratio = values.C / (6 * values.N * values.D)
    if not np.max(np.abs(np.log(ratio))) > COUNTED_APART:
        return ""
    ends = dict.fromkeys((f"{ratio.min():.3g}", f"{ratio.max():.3g}"))
    return f"{names['C']} is {' to '.join(ends)} times 6 N D"
