"""Orbax checkpoints of a pack: one directory per scale, trunk and branch states and where training stands.

A checkpoint's number is the count of steps the pack had taken, over all phases. Saves run in the background from a
copy, since the loop donates its state to the next step. Every state is saved with a fingerprint of its bits, because
the file format notices torn files but not flipped bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path
from scaling_jax.study import content_hash
from scaling_jax.training import distributed
from scaling_jax.training.fingerprint import fingerprint
from scaling_jax.training.regroup import as_saved, regroup

# What a restore may fail with though the checkpoint is whole: memory, network, permissions.
TRANSIENT = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED")


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
    """Saves and restores one pack; a context manager that ends with every save on the disk.

    Args:
      folder: the scale's directory, local or gs://.
      keep_latest: latest checkpoints kept.
      keep: numbers of the checkpoints that are always kept: branch points and finals.
      num_lanes: of the pack; places beyond them only fill the mesh.
    """

    def __init__(self, folder: Any, keep_latest: int, keep: Collection[int], num_lanes: int):
        self.folder = as_path(folder)
        self._num_lanes = num_lanes
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=save_decision_policy.AnySavePolicy([_Always()]),
            preservation_policy=preservation_policy.AnyPreservationPolicy(
                [preservation_policy.LatestN(keep_latest), _Kept(frozenset(keep))]
            ),
            create=True,
            enable_async_checkpointing=True,
            # Orbax numbers the folders that it makes in the background per process, not per manager: packs that train
            # side by side would wait for each other's and write into folders that are not there.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, position: Position, trunk: Any, branch: Any | None) -> None:
        """Saves copies of the states (which the caller no longer touches) in the background.

        Raises:
          Exception: this save or the one before failed (a full disk, a lost network).
        """
        if position.taken in self._manager.all_steps():
            return  # retraining what was lost passes checkpoints that were not
        states = {"trunk": trunk} | ({} if branch is None else {"branch": branch})
        head = dataclasses.asdict(position)
        head |= {"states": list(states), "groups": _geometry(trunk), "shapes": _shapes(trunk)}
        items = {name: ocp.args.StandardSave(state) for name, state in states.items()}
        items["fingerprint"] = ocp.args.StandardSave({name: fingerprint(state) for name, state in states.items()})
        items["position"] = ocp.args.JsonSave(head | {"check": content_hash(head)})
        self._manager.save(position.taken, args=ocp.args.Composite(**items), force=True)

    def restore(self, like: tuple[Any, ...], last_phase: int) -> tuple[Position, Any, Any | None] | None:
        """(position, trunk, branch or None) of the newest checkpoint that can be used; None when there is none.

        One that cannot be read is set aside (in `<folder>.unreadable/`), and the one before is taken.

        Args:
          like: groups of ShapeDtypeStructs with shardings: how the states are to lie on the devices now.
          last_phase: checkpoints of later phases are passed over: a result that they build on is missing.

        Raises:
          UserError: the checkpoints hold other arrays than this code trains.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                head = self._head(step)
                if head["phase"] <= last_phase:
                    return self._restore(step, head, like)
            except UserError:
                raise
            except Exception as error:
                reason = " ".join(str(error).split())
                if isinstance(error, MemoryError) or any(sign in reason for sign in TRANSIENT):
                    raise
                self._set_aside(step, reason)
        return None

    def _head(self, step: int) -> dict[str, Any]:
        restored = self._manager.restore(step, args=ocp.args.Composite(position=ocp.args.JsonRestore()))
        head = dict(restored["position"])
        if head.pop("check", None) != content_hash(head):
            raise ValueError("its position does not match its checksum")
        return head

    def _restore(self, step: int, head: dict[str, Any], like: tuple[Any, ...]) -> tuple[Position, Any, Any | None]:
        if head["shapes"] != _shapes(like):
            raise UserError(
                f"checkpoint {str(self.folder / str(step))!r} holds other arrays than this version trains; "
                "go on with the version that wrote it, or move it away to train this scale from the beginning"
            )
        saved_like = as_saved(like, *head["groups"])
        everywhere = jax.NamedSharding(jax.tree.leaves(like)[0].sharding.mesh, jax.sharding.PartitionSpec())
        sums = {name: jax.ShapeDtypeStruct((), "uint32", sharding=everywhere) for name in head["states"]}
        items = {name: ocp.args.StandardRestore(saved_like) for name in head["states"]}
        items["fingerprint"] = ocp.args.StandardRestore(sums)
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        states = {name: restored[name] for name in head["states"]}
        found = {name: fingerprint(state) for name, state in states.items()}
        stored, found = distributed.to_host((restored["fingerprint"], found))
        if stored != found:
            raise ValueError("its bits do not match their checksum")
        if tuple(head["groups"]) != _geometry(like):
            states = {name: regroup(state, like, self._num_lanes) for name, state in states.items()}
        position = Position(head["phase"], head["step"], head["taken"], tuple(head["seconds"]))
        return position, states["trunk"], states.get("branch")

    def _set_aside(self, step: int, reason: str) -> None:
        """Moves an unreadable checkpoint out of the way, for whoever wants to look into it."""
        target = self.folder.parent / f"{self.folder.name}.unreadable" / str(step)
        logging.warning(
            "checkpoint %s is unreadable (%s); set aside in %s, falling back to the one before",
            self.folder / str(step), reason[:200], target,
        )  # fmt: skip
        if distributed.is_leader():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rmtree()
            (self.folder / str(step)).rename(target)
        distributed.barrier(f"set_aside_{self.folder.name}_{step}")
        self._manager.reload()

    def wait(self) -> None:
        """Returns when the saves under way are on disk; raises what went wrong with them."""
        self._manager.wait_until_finished()

    def __enter__(self) -> PackCheckpoints:
        return self

    def __exit__(self, exc_type, *exc) -> None:
        try:
            self._manager.close()
        except Exception as error:
            if exc_type is None:
                raise
            logging.warning("checkpoints %s: %s", self.folder, error)  # what ended the training is the news


class _Always(save_decision_policy.SaveDecisionPolicy):
    """The loop decides when to save."""

    def should_save(self, step, previous_steps, *, context) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class _Kept(preservation_policy.PreservationPolicy):
    """Keeps these steps."""

    steps: frozenset[int]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        return [checkpoint.step in self.steps for checkpoint in checkpoints]


def _geometry(states: tuple[Any, ...]) -> tuple[int, int]:
    """(groups, lanes per group)."""
    return len(states), jax.tree.leaves(states[0])[0].shape[0]


def _shapes(states: tuple[Any, ...]) -> str:
    """Hash of names, shapes and types of one lane."""
    leaves = jax.tree_util.tree_leaves_with_path(states[0])
    return content_hash([[jax.tree_util.keystr(path), list(x.shape[1:]), str(x.dtype)] for path, x in leaves])


def abstract_states(shapes: Any, shardings: Any, num_groups: int) -> tuple[Any, ...]:
    """ShapeDtypeStructs of a pack's states: what `PackCheckpoints.restore` wants to know."""
    one = jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)
    return (one,) * num_groups
