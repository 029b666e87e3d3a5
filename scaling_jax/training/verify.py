"""Checks a family's own counts against its real arrays and its traced training step, before anything trains.

N, D and C of every run come from `Family.counts`, plain Python beside the architecture; a slip there would silently
bend every law that is fitted. Parameters must agree exactly. FLOPs must agree within 2% with the matmuls and
convolutions in the gradient's jaxpr, in float32 with XLA's attention. A jaxpr is traced in a fraction of a second, has
the trip counts of scans (XLA's cost analysis counts a body once), and its elementwise operations can be left out, as
`models.accounting` does; on unrolled models the tests compare it with XLA's own count.

A family whose program executes matmuls that it does not count (causal attention multiplies the whole square of scores)
gives their FLOPs as `unseen_flops_per_token(width, depth, spec)`; what it counts beyond matmuls is negative there.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.interpreters import partial_eval

from scaling_jax.errors import UserError
from scaling_jax.models import Scaling, autodiff, optimizers
from scaling_jax.models.family import Family, Spec
from scaling_jax.planning import Pack
from scaling_jax.storage.paths import as_path, cache_dir, write_atomic
from scaling_jax.study import Execution, Optimizer, Study, content_hash
from scaling_jax.training import hardware

TOLERANCE = 0.02
CHECKPOINTS = ("checkpoint", "remat2", "remat")  # names of jax.checkpoint's primitive, by version
BATCH = 2  # rows of the traced batch; counts are per token


class Uncountable(Exception):
    """The program has a loop whose length is known only when it runs."""


def check_packs(study: Study, packs: Sequence[Pack], spec: Spec) -> None:
    """Checks the optimizer, and the counts of every scale once: scales that passed are remembered in the cache folder.

    Raises:
      UserError: the optimizer would ascend, or a scale's counts are wrong; the message has both numbers.
    """
    check_optimizer(study.optimizer)
    code = _code(study.family)
    for width, depth in sorted({(pack.width, pack.depth) for pack in packs}):
        passed = as_path(cache_dir() / "counts" / _key(study, width, depth, spec, code))
        if code and passed.exists():
            continue
        found = check_counts(study.family, width, depth, spec)
        if not code:
            continue
        try:
            write_atomic(passed, json.dumps(found))
        except OSError as error:  # a full or read-only cache folder must not stop a training
            logging.info("the check of the counts is not remembered: %s", error)


def check_optimizer(optimizer: Optimizer) -> None:
    """Makes one update of two small arrays and checks its direction.

    Raises:
      UserError: the factory refuses its options, or its updates do not go the way that its registration says.
    """
    rule = optimizers.check(optimizer)
    if not isinstance(optimizer.b2, float):  # swept, or a rule: the direction is the same for every value
        optimizer = dataclasses.replace(optimizer, b2=0.5)
    params = {"matrix": np.ones((2, 3), np.float32), "vector": np.ones(3, np.float32)}
    roles = {"matrix": optimizers.HIDDEN, "vector": optimizers.VECTOR}

    def inner_product() -> Any:
        transform = rule.factory(**optimizers.arguments(optimizer, roles))
        updates, _ = transform.update(params, transform.init(params), params)  # the gradient of |params|^2 / 2
        return sum(jnp.vdot(updates[name], params[name]) for name in params)

    options = ", ".join(f"{name}={value!r}" for name, value in optimizer.options.items())
    try:
        slope = float(jax.jit(inner_product)())
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {rule.name!r} refuses options {options}: {' '.join(str(error).split())}") from error
    if not math.isfinite(slope):
        raise UserError(f"optimizer {rule.name!r}: its updates are not finite with options {options or 'as they are'}")
    if (slope > 0) == rule.descends:
        raise UserError(
            f"optimizer {rule.name!r} is registered with descends={rule.descends}, and its updates "
            f"{'ascend' if slope > 0 else 'descend'}{f' with options {options}' if options else ''}; "
            f"{'change them, or ' if options else ''}register it with descends={not rule.descends}"
        )


def check_counts(family: Family, width: int, depth: int, spec: Spec) -> dict[str, float]:
    """Compares `family.counts` with the arrays that `build` makes and with the traced training step.

    Returns:
      The numbers that were found: params_total and flops_per_token (as executed; NaN where it cannot be traced).

    Raises:
      UserError: they disagree; the message has both numbers.
    """
    counts = family.counts(width, depth, spec)
    execution = dataclasses.replace(
        hardware.resolve(Execution(compute_dtype="float32", remat=False, attention="xla"), width, depth, spec, None),
        scan_layers=depth > 2,
    )
    model = family.build(width, depth, spec, Scaling("standard", width, width), execution)
    params = jax.eval_shape(model.init, jax.random.key(0))
    name = f"family {family.name!r} at width {width}, depth {depth}"
    sizes = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    if counts.params_total != sizes:
        raise UserError(
            f"{name}: counts() says params_total={counts.params_total:,}, and its arrays have {sizes:,} entries; "
            "correct counts() of the family"
        )
    try:
        low, high = traced_flops(lambda p, batch: model.loss(p, batch)[0], params, _batch(spec))
    except Uncountable as reason:
        logging.info("%s: its FLOPs are taken as counted: %s", name, reason)
        return {"params_total": sizes, "flops_per_token": math.nan}
    low, high = (flops / (BATCH * spec.context) for flops in (low, high))
    unseen = getattr(family, "unseen_flops_per_token", lambda *scale: 0.0)(width, depth, spec)
    expected = counts.flops_per_token + unseen
    if not (1 - TOLERANCE) * low <= expected <= (1 + TOLERANCE) * high:
        beside = f" (with {unseen:,.0f} that it does not count)" if unseen else ""
        raise UserError(
            f"{name}: counts() says flops_per_token={counts.flops_per_token:,.0f}{beside}, and the matmuls and "
            f"convolutions of its training step take {high:,.0f}; correct counts() of the family, or give "
            "what it rightly leaves out as unseen_flops_per_token()"
        )
    return {"params_total": sizes, "flops_per_token": high}


def traced_flops(loss: Any, params: Any, batch: Any) -> tuple[float, float]:
    """(lowest, highest) FLOPs of the matmuls and convolutions in the gradient of `loss(params, batch)`.

    They differ by the forward FLOPs of what `jax.checkpoint` recomputes, which are not model FLOPs.

    Raises:
      Uncountable: a `while` loop with matmuls.
    """
    gradient = _used(jax.make_jaxpr(jax.grad(loss))(params, batch))
    highest = sum(_flops(eqn) for eqn in gradient.eqns)
    if not any(_recomputes(eqn) for eqn in gradient.eqns):
        return highest, highest
    forward = _used(jax.make_jaxpr(loss)(params, batch))
    return highest - sum(_flops(eqn, only_checkpoints=True) for eqn in forward.eqns), highest


def _used(closed: Any) -> Any:
    """The jaxpr without equations that no output needs, such as the gradient by the images."""
    return partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[0]


def _flops(eqn: Any, only_checkpoints: bool = False) -> float:
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), (batched, _) = eqn.params["dimension_numbers"]
        free = min(v.aval.ndim for v in eqn.invars) - len(contracted) - len(batched)
        summed = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        if only_checkpoints or not free:  # a weighted sum written as a product is elementwise work
            return 0.0
        return 2.0 * math.prod(eqn.outvars[0].aval.shape) * summed
    if name == "conv_general_dilated":
        kernel, layout = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec
        summed = math.prod(kernel) // kernel[layout[0]]
        # Between dilated inputs there are zeros that no multiplication is needed for.
        each = 2.0 * summed / math.prod(eqn.params["lhs_dilation"])
        return 0.0 if only_checkpoints else math.prod(eqn.outvars[0].aval.shape) * each
    if name in CHECKPOINTS:
        only_checkpoints = False
    parts = [sum(_flops(inner, only_checkpoints) for inner in jaxpr.eqns) for jaxpr in _inner(eqn)]
    if name == "while" and any(parts):
        raise Uncountable("a while loop multiplies matrices, and how often is known only when it runs")
    if name in ("cond", "platform_index"):
        return max(parts, default=0.0)
    return sum(parts) * (eqn.params["length"] if name == "scan" else 1)


def _recomputes(eqn: Any) -> bool:
    return eqn.primitive.name in CHECKPOINTS or any(_recomputes(e) for jaxpr in _inner(eqn) for e in jaxpr.eqns)


def _inner(eqn: Any) -> Iterable[Any]:
    """Jaxprs among an equation's parameters."""
    if (ours := autodiff.jaxpr_of(eqn)) is not None:
        yield ours
        return
    for value in eqn.params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(one, "jaxpr", one)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _batch(spec: Spec) -> Any:
    """ShapeDtypeStructs of a batch of `BATCH` rows."""
    if spec.kind == "tokens":
        return jax.ShapeDtypeStruct((BATCH, spec.context + 1), np.int32)
    image = jax.ShapeDtypeStruct((BATCH, *(spec.image_shape or ())), np.float32)
    return {"image": image, "label": jax.ShapeDtypeStruct((BATCH,), np.int32)}


def _code(family: Family) -> str:
    """The files in which the family and its bases are written; "" where that cannot be read, as in a session."""
    members = [vars(cls).get(name) for cls in type(family).__mro__ for name in ("build", "counts")]
    paths = {inspect.unwrap(member).__code__.co_filename for member in members if inspect.isfunction(member)}
    try:
        return content_hash([pathlib.Path(path).read_text() for path in sorted(paths)]) if paths else ""
    except (OSError, ValueError):
        return ""


def _key(study: Study, width: int, depth: int, spec: Spec, code: str) -> str:
    """Identifies a passed check: the counts, and the code of the family and of this package."""
    family = study.family
    parts = {
        "family": study.to_dict()["family"],
        "scale": [width, depth],
        "spec": dataclasses.asdict(spec),
        "counts": dataclasses.asdict(family.counts(width, depth, spec)),
        "unseen": getattr(family, "unseen_flops_per_token", lambda *scale: 0.0)(width, depth, spec),
        "code": [code, hardware.code_version(), jax.__version__],
    }
    return f"{content_hash(parts)}.json"
