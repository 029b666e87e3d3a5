"""Detects N, D and C that are not counts but millions, billions or exaFLOPs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from scaling_jax.text import short

# No ladder has all of its models below a thousand parameters or all of its runs below ten thousand tokens.
SMALLEST_N, SMALLEST_D, SMALLEST_C = 1e3, 1e4, 1e9
SMALL_N = 1e5  # largest N below which N is doubted together with D
# Tokens (or samples) per parameter that no run of a ladder goes beyond.
RATIO_LOW, RATIO_HIGH = 1e-3, 2e5
FLOPS_APART = 100.0  # times 6 N D
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
    if names.get("C", "6 N D") != "6 N D" and {"N", "D"} <= set(names) and not wrong:
        ratio = float(np.median(values.C / (6 * values.N * values.D)))
        if ratio < 1 / FLOPS_APART or ratio > FLOPS_APART:
            return (
                f"{names['C']} is {ratio:.2g} times 6 N D: N, D and C are not all counts; give the factor, e.g. "
                f"--columns='C={names['C']}*1e18' or 'N={names['N']}*1e6'"
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


def _known(names: Mapping[str, str], wrong: list[str]) -> bool:
    return any(k not in names for k in wrong)


def compute_note(values: pd.DataFrame, names: Mapping[str, str]) -> str:
    """A note on FLOPs that differ from 6 N D; "" where they hardly do."""
    if names.get("C", "6 N D") == "6 N D" or not {"N", "D"} <= set(names):
        return ""
    ratio = values.C / (6 * values.N * values.D)
    if not np.max(np.abs(np.log(ratio))) > COUNTED_APART:
        return ""
    return f"{names['C']} is {ratio.min():.3g} to {ratio.max():.3g} times 6 N D"
