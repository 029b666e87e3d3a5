"""Identity: what determines the loss of a run, resolved, and nothing else.

Not part of it: paths and their spelling, `data.data_dir`, the study's name, layout, mesh, microbatches, attention
kernel, device, fit settings. Two runs of one identity differ by rounding at most.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from scaling_jax.models.family import Spec
from scaling_jax.study import Study, content_hash

# Raised by hand whenever the same settings give other losses: initialization, batches, schedule, update, evaluation.
TRAINING_SEMANTICS = 1

SWEPT = ("learning_rates", "weight_decays", "init_scales", "batch_size")
# Fields of `Optimizer` that an optimizer does not read.
UNREAD = {"adamw": ("momentum",), "sgd": ("b1", "b2", "eps")}


def frame(study: Study, spec: Spec) -> dict[str, Any]:
    """What all runs of a workdir share, as plain JSON types; the corpus' content and the swept quantities come on top.

    Settings that the chosen optimizer, schedule or parametrization does not read are left out.

    Args:
      study: the study.
      spec: what its data looks like to a model.
    """
    resolved = study.to_dict()
    optimizer, schedule, parametrization = (resolved[k] for k in ("optimizer", "schedule", "parametrization"))
    unread = {*SWEPT, *UNREAD.get(study.optimizer.name, ())}
    if study.optimizer.spike_policy == "keep":
        unread.add("spike_factor")
    if study.schedule.name != "wsd":
        del schedule["cooldown_fraction"]
    if study.schedule.name == "constant":
        del schedule["final_fraction"]
    if study.parametrization.name == "standard":
        del parametrization["base_width"]
    data = {"kind": spec.kind, "vocab_size": spec.vocab_size, "context": spec.context}
    if spec.kind == "images":
        data |= {"image_shape": list(spec.image_shape or ()), "augment": study.data.augment}
    return {
        "family": resolved["family"],
        "parametrization": parametrization,
        "schedule": schedule,
        "optimizer": {k: v for k, v in optimizer.items() if k not in unread},
        "data": data,
        "evaluation": resolved["evaluation"],
    }


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
      frame: of `frame`.
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
