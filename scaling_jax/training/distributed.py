"""Training on several processes: the leader, agreement, arrays that span processes. Free for a single one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

LOST_PEER = ("Gloo", "NCCL", "Connection closed by peer", "heartbeat", "coordination service", "CoordinationService")


def is_single_process() -> bool:
    """True when no other process takes part in this training."""
    return jax.process_count() == 1


def is_leader() -> bool:
    """True for the process that writes results and makes decisions that depend on time."""
    return jax.process_index() == 0


def broadcast_from_leader(values: Sequence[float]) -> list[float]:
    """The leader's values, on every process; all must call it, in the same order."""
    if is_single_process():
        return list(values)
    with jax.transfer_guard("allow"):
        return multihost_utils.broadcast_one_to_all(np.asarray(values, np.float32)).tolist()


def same_everywhere(text: str) -> bool:
    """True when every process passed the same text."""
    if is_single_process():
        return True
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint32)
    with jax.transfer_guard("allow"):
        return bool((multihost_utils.process_allgather(digest) == digest).all())


def is_lost_peer(error: BaseException) -> bool:
    """True for an error that means another process of this training is gone."""
    return not is_single_process() and any(sign in str(error) for sign in LOST_PEER)


def barrier(name: str) -> None:
    """Waits until every process has called it with this name."""
    if not is_single_process():
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(name)


def local_rows(sharding: jax.sharding.Sharding, size: int) -> slice | np.ndarray:
    """The rows, of `size` split by `sharding`, on this process's devices: a slice of all, or their numbers."""
    if is_single_process():
        return slice(None)
    parts = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in parts]))


def to_device(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Puts host arrays on the devices of all processes; each process reads only the parts that its devices hold."""
    if is_single_process():
        return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)

    def one(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    with jax.transfer_guard("allow"):  # JAX takes this for an implicit transfer
        return jax.tree.map(one, tree)


def to_host(tree: Any) -> Any:
    """Gathers arrays from the devices of all processes, as NumPy on every process."""
    if is_single_process():
        return jax.device_get(tree)
    with jax.transfer_guard("allow"):
        return multihost_utils.process_allgather(tree, tiled=True)
