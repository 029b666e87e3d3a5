"""How many steps a dispatch takes and when to save: from measured times, yet the same on every process."""

from __future__ import annotations

from scaling_jax.study import Execution
from scaling_jax.training import distributed as processes

POINT_STEPS = 20  # training losses averaged into one point of a learning curve; the first dispatch takes as many


class Pace:
    """Answers that all processes of a training share.

    A process alone follows every measurement. Several agree on the leader's after the first dispatch and at every
    save, where they meet anyway.

    Args:
      execution: aimed times of dispatches and between checkpoints.
      buffer_steps: the most steps of a dispatch.
    """

    def __init__(self, execution: Execution, buffer_steps: int):
        self._execution, self._buffer_steps = execution, buffer_steps
        self._measured = self._step_seconds = 0.0
        self._unsaved_seconds = 0.0

    @property
    def unknown(self) -> bool:
        """Whether no dispatch has been timed yet."""
        return self._step_seconds == 0.0

    def measured(self, step_seconds: float) -> None:
        """Takes the seconds per step of a dispatch."""
        self._measured = step_seconds
        if processes.alone():
            self._step_seconds = step_seconds

    def agree(self) -> None:
        """Makes the leader's measurement everybody's."""
        (self._step_seconds,) = processes.agree([self._measured])

    def chunk(self, left: int) -> int:
        """Steps of the next dispatch when `left` remain in the phase."""
        if self.unknown:
            return min(POINT_STEPS, left)
        wanted = max(1, int(self._execution.dispatch_seconds / self._step_seconds))
        if wanted >= POINT_STEPS:
            wanted -= wanted % POINT_STEPS
        return min(wanted, left, self._buffer_steps)

    def save_is_due(self, count: int) -> bool:
        """Counts `count` more steps; whether the time between checkpoints has passed."""
        self._unsaved_seconds += count * self._step_seconds
        return self._unsaved_seconds > self._execution.checkpoint_seconds

    def saved(self) -> None:
        """A checkpoint was made."""
        self._unsaved_seconds = 0.0
        self.agree()
