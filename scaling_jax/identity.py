"""Identity: what determines the loss of a run, resolved, and nothing else.

Not part of it: paths and their spelling, `data.data_dir`, the study's name, layout, mesh, microbatches, attention
kernel, device, fit settings. Two runs of one identity differ by rounding at most.
"""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Identity:
    """What the runs of one study on one corpus share, ready to be hashed.

    Attributes:
      frame: of `planning.frame`.
      dataset_hash: identity of the corpus' content.
      compute_dtype: resolved, "float32" or "bfloat16".
      batch_size: sequences or samples per step.
    """

    frame: dict[str, Any]
    dataset_hash: str
    compute_dtype: str
    batch_size: int

    def trunk_id(self, width: int, depth: int, lane: Any) -> str:
        """Identity of the runs of one lane (a dataclass of its hyperparameters) of one scale, whatever their budget."""
        return content_hash(self._trunk(width, depth, lane))

    def run_id(self, width: int, depth: int, lane: Any, steps: int) -> str:
        """Identity of the run of that lane to `steps` optimizer steps."""
        return content_hash(self._trunk(width, depth, lane) | {"steps": steps})

    def _trunk(self, width: int, depth: int, lane: Any) -> dict[str, Any]:
        return {
            "training_semantics": TRAINING_SEMANTICS,
            **self.frame,
            "dataset_hash": self.dataset_hash,
            "compute_dtype": self.compute_dtype,
            "batch_size": self.batch_size,
            "width": width,
            "depth": depth,
            "lane": dataclasses.asdict(lane),
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
