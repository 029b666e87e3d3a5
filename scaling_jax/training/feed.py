"""How batches reach the step: the data lives on the devices, and only window numbers travel.

A batch is a pure function of (seed, step), so lanes and branches of one seed see the same batches in the same order.
"""

from __future__ import annotations

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling_jax.data import batches
from scaling_jax.data.dataset import Dataset
from scaling_jax.training import processes

PIXEL_MEAN, PIXEL_STD = 0.5, 0.25  # images reach the model as (x / 255 - mean) / std


class ResidentFeed:
    """Training and validation arrays, replicated on each mesh that asks for them once.

    Args:
      dataset: materialised data.
      augment: crop and flip training images.
    """

    def __init__(self, dataset: Dataset, augment: bool = False):
        self.dataset = dataset
        self.spec = dataset.spec
        self.augment = augment and self.spec.kind == "images"
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
                self._placed[key] = processes.put(jax.tree.map(np.asarray, host), everywhere)
            return self._placed[key]

    def inputs(self, seed: int, first_step: int, num_steps: int, batch_size: int) -> np.ndarray:
        """Window numbers [num_steps, batch_size] of the steps from `first_step`."""
        return batches.window_starts(seed, first_step, num_steps, batch_size, self.dataset.num_train_windows)

    def validation_inputs(self, examples: int, batch_size: int) -> np.ndarray:
        """Window numbers [batches, batch_size] of the fixed validation set, cut to whole batches."""
        windows = batches.validation_windows(self.dataset.num_validation_windows, examples)
        batch_size = min(batch_size, len(windows))
        return windows[: len(windows) // batch_size * batch_size].reshape(-1, batch_size)

    def make_batch(self, arrays: dict[str, Any], windows_B, key=None):
        """The model's batch of these windows; under jit. `key` (training images only) draws the augmentation."""
        if self.spec.kind == "tokens":
            return batches.gather(arrays["x"], windows_B, self.spec.context)
        image_BxHxWxC = arrays["x"][windows_B]
        if self.augment and key is not None:
            from scaling_jax.data.augment import augment

            image_BxHxWxC = augment(key, image_BxHxWxC, flip=self.dataset.info.get("flip", True))
        image_BxHxWxC = (image_BxHxWxC.astype(jnp.float32) / 255.0 - PIXEL_MEAN) / PIXEL_STD
        return {"image": image_BxHxWxC, "label": arrays["label"][windows_B]}
