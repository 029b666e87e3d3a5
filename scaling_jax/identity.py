"""Identity: what determines the loss of a run, resolved, and nothing else.

Not part of it: paths and their spelling, `data.data_dir`, the study's name, layout, mesh, microbatches, attention
kernel, device, fit settings. Two runs of one identity differ by rounding at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from scaling_jax.study import content_hash

# Raised by hand whenever the same settings give other losses: initialization, batches, schedule, update, evaluation.
TRAINING_SEMANTICS = 1


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Paths at which two frames differ, each with both values: "schedule.warmup_steps: 10 -> 5"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = list(dict.fromkeys([*old, *new]))
        return [found for key in keys for found in differences(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [f"{prefix.rstrip('.')}: {old} -> {new}"]


def shared(frame: Mapping[str, Any]) -> dict[str, Any]:
    """A stored frame without what runs of one workdir need not share; frames of older versions have it."""
    own = {"schedule": ("warmup_steps", "cooldown_fraction"), "optimizer": ("b2",)}
    return {
        key: {k: v for k, v in value.items() if k not in own[key]} if key in own else value
        for key, value in frame.items()
    }


@dataclasses.dataclass(frozen=True)
class Identity:
    """What the runs of one pack on one corpus share, ready to be hashed: numbers, whatever rule they came from.

    Attributes:
      frame: of `planning.frame`.
      dataset_hash: identity of the corpus' content.
      compute_dtype: resolved, "float32" or "bfloat16".
      batch_size: sequences or samples per step.
      cooldown_fraction: of a schedule that has one.
    """

    frame: dict[str, Any]
    dataset_hash: str
    compute_dtype: str
    batch_size: int
    cooldown_fraction: float | None

    def trunk_id(self, width: int, depth: int, lane: Any) -> str:
        """Identity of the runs of one lane (a dataclass of its hyperparameters) of one scale, whatever their budget."""
        return content_hash(self._trunk(width, depth, lane))

    def run_id(self, width: int, depth: int, lane: Any, steps: int) -> str:
        """Identity of the run of that lane to `steps` optimizer steps."""
        return content_hash(self._trunk(width, depth, lane) | {"steps": steps})

    def _trunk(self, width: int, depth: int, lane: Any) -> dict[str, Any]:
        values = dataclasses.asdict(lane)
        schedule = {"warmup_steps": values.pop("warmup_steps"), "cooldown_fraction": self.cooldown_fraction}
        optimizer = {"b2": values.pop("b2")}
        if (start := values.pop("start", None)) is not None:  # its own identity says all of how it was trained
            values["start"] = {"run_id": start["run_id"], "fresh": list(start["fresh"])}
        return {
            "training_semantics": TRAINING_SEMANTICS,
            **self.frame,
            "schedule": self.frame["schedule"] | {k: v for k, v in schedule.items() if v is not None},
            "optimizer": self.frame["optimizer"] | {k: v for k, v in optimizer.items() if v is not None},
            "dataset_hash": self.dataset_hash,
            "compute_dtype": self.compute_dtype,
            "batch_size": self.batch_size,
            "width": width,
            "depth": depth,
            "lane": values,
        }


@dataclasses.dataclass(frozen=True)
class PackRecord:
    """What a workdir keeps of a pack, so that its lanes stay together however the study grows.

    Attributes:
      scale: name of the (width, depth).
      lanes: trunk identities of all lanes that were ever part of it.
      forks: optimizer steps at which branches left or will leave the trunks, ascending.
    """

    scale: str
    lanes: tuple[str, ...]
    forks: tuple[int, ...]

    def joined(self, other: PackRecord | None) -> PackRecord:
        """Both together."""
        if other is None:
            return self
        lanes = tuple(dict.fromkeys([*other.lanes, *self.lanes]))
        return PackRecord(self.scale, lanes, tuple(sorted({*self.forks, *other.forks})))
