"""How many steps a dispatch takes, and when to save."""

from __future__ import annotations

from scaling_jax.study import Execution
from scaling_jax.training import distributed

POINT_STEPS = 20  # training losses averaged into one point of a learning curve; the first dispatch takes as many


class Pace:
    """Chooses how many steps a dispatch takes and when to save: from measured times, yet the same on every process.

    A single process follows every measurement. Several processes use the leader's, after the first dispatch and at
    every save, where they synchronize anyway.

    Args:
      execution: its `dispatch_seconds` and `checkpoint_seconds` are the targets.
      buffer_steps: the most steps of a dispatch.
      step_seconds: measured before, by the same program; 0 when nothing was.
    """

    def __init__(self, execution: Execution, buffer_steps: int, step_seconds: float = 0.0):
        self._execution, self._buffer_steps = execution, buffer_steps
        self._measured = self.step_seconds = step_seconds
        self._unsaved_seconds = 0.0

    @property
    def unknown(self) -> bool:
        """True until a dispatch has been timed."""
        return self.step_seconds == 0.0

    def measured(self, step_seconds: float) -> None:
        """Records the seconds per step of a dispatch."""
        self._measured = step_seconds
        if distributed.is_single_process():
            self.step_seconds = step_seconds

    def synchronize(self) -> None:
        """Makes every process use the leader's measurement."""
        (self.step_seconds,) = distributed.broadcast_from_leader([self._measured])

    def chunk(self, left: int) -> int:
        """Steps of the next dispatch when `left` remain in the phase."""
        if self.unknown:
            return min(POINT_STEPS, left)
        wanted = max(1, int(self._execution.dispatch_seconds / self.step_seconds))
        if wanted >= POINT_STEPS:
            wanted -= wanted % POINT_STEPS
        return min(wanted, left, self._buffer_steps)

    def save_is_due(self, count: int) -> bool:
        """Counts `count` more steps; True once `checkpoint_seconds` have passed since the last save."""
        self._unsaved_seconds += count * self.step_seconds
        return self._unsaved_seconds > self._execution.checkpoint_seconds

    def saved(self) -> None:
        """Restarts the clock after a checkpoint."""
        self._unsaved_seconds = 0.0
        self.synchronize()
