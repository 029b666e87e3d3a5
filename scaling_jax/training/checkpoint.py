"""Orbax checkpoints of a pack: its trunk, and the way of each branch, each with the identities of its lanes.

checkpoints/<pack>/
  trunk/<step>                 the trunk after so many optimizer steps; kept where branches leave it
  branch-<steps>/<step>        the branch to a budget of so many steps; its last one is kept: the trained model
  branch-<steps>-c<share>/     the same, where cool-downs of several shares leave one trunk
  <part>+2, <part>+3           further volumes of a part, where other lanes come that far later (rounds of a sweep)

Nothing here depends on which budgets a study has: when it grows, whatever was saved serves. Saves run in the background
from a copy, since the loop donates its state to the next step. Every state is saved with a fingerprint of its bits,
because the file format notices torn files but not flipped bits.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
from collections.abc import Collection, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint.checkpoint_managers import preservation_policy, save_decision_policy

from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path
from scaling_jax.storage.workdir import VOLUME, volumes
from scaling_jax.study import content_hash
from scaling_jax.training import distributed
from scaling_jax.training.fingerprint import fingerprint
from scaling_jax.training.regroup import as_saved, regroup

# Errors of a restore though the checkpoint is whole: memory, network, permissions.
TRANSIENT = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED")
FORMAT = 2  # of the state on disk
TRUNK = "trunk"
STOPPED = ""  # in place of the identity of a lane that stood still before a checkpoint


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint.

    Attributes:
      step: optimizer steps taken.
      trunk_seconds: spent on the trunk up to here, or up to where the branch left it.
      branch_seconds: spent on the branch up to here; 0 on a trunk.
      state: groups of lanes, on the devices.
    """

    step: int
    trunk_seconds: float
    branch_seconds: float
    state: Any


class PackCheckpoints:
    """Saves and restores one pack; a context manager that ends with every save on the disk; safe for threads.

    Args:
      folder: the pack's directory, local or gs://.
      keep_latest: latest checkpoints kept of each part, besides forks and ends.
      forks: steps at which branches leave the trunk: these checkpoints are always kept.
      lanes: trunk identities of the pack's lanes, in order; places beyond them only fill the mesh.
    """

    def __init__(self, folder: Any, keep_latest: int, forks: Collection[int], lanes: Sequence[str]):
        self.folder = as_path(folder)
        self._keep_latest, self._forks, self._lanes = keep_latest, frozenset(forks), list(lanes)
        self._managers: dict[str, _Manager] = {}
        self._latest: dict[str, tuple[int, list[str]]] = {}  # by volume: what this process has saved last
        # The trunk continues while branches begin from what it has saved.
        self._locks: dict[str, threading.RLock] = collections.defaultdict(threading.RLock)

    def parts(self) -> set[str]:
        """Names of the parts that have a folder."""
        return {path.name.partition(VOLUME)[0] for path in self.folder.iterdir()} if self.folder.exists() else set()

    def steps(self, part: str) -> set[int]:
        """Steps of a part, as far as names tell."""
        with self._locks[part]:
            return {step for path in volumes(self.folder, part) for step in self._manager(path.name).all_steps()}

    def save(self, part: str, saved: Saved, took_part: Collection[int] | None = None) -> None:
        """Saves a state, a copy that the caller no longer touches, in the background.

        Args:
          part: `TRUNK` or the name of a branch (`Pack.branch_name`).
          saved: the state, and where training is.
          took_part: places of the lanes that have come this far; None for all. The others are not in this checkpoint.

        Raises:
          Exception: this save or the one before failed (a full disk, a lost network).
        """
        lanes = [lane if took_part is None or i in took_part else STOPPED for i, lane in enumerate(self._lanes)]
        with self._locks[part]:
            names = (part if number == 1 else f"{part}{VOLUME}{number}" for number in itertools.count(1))
            self._save(next(name for name in names if self._suits(name, saved.step, {*lanes})), saved, lanes)

    def _suits(self, volume: str, step: int, lanes: set[str]) -> bool:
        """Whether these lanes may be saved in a volume without taking the place of others."""
        steps = self._manager(volume).all_steps() if volume in self._managers or (self.folder / volume).exists() else []
        for there in {step, max(steps)} & {*steps} if steps else ():
            others = self._lanes_of(volume, there)
            if others is not None and not (lanes <= others | {STOPPED} or others <= lanes | {STOPPED}):
                return False
        return True

    def _lanes_of(self, volume: str, step: int) -> set[str] | None:
        """Lanes of a checkpoint; None where it cannot be read, which a restore will find."""
        known = self._latest.get(volume)
        if known is not None and known[0] == step:  # it may still be written
            return {*known[1]}
        try:
            return {*_head(self._manager(volume), step)["lanes"]}
        except Exception:
            return None

    def _save(self, volume: str, saved: Saved, lanes: list[str]) -> None:
        manager = self._manager(volume)
        if saved.step in manager.all_steps():
            there = self._lanes_of(volume, saved.step)
            if there is None or {*lanes} - {STOPPED} <= there:
                return  # retraining after a loss passes checkpoints that were not lost
            manager.delete(saved.step)
        head = {
            "step": saved.step,
            "trunk_seconds": saved.trunk_seconds,
            "branch_seconds": saved.branch_seconds,
            "lanes": lanes,
            "groups": _geometry(saved.state),
            "shapes": _shapes(saved.state),
        }
        items = {
            # One item: in orbax's format a further one of a single number would be nine further files.
            "state": ocp.args.StandardSave({"lanes": saved.state, "fingerprint": fingerprint(saved.state)}),
            "head": ocp.args.JsonSave(head | {"check": content_hash(head)}),
        }
        manager.save(saved.step, args=ocp.args.Composite(**items), force=True)
        self._latest[volume] = saved.step, lanes

    def restore(
        self,
        part: str,
        like: tuple[Any, ...],
        after: int = -1,
        until: int | None = None,
        wanted: Collection[int] | None = None,
    ) -> Saved | None:
        """The newest checkpoint that can be used of a part; None when there is none.

        One that cannot be read is set aside (in `<folder>.unreadable/`), one of other lanes is passed over with a line
        in the log, and the one before is taken.

        Args:
          part: `TRUNK` or the name of a branch.
          like: groups of ShapeDtypeStructs with shardings: the states as they are laid out on the devices now.
          after, until: only checkpoints of steps in (after, until].
          wanted: places of the lanes that resume from it; None for all. The others get any state.

        Raises:
          UserError: the checkpoints hold other arrays than this code trains.
        """
        with self._locks[part]:
            return self._newest(part, like, after, until, wanted)

    def _newest(
        self, part: str, like: tuple[Any, ...], after: int, until: int | None, wanted: Collection[int] | None
    ) -> Saved | None:
        lanes = {lane for i, lane in enumerate(self._lanes) if wanted is None or i in wanted}
        names = [path.name for path in volumes(self.folder, part)]
        steps = {step for name in names for step in self._manager(name).all_steps()}
        for step in sorted(steps, reverse=True):
            if step <= after or (until is not None and step > until):
                continue
            found, lacking = [], lanes
            for name in reversed(names):
                if lacking and (read := self._read(name, step, lacking, like)) is not None:
                    found.append(read)
                    lacking = lacking - {*read[0]["lanes"]}
            if found and not lacking:
                return self._joined(found, like)
            logging.info("checkpoint %s is of other runs; passed over", self.folder / part / str(step))
        return None

    def _read(
        self, volume: str, step: int, lanes: set[str], like: tuple[Any, ...]
    ) -> tuple[dict[str, Any], tuple[Any, ...]] | None:
        """(head, groups of lanes as they were saved), where it has any of these lanes and can be read."""
        manager = self._manager(volume)
        if step not in manager.all_steps():
            return None
        manager.wait_until_finished()  # this one may be under way
        try:
            head = _head(manager, step)
            return (head, self._restore(manager, volume, step, head, like)) if lanes & {*head["lanes"]} else None
        except UserError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            if isinstance(error, MemoryError) or any(sign in reason for sign in TRANSIENT):
                raise
            self._set_aside(manager, volume, step, reason)
            return None

    def _restore(self, manager: ocp.CheckpointManager, part: str, step: int, head: dict, like: tuple) -> tuple:
        if head["shapes"] != _shapes(like):
            raise UserError(
                f"checkpoint {str(self.folder / part / str(step))!r} holds other arrays than this version trains; "
                "continue with the version that wrote it, or move it away to train this scale from the beginning"
            )
        saved_like = as_saved(like, *head["groups"])
        everywhere = jax.NamedSharding(jax.tree.leaves(like)[0].sharding.mesh, jax.sharding.PartitionSpec())
        wanted = {"lanes": saved_like, "fingerprint": jax.ShapeDtypeStruct((), "uint32", sharding=everywhere)}
        items = ocp.args.Composite(state=ocp.args.StandardRestore(wanted))
        restored = manager.restore(step, args=items)["state"]
        state = restored["lanes"]
        stored, found = distributed.to_host((restored["fingerprint"], fingerprint(state)))
        if stored != found:
            raise ValueError("its bits do not match their checksum")
        return tuple(state)

    def _joined(self, found: Sequence[tuple[dict[str, Any], tuple[Any, ...]]], like: tuple[Any, ...]) -> Saved:
        """The lanes of checkpoints of one step, as they are laid out on the devices now."""
        places: dict[str, int] = {}
        states: tuple[Any, ...] = ()
        for head, state in found:
            begin = sum(jax.tree.leaves(group)[0].shape[0] for group in states)
            places = {lane: begin + i for i, lane in enumerate(head["lanes"]) if lane != STOPPED} | places
            states += state
        head = found[0][0]
        same = all(there in (lane, STOPPED) for there, lane in zip(head["lanes"], self._lanes))
        alike = len(found) == 1 and same and len(head["lanes"]) == len(self._lanes)
        if not alike or tuple(head["groups"]) != _geometry(like):
            any_place = min(places.values())
            states = regroup(states, like, [places.get(lane, any_place) for lane in self._lanes])
        trunk, branch = (sum(head[key] for head, _ in found) for key in ("trunk_seconds", "branch_seconds"))
        return Saved(head["step"], trunk, branch, states)

    def _set_aside(self, manager: ocp.CheckpointManager, part: str, step: int, reason: str) -> None:
        """Moves an unreadable checkpoint out of the way and keeps it for inspection."""
        source = self.folder / part / str(step)
        target = self.folder.parent / f"{self.folder.name}.unreadable" / f"{part}-{step}"
        logging.warning(
            "checkpoint %s is unreadable (%s); set aside in %s, falling back to the one before",
            source, reason[:200], target,
        )  # fmt: skip
        if distributed.is_leader():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.rmtree()
            source.rename(target)
        distributed.barrier(f"set_aside_{self.folder.name}_{part}_{step}")
        manager.reload()

    def _manager(self, part: str) -> _Manager:
        if part not in self._managers:
            name = part.partition(VOLUME)[0]
            keep = self._forks if name == TRUNK else frozenset({int(name.split("-")[1])})
            options = ocp.CheckpointManagerOptions(
                save_decision_policy=save_decision_policy.AnySavePolicy([_Always()]),
                preservation_policy=_Kept(keep, self._keep_latest),
                create=True,
                enable_async_checkpointing=True,
                # Orbax numbers the folders that it makes in the background per process, not per manager: packs that
                # train side by side would wait for each other's and write into folders that are not there.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
                cleanup_tmp_directories=True,
                # The trunk's last save is under way while the branch saves: their barriers must not share names.
                multiprocessing_options=ocp.options.MultiprocessingOptions(
                    barrier_sync_key_prefix=f"{self.folder.name}-{part}"
                ),
            )
            self._managers[part] = _Manager(self.folder / part, options=options)
        return self._managers[part]

    def wait(self) -> None:
        """Returns when the saves under way are on disk; raises the error of one that failed."""
        for volume, manager in list(self._managers.items()):
            with self._locks[volume.partition(VOLUME)[0]]:
                manager.wait_until_finished()

    def __enter__(self) -> PackCheckpoints:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
        try:
            self.close()
        except Exception as error:
            if exc_type is None:
                raise
            logging.warning("checkpoints %s: %s", self.folder, error)  # the error that ended training comes first

    def close(self) -> None:
        """Returns when everything is on the disk, and lets go of it; raises the error of a save that failed."""
        for volume in list(self._managers):
            with self._locks[volume.partition(VOLUME)[0]]:
                if (manager := self._managers.pop(volume, None)) is not None:  # else another thread closes, too
                    manager.close()


def _head(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    restored = manager.restore(step, args=ocp.args.Composite(head=ocp.args.JsonRestore()))
    head = dict(restored["head"])
    if head.pop("check", None) != content_hash(head):
        raise ValueError("its head does not match its checksum")
    return head


class _Manager(ocp.CheckpointManager):
    """Leaves preemption to the loop.

    JAX agrees on the largest number that any process has asked with, plus one. Orbax asks with the step at every save;
    the loop's count of its own questions would then have to grow to that step before anybody stops.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class _Always(save_decision_policy.SaveDecisionPolicy):
    """The loop decides when to save."""

    def should_save(self, step: Any, previous_steps: Any, *, context: Any) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class _Kept(preservation_policy.PreservationPolicy):
    """Keeps these steps, and the latest few on the way to one of them that is not there yet."""

    steps: frozenset[int]
    latest: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        there = {checkpoint.step for checkpoint in checkpoints}
        goals = {step: min((goal for goal in self.steps if goal >= step), default=None) for step in there}
        under_way = sorted(step for step, goal in goals.items() if goal not in there)
        kept = self.steps.union(under_way[-self.latest :])
        return [checkpoint.step in kept for checkpoint in checkpoints]


def _geometry(states: tuple[Any, ...]) -> tuple[int, int]:
    """(groups, lanes per group)."""
    return len(states), jax.tree.leaves(states[0])[0].shape[0]


def _shapes(states: tuple[Any, ...]) -> str:
    """Hash of names, shapes and types of one lane, and of how they are stored."""
    leaves = jax.tree_util.tree_leaves_with_path(states[0])
    arrays = [[jax.tree_util.keystr(path), list(x.shape[1:]), str(x.dtype)] for path, x in leaves]
    return content_hash([FORMAT, arrays])
