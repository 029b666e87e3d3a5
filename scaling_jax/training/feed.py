"""Feeds batches to the step: from arrays on the devices by window number, or streamed from disk.

A batch is a pure function of (seed, step), so lanes and branches of one seed see the same batches in the same order,
however they come.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from scaling_jax.data import batches
from scaling_jax.data.augment import augment
from scaling_jax.data.dataset import Dataset
from scaling_jax.errors import UserError
from scaling_jax.study import Execution
from scaling_jax.training import distributed

PIXEL_MEAN, PIXEL_STD = 0.5, 0.25  # images reach the model as (x / 255 - mean) / std
RESIDENT_SHARE = 0.25  # of a device's memory that the data may take
MAX_RESIDENT_ITEMS = 2**31 - 1  # offsets on the device are int32

Reader = Callable[[int, int, int], Any]  # (seed, first step, number of steps) -> inputs, a leading axis of steps
Rows = slice | np.ndarray  # of every batch: what this process's devices hold (`distributed.local_rows`)
ALL = slice(None)


def make_feed(dataset: Dataset, execution: Execution, augment: bool = False) -> Feed:
    """The feed that `execution.feed` asks for; "auto" keeps data on the devices that takes little of their memory.

    Several processes use the leader's decision, which looks at its own memory.

    Args:
      dataset: materialized data.
      execution: `feed` is read.
      augment: crop and flip training images.

    Raises:
      UserError: data that 32-bit offsets cannot address is to be resident.
    """
    fits = dataset.train.size <= MAX_RESIDENT_ITEMS
    if execution.feed == "resident" and not fits:
        raise UserError(
            f"execution.feed='resident' cannot address {dataset.train.size:,} items with 32-bit offsets; use 'stream'"
        )
    held = dataset.train.nbytes + dataset.validation.nbytes
    (small,) = distributed.broadcast_from_leader([held <= RESIDENT_SHARE * device_memory()])
    if execution.feed == "resident" or (execution.feed == "auto" and fits and small):
        return ResidentFeed(dataset, augment)
    logging.info("%.1f GB of training data are streamed", dataset.train.nbytes / 1e9)
    return StreamFeed(dataset, augment)


def device_memory() -> int:
    """Bytes of one device's memory; CPU devices share the machine's."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // jax.local_device_count()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", 16 * 2**30)


class Feed:
    """The data of a study, common to both kinds.

    Args:
      dataset: materialized data.
      augment: crop and flip training images.
    """

    def __init__(self, dataset: Dataset, augment: bool = False):
        self.dataset = dataset
        self.spec = dataset.spec
        self.augment = augment and self.spec.kind == "images"


class ResidentFeed(Feed):
    """Training and validation arrays, replicated on each mesh that asks for them once; only window numbers travel."""

    def __init__(self, dataset: Dataset, augment: bool = False):
        super().__init__(dataset, augment)
        self._placed: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def arrays(self, mesh: jax.sharding.Mesh) -> dict[str, Any]:
        """{"train": ..., "validation": ...} on every device of the mesh."""
        key = tuple(device.id for device in mesh.devices.flat)
        with self._lock:
            if key not in self._placed:
                d = self.dataset
                host: dict[str, Any] = {"train": {"x": d.train}, "validation": {"x": d.validation}}
                if self.spec.kind == "images":
                    host["train"]["label"], host["validation"]["label"] = d.train_labels, d.validation_labels
                everywhere = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
                self._placed[key] = distributed.to_device(jax.tree.map(np.asarray, host), everywhere)
            return self._placed[key]

    def reader(self, batch_size: int, rows: Rows = ALL) -> Reader:
        """Gives window numbers, [num_steps, rows]."""
        num_windows = self.dataset.num_train_windows
        return lambda seed, first, count: batches.window_starts(seed, first, count, batch_size, num_windows)[:, rows]

    def abstract_inputs(self, batch_size: int) -> Any:
        """ShapeDtypeStructs of the inputs of one step."""
        return jax.ShapeDtypeStruct((batch_size,), np.int32)

    def validation_inputs(self, examples: int, batch_size: int) -> np.ndarray:
        """Window numbers [batches, batch_size] of the fixed validation set, cut to whole batches."""
        return _validation_windows(self.dataset, examples, batch_size)

    def make_batch(self, arrays: dict[str, Any], windows_B: Any, key: Any = None) -> Any:
        """The model's batch of these windows; under jit. `key` (training images only) draws the augmentation."""
        if self.spec.kind == "tokens":
            return batches.gather(arrays["x"], windows_B, self.spec.context)
        # A slice per image: XLA:CPU gathers pixel by pixel where indices might lie outside.
        image_BxHxWxC = jax.vmap(lambda i: jax.lax.dynamic_index_in_dim(arrays["x"], i, keepdims=False))(windows_B)
        return _image_batch(self, image_BxHxWxC, arrays["label"][windows_B], key)


class StreamFeed(Feed):
    """Batches read ahead from memory-mapped arrays on grain's threads, for data that does not fit; the same batches."""

    def arrays(self, mesh: jax.sharding.Mesh) -> dict[str, Any]:
        """No arrays: nothing is kept on the devices."""
        return {"train": {}, "validation": {}}

    def reader(self, batch_size: int, rows: Rows = ALL) -> Reader:
        """Gives what `batches.stream` gives, on a leading axis of steps; reads ahead where steps follow each other."""
        streams: dict[int, tuple[int, Iterator[Any]]] = {}  # by seed: the next step, and the batches from it on

        def read(seed: int, first_step: int, num_steps: int) -> Any:
            next_step, stream = streams.pop(seed, (-1, iter(())))
            if next_step != first_step:
                stream = batches.stream(self.dataset, seed, batch_size, first_step, rows=rows)
            steps = [next(stream) for _ in range(num_steps)]
            streams[seed] = (first_step + num_steps, stream)
            return jax.tree.map(lambda *parts: np.stack(parts), *steps)

        return read

    def abstract_inputs(self, batch_size: int) -> Any:
        """ShapeDtypeStructs of the inputs of one step."""
        if self.spec.kind == "tokens":
            return jax.ShapeDtypeStruct((batch_size, self.spec.context + 1), np.int32)
        image = jax.ShapeDtypeStruct((batch_size, *self.dataset.train.shape[1:]), self.dataset.train.dtype)
        return {"image": image, "label": jax.ShapeDtypeStruct((batch_size,), np.int32)}

    def validation_inputs(self, examples: int, batch_size: int) -> Any:
        """The fixed validation set, cut to whole batches, as batches on a leading axis."""
        d, windows_NxB = self.dataset, _validation_windows(self.dataset, examples, batch_size)
        if d.validation_labels is not None:
            return {"image": d.validation[windows_NxB], "label": d.validation_labels[windows_NxB]}
        offsets = windows_NxB[..., None].astype(np.int64) * self.spec.context + np.arange(self.spec.context + 1)
        return np.asarray(d.validation[offsets], np.int32)

    def make_batch(self, arrays: dict[str, Any], batch: Any, key: Any = None) -> Any:
        """The model's batch; under jit. `key` (training images only) draws the augmentation."""
        if self.spec.kind == "tokens":
            return batch
        return _image_batch(self, batch["image"], batch["label"], key)


def _validation_windows(dataset: Dataset, examples: int, batch_size: int) -> np.ndarray:
    windows = batches.validation_windows(dataset.num_validation_windows, examples)
    batch_size = min(batch_size, len(windows))
    return windows[: len(windows) // batch_size * batch_size].reshape(-1, batch_size)


def _image_batch(feed: Feed, image_BxHxWxC: Any, label_B: Any, key: Any) -> dict[str, Any]:
    if feed.augment and key is not None:
        image_BxHxWxC = augment(key, image_BxHxWxC, flip=feed.dataset.info.get("flip", True))
    image_BxHxWxC = (image_BxHxWxC.astype(jnp.float32) / 255.0 - PIXEL_MEAN) / PIXEL_STD
    return {"image": image_BxHxWxC, "label": label_B}
