"""The trained models of a workdir, read from its checkpoints onto one device."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from scaling_jax.errors import UserError
from scaling_jax.models.family import Model, Spec, attention_head_dim
from scaling_jax.planning import branch_name
from scaling_jax.storage.records import DONE, Records
from scaling_jax.storage.workdir import Workdir, volumes
from scaling_jax.stored_family import StoredFamily
from scaling_jax.study import Study, content_hash
from scaling_jax.trained import tokenizer as tokenizers
from scaling_jax.training import hardware, optimizers, step
from scaling_jax.training.fingerprint import fingerprint
from scaling_jax.training.scale import scaling_of


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """One trained run.

    Attributes:
      row: of the results table.
      study, spec: what it was trained for and on.
      model: its scale as pure functions.
      params: on one device, float32.
    """

    row: Mapping[str, Any]
    study: Study
    spec: Spec
    model: Model
    params: Any

    @property
    def scale(self) -> str:
        """Name of the (width, depth)."""
        return str(self.row["scale"])

    @functools.cached_property
    def logits(self) -> Any:
        """Compiled: int [B, T] -> float32 [B, T, V], or float [B, H, W, C] (normalized) -> float32 [B, K].

        Raises:
          UserError: the family gives no logits.
        """
        function = need_logits(self.model, self.study)
        return functools.partial(jax.jit(function), self.params)


def need_logits(model: Model, study: Study) -> Any:
    """`model.logits`.

    Raises:
      UserError: the family does not give it.
    """
    if model.logits is None:
        raise UserError(
            f"family {study.family.name!r} gives no logits: add Model(logits=...), see docs/families.md, to sample, "
            "export, serve or average its models"
        )
    return model.logits


class Models:
    """The trained models of a workdir.

    Example:
      models = Models("runs/mine")
      models.scales, models.load("w96-d2").params

    Args:
      workdir: local folder or gs:// path.

    Raises:
      UserError: not a workdir, a simulated one, a family that is not registered here, or no finished run.
    """

    def __init__(self, workdir: Any):
        place = Workdir(workdir)
        self.path = place.path  # absolute, as orbax wants it
        stored = place.stored()
        if stored is None:
            raise UserError(f"{str(workdir)!r} is not a workdir (it has no study.json)")
        if "simulation" in stored.frame:
            raise UserError(f"workdir {str(workdir)!r} was simulated: there are no trained models in it")
        self.stored = stored
        self.study = Study.from_dict(stored.study, any_family=True)
        if isinstance(self.study.family, StoredFamily):
            self.study.family.check(0, 0, None)
        self.spec = Spec.from_dict(stored.spec)
        finished = Records(self.path).finished()
        self.rows = {i: finished[i] for i in stored.runs if i in finished and finished[i]["status"] == DONE}
        if not self.rows:
            raise UserError(f"{str(workdir)!r} holds no finished run; train first with scaling-jax run")
        self._packs = {lane: name for name, pack in place.packs().items() for lane in pack.lanes}

    @property
    def scales(self) -> list[str]:
        """Names of the scales that have a finished run, in the order of their parameters."""
        rows = sorted(self.rows.values(), key=lambda row: row["params_matmul"])
        return list(dict.fromkeys(row["scale"] for row in rows))

    def best(self, scale: str | None = None, run_id: str | None = None) -> Mapping[str, Any]:
        """The row of a run: by its id, or the best of a scale (default: the largest) at its largest budget.

        Raises:
          UserError: there is none.
        """
        if run_id:
            if run_id not in self.rows:
                raise UserError(f"--run_id={run_id}: no finished run of that id in {self.path}; see results.csv there")
            return self.rows[run_id]
        scale = scale or self.scales[-1]
        if scale not in self.scales:
            raise UserError(f"--scale={scale}: no finished run of that scale; there are {', '.join(self.scales)}")
        rows = [row for row in self.rows.values() if row["scale"] == scale]
        longest = max(row["tokens"] for row in rows)
        return min((row for row in rows if row["tokens"] == longest), key=lambda row: row["loss"])

    def load(self, scale: str | None = None, run_id: str | None = None) -> TrainedModel:
        """The trained model of `best`.

        Raises:
          UserError: there is none, or its checkpoint is gone or damaged.
        """
        row = self.best(scale, run_id)
        model = self.model(row["width"], row["depth"])
        params = self.params([row])[row["run_id"]]
        return TrainedModel(row, self.study, self.spec, model, params)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of a study of text.

        Raises:
          UserError: it is not kept here and its data is gone.
        """
        return tokenizers.of_workdir(self.path, self.study, self.spec)

    def model(self, width: int, depth: int, attention: str | None = None) -> Model:
        """One scale as pure functions, for this machine; `attention` replaces the kernel that training would pick."""
        study, head_dim = self.study, attention_head_dim(self.study.family)
        wanted = dataclasses.replace(study.execution, compute_dtype=self.stored.compute_dtype, remat=False)
        if wanted.attention in ("cudnn", "splash"):  # of the machine that trained
            wanted = dataclasses.replace(wanted, attention="auto")
        execution = hardware.resolve(wanted, width, depth, self.spec, head_dim)
        flexible = "blocked" if jax.default_backend() == "cpu" else "xla"  # takes every length
        execution = dataclasses.replace(execution, attention=attention or flexible)
        return study.family.build(width, depth, self.spec, scaling_of(study, width, depth), execution)

    def params(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """run_id -> parameters, of runs of one scale; every checkpoint is read once.

        Raises:
          UserError: a checkpoint is gone or damaged.
        """
        found: dict[str, Any] = {}
        for row in rows:
            if row["run_id"] in found:
                continue
            lanes, states = self._restore(row)
            for other in rows:
                if _branch(other) == _branch(row) and other["trunk_id"] in lanes:
                    state = states(lanes.index(other["trunk_id"]))
                    found[other["run_id"]] = optimizers.evaluation_params(self.study.optimizer, state)
        return found

    def checkpoint(self, row: Mapping[str, Any]) -> Any:
        """The folder of a run's checkpoint: the end of its branch, where the rate has cooled down.

        Raises:
          UserError: it is gone.
        """
        pack, steps = self._packs.get(row["trunk_id"], row["scale"]), str(row["steps"])
        place, names = self.path / "checkpoints" / pack, [branch_name(*_branch(row)), branch_name(row["steps"])]
        found = [path / steps for name in names for path in volumes(place, name) if (path / steps).exists()]
        if not found:
            raise UserError(
                f"run {row['run_id']} of scale {row['scale']} has no checkpoint ({place / names[1] / steps}); was it "
                "removed with scaling-jax clean --models? Train it again in a new workdir"
            )
        return next((folder for folder in found[:-1] if row["trunk_id"] in _lanes(folder)), found[-1])

    def _restore(self, row: Mapping[str, Any]) -> tuple[list[str], Any]:
        """(lanes of a branch's checkpoint, lane number -> its state)."""
        import orbax.checkpoint as ocp

        folder = self.checkpoint(row)
        try:
            head = json.loads((folder / "head" / "metadata").read_text())
            if head.pop("check", None) != content_hash(head):
                raise ValueError("its head does not match its checksum")
            groups, per_group = head["groups"]
            device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            with ocp.StandardCheckpointer() as checkpointer:
                like = {
                    "lanes": self._like(row, groups, per_group, device),
                    "fingerprint": jax.ShapeDtypeStruct((), "uint32", sharding=device),
                }
                restored = checkpointer.restore(folder / "state", like)
            state = restored["lanes"]
            if int(restored["fingerprint"]) != int(fingerprint(state)):
                raise ValueError("its bits do not match their checksum")
        except (ValueError, KeyError, OSError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"checkpoint {str(folder)!r} cannot be read ({reason})") from error
        return head["lanes"], lambda i: jax.tree.map(lambda x: x[i % per_group], state[i // per_group])

    def _like(self, row: Mapping[str, Any], groups: int, per_group: int, sharding: Any) -> tuple[Any, ...]:
        """ShapeDtypeStructs of the states of a pack as they were saved."""
        model = self.model(row["width"], row["depth"])
        init = functools.partial(step.init_state, model, self.study.optimizer)
        state = jax.eval_shape(init, np.int32(0), np.float32(1))
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((per_group, *x.shape), x.dtype, sharding=sharding), state)
        return (one,) * groups


def _branch(row: Mapping[str, Any]) -> tuple[int, float | None]:
    """(optimizer steps, share of the cool-down): which branch of its trunk a run is."""
    return row["steps"], row.get("cooldown_fraction")


def _lanes(folder: Any) -> list[str]:
    """Lanes of a checkpoint; none where it cannot be read."""
    try:
        return json.loads((folder / "head" / "metadata").read_text())["lanes"]
    except (ValueError, KeyError, OSError):
        return []
