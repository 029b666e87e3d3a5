"""Checks of a ladder and the verdict they lead to."""

from scaling_jax.analysis.checks.base import Check, Evidence
from scaling_jax.analysis.checks.run import CHECKS, run_checks, verdict

__all__ = ["CHECKS", "Check", "Evidence", "run_checks", "verdict"]
