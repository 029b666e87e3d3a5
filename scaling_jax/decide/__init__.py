"""What to do with an answer: the next runs of a study, and the big one."""

from scaling_jax.decide.chips import Chip, find_chip
from scaling_jax.decide.next_runs import NextRuns, next_runs
from scaling_jax.decide.notes import notes, planned
from scaling_jax.decide.reach import Reach, reach
from scaling_jax.decide.recommend import Recommendation, recommend
from scaling_jax.decide.surface import Surface

__all__ = [
    "Chip",
    "NextRuns",
    "Reach",
    "Recommendation",
    "Surface",
    "find_chip",
    "next_runs",
    "notes",
    "planned",
    "reach",
    "recommend",
]
