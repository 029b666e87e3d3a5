"""One training on several processes: who writes, what is agreed on, how arrays span them. Alone, all of it is free."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

LOST_PEER = ("Gloo", "NCCL", "Connection closed by peer", "heartbeat", "coordination service", "CoordinationService")


def is_single_process() -> bool:
    """Whether this process trains by itself."""
    return jax.process_count() == 1


def is_leader() -> bool:
    """Whether this process writes results and decides what depends on time."""
    return jax.process_index() == 0


def broadcast_from_leader(values: Sequence[float]) -> list[float]:
    """The leader's values, on every process; all must call it, in the same order."""
    if is_single_process():
        return list(values)
    with jax.transfer_guard("allow"):
        return multihost_utils.broadcast_one_to_all(np.asarray(values, np.float32)).tolist()


def same_everywhere(text: str) -> bool:
    """Whether every process came with the same text."""
    if is_single_process():
        return True
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], np.uint32)
    with jax.transfer_guard("allow"):
        return bool((multihost_utils.process_allgather(digest) == digest).all())


def is_lost_peer(error: BaseException) -> bool:
    """Whether a failure says that another process of this training is gone."""
    return not is_single_process() and any(sign in str(error) for sign in LOST_PEER)


def barrier(name: str) -> None:
    """Returns when every process has come here."""
    if not is_single_process():
        with jax.transfer_guard("allow"):
            multihost_utils.sync_global_devices(name)


def local_rows(sharding: jax.sharding.Sharding, size: int) -> slice | np.ndarray:
    """Which of `size` rows, split by `sharding`, lie on this process's devices: all of them, or their numbers."""
    if is_single_process():
        return slice(None)
    parts = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in parts]))


def to_device(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """Host arrays onto the devices of all processes; each process takes, and must have, only what its devices hold."""
    if is_single_process():
        return jax.tree.map(lambda x: jax.device_put(x, sharding), tree)

    def one(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    with jax.transfer_guard("allow"):  # JAX takes this for an implicit transfer
        return jax.tree.map(one, tree)


def to_host(tree: Any) -> Any:
    """Arrays of all processes' devices, whole, as NumPy on every process."""
    if is_single_process():
        return jax.device_get(tree)
    with jax.transfer_guard("allow"):
        return multihost_utils.process_allgather(tree, tiled=True)


alone, agree, own_rows, put, fetch = (
    is_single_process,
    broadcast_from_leader,
    local_rows,
    to_device,
    to_host,
)  # old names
