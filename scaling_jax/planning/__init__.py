"""Study -> Runs (N, D, C) -> Packs: runs of one shape, trained together by one compiled program."""

from scaling_jax.planning.identities import compute_dtype_of, frame, grouped, identified, record_of, subset
from scaling_jax.planning.memory import memory_bytes, step_bytes
from scaling_jax.planning.pack import NO_DECAY, Lane, Pack, Phase, Run, branch_name, phases, scale_name
from scaling_jax.planning.plan import make_plan
from scaling_jax.planning.rounds import Sweep, expected_flops, with_rungs, without_rungs

__all__ = [
    "NO_DECAY", "Lane", "Pack", "Phase", "Run", "Sweep", "branch_name", "compute_dtype_of", "expected_flops", "frame",
    "grouped", "identified", "make_plan", "memory_bytes", "phases", "record_of", "scale_name", "step_bytes", "subset",
    "with_rungs", "without_rungs",
]  # fmt: skip
