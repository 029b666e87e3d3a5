"""Orbax checkpoints of a pack: one directory per scale, trunk and branch states and where training stands.

A checkpoint's number is the count of steps the pack had taken, over all phases. Saves run in the background from a
copy, since the loop donates its state to the next step.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from scaling_jax.results import as_path


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a pack stands.

    Attributes:
      phase: index of the phase that goes on.
      step: next optimiser step of that phase; at a branch's first step its state is still the trunk's.
      taken: steps taken over all phases.
      seconds: time spent in each phase so far.
    """

    phase: int
    step: int
    taken: int
    seconds: tuple[float, ...]


class PackCheckpoints:
    """Saves and restores one pack.

    Args:
      folder: the scale's directory, local or gs://.
      keep: latest checkpoints kept; ends of phases (branch points and finals) are always kept.
    """

    def __init__(self, folder: Any, keep: int):
        self.folder = as_path(folder)
        self._keep_steps: set[int] = set()
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=save_decision_policy.AnySavePolicy([_Always()]),
            preservation_policy=preservation_policy.AnyPreservationPolicy(
                [preservation_policy.LatestN(keep), _Kept(self._keep_steps)]
            ),
            create=True,
            enable_async_checkpointing=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, position: Position, trunk: Any, branch: Any | None, keep: bool) -> None:
        """Saves copies of the states (which the caller no longer touches) in the background."""
        if keep:
            self._keep_steps.add(position.taken)
        items = {"trunk": ocp.args.StandardSave(trunk), "position": ocp.args.JsonSave(dataclasses.asdict(position))}
        if branch is not None:
            items["branch"] = ocp.args.StandardSave(branch)
        self._manager.save(position.taken, args=ocp.args.Composite(**items), force=True)

    def restore(self, like: Any) -> tuple[Position, Any, Any | None] | None:
        """(position, trunk, branch or None) of the newest checkpoint that can be read; None when there is none.

        Args:
          like: pytree of ShapeDtypeStructs with shardings: how the states are to lie on the devices now.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._restore(step, like)
            except Exception as error:
                # Torn by a crash or a full disk: the one before is as good, only older.
                reason = " ".join(str(error).split())[:200]
                logging.warning("checkpoint %s is unreadable (%s); falling back to the one before", step, reason)
                self._manager.delete(step)
        return None

    def _restore(self, step: int, like: Any) -> tuple[Position, Any, Any | None]:
        saved = self._manager.item_metadata(step)
        items = {"trunk": ocp.args.StandardRestore(like), "position": ocp.args.JsonRestore()}
        if saved.get("branch") is not None:
            items["branch"] = ocp.args.StandardRestore(like)
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        raw = restored["position"]
        position = Position(raw["phase"], raw["step"], raw["taken"], tuple(raw["seconds"]))
        self._keep_steps.add(step)
        return position, restored["trunk"], restored.get("branch")

    def wait(self) -> None:
        """Returns when the saves under way are on disk; raises what went wrong with them."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


class _Always(save_decision_policy.SaveDecisionPolicy):
    """The loop decides when to save."""

    def should_save(self, step, previous_steps, *, context) -> bool:
        return True


@dataclasses.dataclass
class _Kept(preservation_policy.PreservationPolicy):
    """Keeps the steps of a set that grows."""

    steps: set[int]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [checkpoint.step in self.steps for checkpoint in checkpoints]


def abstract_states(shapes: Any, shardings: Any, num_groups: int) -> tuple[Any, ...]:
    """ShapeDtypeStructs of a pack's states: what `PackCheckpoints.restore` wants to know."""
    one = jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)
    return (one,) * num_groups
