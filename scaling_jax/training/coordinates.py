"""The coordinate check: sizes of activations, and of what a few updates change in them, against width and depth.

Under a parametrization that transfers, both are the same at every width (Yang et al. 2022, arXiv:2203.03466, appendix
D.1) and, under CompleteP, at every depth (arXiv:2505.01618). An activation is the output of a product with (or a lookup
in) one array of the parameters, found in the traced loss: any family is checked, whatever it is written in.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.extend import core

from scaling_jax.data import batches
from scaling_jax.data.dataset import Dataset
from scaling_jax.models import autodiff
from scaling_jax.models.family import attention_head_dim
from scaling_jax.planning import NO_DECAY, make_plan
from scaling_jax.study import Ladder, Study
from scaling_jax.training import hardware
from scaling_jax.training import step as steps
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.scale import scaling_of

PRODUCTS = ("dot_general", "conv_general_dilated", "gather")
SAME_ARRAY = (
    "convert_element_type",
    "reshape",
    "transpose",
    "squeeze",
    "broadcast_in_dim",
    "copy",
    "sharding_constraint",
)
LOOPS = ("scan", "while", "cond")
MOST_WINDOWS = 4096  # of the data that batches are drawn from


def activations(loss: Any, params: Any, batch: Any) -> dict[str, Any]:
    """Outputs of the products with each array in `loss(params, batch)`, by the array's path ("layer_0/qkv").

    Products inside loops (scanned layers) are not seen.
    """
    closed = jax.make_jaxpr(loss)(params, batch)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = ["/".join(str(getattr(k, "key", getattr(k, "name", k))) for k in path) for path, _ in leaves]
    inputs = [*(leaf for _, leaf in leaves), *jax.tree.leaves(batch)]
    found: dict[str, Any] = {}
    _evaluate(closed.jaxpr, closed.consts, inputs, [*names, *[""] * (len(inputs) - len(names))], found)
    return found


def _evaluate(jaxpr: Any, consts: Any, inputs: Any, names: Sequence[str], found: dict[str, Any]) -> tuple[list, list]:
    """(outputs, names of the arrays that they are) of a jaxpr; products with a named array are added to `found`."""
    values = dict(zip(jaxpr.constvars, consts)) | dict(zip(jaxpr.invars, inputs))
    labels = dict(zip(jaxpr.invars, names))

    def value(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    def label(atom: Any) -> str:
        return "" if hasattr(atom, "val") else labels.get(atom, "")

    for eqn in jaxpr.eqns:
        given, called = [label(a) for a in eqn.invars], [value(a) for a in eqn.invars]
        inner = None if eqn.primitive.name in LOOPS else _inner(eqn)
        ours = autodiff.jaxpr_of(eqn) is not None
        if inner is not None and not ours:
            out, out_labels = _evaluate(inner.jaxpr, inner.consts, called, given, found)
        else:
            variables = list(dict.fromkeys(a for a in eqn.invars if not hasattr(a, "val")))
            alone = core.Jaxpr((), variables, eqn.outvars, [eqn], debug_info=jaxpr.debug_info)
            out = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*map(value, variables))
            arrays = [name for name in given if name]
            out_labels = [arrays[0] if arrays and eqn.primitive.name in SAME_ARRAY else ""] * len(out)
            if arrays and (ours or eqn.primitive.name in PRODUCTS):
                found[arrays[0]] = out[0]
        values |= dict(zip(eqn.outvars, out))
        labels |= dict(zip(eqn.outvars, out_labels))
    return [value(a) for a in jaxpr.outvars], [label(a) for a in jaxpr.outvars]


def _inner(eqn: Any) -> Any:
    """The closed jaxpr that an equation calls with its own operands, or None."""
    for one in eqn.params.values():
        if hasattr(one, "jaxpr") and hasattr(one, "consts") and len(one.jaxpr.invars) == len(eqn.invars):
            return one
        if hasattr(one, "eqns") and len(one.invars) == len(eqn.invars) and not one.constvars:
            return core.ClosedJaxpr(one, ())
    return None


def measure(
    study: Study, dataset: Dataset, scales: Sequence[tuple[int, int]], num_steps: int = 5, seeds: Sequence[int] = (0, 1)
) -> pd.DataFrame:
    """Sizes at several scales, each trained for a few steps at its own rate without warm-up.

    Args:
      study: its parametrization, optimizer and batch size are used; of what is swept, the middle.
      dataset: of the study.
      scales: (width, depth), also others than the ladder's.
      num_steps: updates before the change is measured.
      seeds: averaged over.

    Returns:
      Columns width, depth, array (its layer numbers as *), size and change: root mean squares of the activation before
      the first update and of what the updates change in it.
    """
    rows = []
    for width, depth in scales:
        program = _Scale(study, dataset, width, depth)
        for seed in seeds:
            before, after = program.run(seed, num_steps)
            for name, first in before.items():
                change = np.sqrt(np.mean((after[name] - first) ** 2))
                rows.append((width, depth, re.sub(r"\d+", "*", name), np.sqrt(np.mean(first**2)), change))
    frame = pd.DataFrame(rows, columns=["width", "depth", "array", "size", "change"])
    return frame.groupby(["width", "depth", "array"], sort=False)[["size", "change"]].mean().reset_index()


class _Scale:
    """One scale of a study, ready to be trained for a few steps."""

    def __init__(self, study: Study, dataset: Dataset, width: int, depth: int):
        alone = dataclasses.replace(study, ladder=Ladder(widths=(width,), depths=(depth,)))
        pack = make_plan(alone, dataset.spec)[0]
        self.study, self.lane = pack.settled(alone), pack.lanes[len(pack.lanes) // 2]
        plain = dataclasses.replace(
            study.execution, compute_dtype="float32", remat=False, scan_layers=False, attention="xla"
        )
        execution = hardware.resolve(plain, width, depth, dataset.spec, attention_head_dim(study.family))
        scaling = scaling_of(study, width, depth)
        self.model = study.family.build(width, depth, dataset.spec, scaling, execution)
        self.feed, self.windows = ResidentFeed(dataset), min(dataset.num_train_windows, MOST_WINDOWS)
        self.batch_size = pack.batch_size
        last = self.windows if dataset.spec.kind == "images" else self.windows * dataset.spec.context + 1
        labels = {} if dataset.train_labels is None else {"label": jnp.asarray(dataset.train_labels[:last])}
        self.arrays = {"x": jnp.asarray(dataset.train[:last]), **labels}
        self._init = jax.jit(lambda seed: steps.init_state(self.model, study.optimizer, seed, self.lane.init_scale))
        self._step = jax.jit(self._train_step)
        self._look = jax.jit(lambda params, batch: activations(lambda p, b: self.model.loss(p, b)[0], params, batch))

    def _train_step(self, state: Any, hparams: Any, batch: Any) -> Any:
        return steps.train_step(self.model, self.study.optimizer, "linear", state, hparams, jnp.int32(0), batch)[0]

    def run(self, seed: int, num_steps: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Activations on one batch before and after the updates on others."""

        def batch(step: int) -> Any:
            windows = batches.window_starts(seed, step, 1, self.batch_size, self.windows)[0]
            return self.feed.make_batch(self.arrays, jnp.asarray(windows))

        state = self._init(jnp.int32(seed))
        hparams = {
            "learning_rate": self.lane.learning_rate, "weight_decay": 0.0, "warmup_steps": 0, "final_fraction": 0.0,
            "decay_start": NO_DECAY, "decay_stop": NO_DECAY,
        }  # fmt: skip
        if self.lane.b2 is not None:
            hparams["b2"] = self.lane.b2
        hparams = {k: jnp.float32(v) for k, v in hparams.items()}
        seen = batch(num_steps)
        first = jax.tree.map(np.asarray, self._look(state["params"], seen))
        for step in range(num_steps):
            state = self._step(state, hparams, batch(step))
        return first, jax.tree.map(np.asarray, self._look(state["params"], seen))


def slopes(sizes: pd.DataFrame, along: str, column: str) -> pd.Series:
    """d ln(column) / d ln(width or depth) of every array, at the other's smallest value; arrays at 0 are left out."""
    other = "depth" if along == "width" else "width"
    rows = sizes[(sizes[other] == sizes[other].min()) & (sizes[column] > 1e-12)]
    out = {}
    for name, group in rows.groupby("array", sort=False):
        if group[along].nunique() > 1:
            out[name] = float(np.polyfit(np.log(group[along]), np.log(group[column]), 1)[0])
    return pd.Series(out, dtype=float)
