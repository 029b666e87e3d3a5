"""A table of runs -> fits, forecast, frontier, checks and a verdict: one Analysis."""

from scaling_jax.analysis.analyse import analyse
from scaling_jax.analysis.analysis import Analysis
from scaling_jax.analysis.checks import Check
from scaling_jax.analysis.columns import Columns
from scaling_jax.analysis.files import parse_table
from scaling_jax.analysis.header import parse_mapping
from scaling_jax.analysis.hold_out import HoldOut
from scaling_jax.analysis.read import read_runs
from scaling_jax.analysis.runs import Runs

__all__ = [
    "Analysis",
    "Check",
    "Columns",
    "HoldOut",
    "Runs",
    "analyse",
    "parse_mapping",
    "parse_table",
    "read_runs",
]
