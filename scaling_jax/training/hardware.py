"""The machine: backend, devices, peak FLOP/s, and how "auto" settings resolve on it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import time

import jax
import jax.numpy as jnp
from absl import logging

import scaling_jax
from scaling_jax.errors import UserError
from scaling_jax.models import attention
from scaling_jax.models.family import Counts, Spec, attention_head_dim
from scaling_jax.planning import Pack
from scaling_jax.study import Execution, Study

# Dense bf16 matmul peak of one JAX device (vendors' data sheets), by a whole word of jax's device_kind, longest first.
# A device is a chip, except where JAX sees two per chip: TPU v2, v3 (cores) and TPU7x (chiplets).
KNOWN_PEAKS = {
    "TPU v2": 45e12 / 2,
    "TPU v3": 123e12 / 2,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,
    "GB200": 2250e12,
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
}
SCAN_FROM_DEPTH = 8  # deeper than this, compiling one layer and scanning is worth the copies that scanning costs
CPU_TOKEN_USES = 512  # of a weight in a microbatch: activations stay in a core's caches (benchmarks/README.md)
CPU_PIXEL_USES = 900  # the same of a convolution's
REMAT_FROM_WIDTH = 512  # wider than this, activations rather than arithmetic are what runs out on an accelerator


def use_cpu_devices(count: int | None = None) -> None:
    """Makes every core a CPU device (before JAX starts), which beats one device that splits small matmuls over cores.

    Args:
      count: devices; None is one per core this process may use, unless the user set XLA_FLAGS or the config already.
    """
    if count is None:
        if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
            return
        if getattr(jax.config, "jax_num_cpu_devices", 0) > 0:
            return
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jax.config.update("jax_num_cpu_devices", count)


def known_chip(name: str) -> str:
    """The key of `KNOWN_PEAKS` that a person means by "H100", "v5e" or "TPU v5e".

    Raises:
      UserError: a chip whose peak is not known.
    """
    known = {_bare(key): key for key in KNOWN_PEAKS}
    if _bare(name) not in known:
        raise UserError(f"--chip={name!r} is not known; give one of {', '.join(sorted(known))}")
    return known[_bare(name)]


def _bare(name: str) -> str:
    return name.lower().removeprefix("tpu ").removeprefix("tpu")


@functools.cache
def peak_flops() -> tuple[float, str]:
    """(peak FLOP/s of all devices together, how it is known): the table for known chips, else a measured matmul."""
    kind, count = jax.devices()[0].device_kind, jax.device_count()
    for name, flops in KNOWN_PEAKS.items():
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", kind, re.IGNORECASE):
            return flops * count, f"{count} x {kind}, table"
    return _measured_matmul(), f"{jax.default_backend()} float32 matmul, measured"


def _measured_matmul(size: int = 1024, seconds: float = 0.1) -> float:
    """Best FLOP/s of a float32 matmul; on CPU one call already uses every core."""
    a = jnp.ones((size, size), jnp.float32)
    matmul = jax.jit(lambda x: x @ x).lower(a).compile()
    matmul(a).block_until_ready()
    best, begin = 0.0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        matmul(a).block_until_ready()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def describe() -> str:
    """Devices in words, for records: "cpu x2"."""
    kind = jax.devices()[0].device_kind
    return f"{kind} x{jax.device_count()}"


def resolve(
    execution: Execution,
    width: int,
    depth: int,
    spec: Spec,
    head_dim: int | None,
    backend: str | None = None,
) -> Execution:
    """`execution` with every "auto" but the layout and the feed decided for this scale.

    Args:
      execution: of the study.
      width, depth, spec: of the scale.
      head_dim: of its attention; None without.
      backend: "cpu", "gpu", "tpu"; this process's by default. Programs for others are built to be lowered, not run.
    """
    backend = backend or jax.default_backend()
    dtype = execution.compute_dtype
    if dtype == "auto":
        dtype = "float32" if backend == "cpu" else "bfloat16"
    scan = depth >= SCAN_FROM_DEPTH if execution.scan_layers == "auto" else execution.scan_layers
    remat = backend != "cpu" and width >= REMAT_FROM_WIDTH if execution.remat == "auto" else execution.remat
    kernel = execution.attention
    if kernel == "auto":
        kernel = attention.pick(backend, spec.context, head_dim, jnp.dtype(dtype)) if head_dim else "xla"
        runs_here = kernel == "cudnn" and backend == jax.default_backend()
        reason = attention.cudnn_refuses(spec.context, head_dim or 0) if runs_here else ""
        if reason:
            logging.warning("attention by XLA, since cuDNN's kernel is refused: %s", reason)
            kernel = "xla"
    return dataclasses.replace(
        execution, compute_dtype=dtype, scan_layers=scan, remat=remat, attention=kernel, microbatches=execution.parts
    )


def resolve_pack(study: Study, pack: Pack, spec: Spec, mesh: tuple[int, int, int]) -> Execution:
    """`resolve` for the training of a pack on a mesh of (run, data, fsdp) devices."""
    execution, head_dim = study.execution, attention_head_dim(study.family)
    if execution.microbatches == "auto" and jax.default_backend() == "cpu":
        parts = cpu_parts(pack.counts, spec.context, pack.batch_size // (mesh[1] * mesh[2]))  # what one device takes
        execution = dataclasses.replace(execution, microbatches=parts)
    return resolve(execution, pack.width, pack.depth, spec, head_dim)


def cpu_parts(counts: Counts, context: int, batch_size: int) -> int:
    """The most equal parts of a batch of which each uses every weight so often that activations stay in the caches.

    A matrix is used once per token, a convolution's once per pixel; fewer uses would only re-read weights and add up
    gradients.
    """
    uses = context * counts.flops_per_token / counts.flops_6nd_per_token  # by one sequence or image
    enough = CPU_TOKEN_USES if context > 1 else CPU_PIXEL_USES
    divisors = (k for k in range(1, batch_size + 1) if batch_size % k == 0)
    return max((k for k in divisors if batch_size // k * uses >= enough), default=1)


@functools.cache
def code_version() -> str:
    """The package's version and a hash of what computes a loss: models, data, training."""
    package = pathlib.Path(__file__).parent.parent
    digest = hashlib.sha256()
    for room in ("models", "data", "training"):
        for path in sorted((package / room).glob("*.py")):
            digest.update(path.read_bytes())
    return f"{scaling_jax.__version__}+{digest.hexdigest()[:8]}"
