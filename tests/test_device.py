"""What the machine is and how "auto" resolves on it, on any backend."""

import subprocess
import sys

import jax
import pytest

from scaling_jax.models import CNN, MLP, Transformer, attention
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.study import Budgets, Execution, Ladder, Optimizer, Study
from scaling_jax.training import hardware

SPEC = Spec("tokens", 32_768, 2048)
TEXT = Spec("tokens", 256, 128)
PICTURES = Spec("images", 10, 1, (28, 28, 1))


@pytest.mark.parametrize(
    ("backend", "dtype", "scan", "remat", "kernel"),
    [
        ("cpu", "float32", True, False, "blocked"),
        ("gpu", "bfloat16", True, True, "cudnn"),
        ("tpu", "bfloat16", True, True, "splash"),
    ],
)
def test_auto_resolves_by_backend(backend, dtype, scan, remat, kernel):
    resolved = hardware.resolve(Execution(), 1024, 16, SPEC, 128, backend)
    assert (resolved.compute_dtype, resolved.scan_layers, resolved.remat, resolved.attention) == (
        dtype,
        scan,
        remat,
        kernel,
    )
    assert resolved.layout == "auto"  # is measured


def test_what_the_study_says_stays():
    asked = Execution(
        compute_dtype="bfloat16", scan_layers=False, remat=True, attention="xla", layout="vmap", microbatches=3
    )
    assert hardware.resolve(asked, 1024, 16, SPEC, 128, "cpu") == asked


@pytest.mark.parametrize(
    ("family", "spec", "batch_size", "mesh", "parts"),
    [
        (Transformer(), TEXT, 16, (2, 1, 1), 4),
        (Transformer(), TEXT, 6, (2, 1, 1), 1),  # 3 parts would have 256 tokens
        (Transformer(), TEXT, 16, (1, 2, 1), 2),  # each device takes half of the batch
        (Transformer(), Spec("tokens", 256, 1024), 7, (1, 1, 1), 7),
        (CNN(), PICTURES, 64, (1, 1, 1), 8),
        (CNN(stem_stride=2), PICTURES, 64, (1, 1, 1), 2),  # a quarter of the pixels
        (MLP(), PICTURES, 64, (1, 1, 1), 1),  # a weight is used once an image
    ],
)
def test_a_cpu_takes_a_batch_in_parts_that_its_caches_hold(family, spec, batch_size, mesh, parts):
    study = Study(
        name="parts",
        family=family,
        ladder=Ladder(widths=(32 if spec is not PICTURES else 8,), depths=(2 if spec is not PICTURES else 1,)),
        budgets=Budgets(tokens=(1e7,)),
        optimizer=Optimizer(batch_size=batch_size),
    )
    (pack,) = make_plan(study, spec)
    assert hardware.resolve_pack(study, pack, spec, mesh).microbatches == parts


def test_small_scales_are_neither_scanned_nor_rematerialized():
    resolved = hardware.resolve(Execution(), 64, 3, SPEC, 32, "tpu")
    assert (resolved.scan_layers, resolved.remat) == (False, False)


def test_families_without_attention_resolve():
    assert hardware.resolve(Execution(), 64, 3, SPEC, None, "gpu").attention == "xla"


def test_cudnn_says_why_it_cannot_run_here():
    assert "cuDNN" in attention.cudnn_refuses(2048, 128) or "cudnn" in attention.cudnn_refuses(2048, 128)


def test_a_gpu_that_cudnn_refuses_falls_back(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "cudnn_refuses", lambda context, head_dim: "too old")
    assert hardware.resolve(Execution(), 1024, 16, SPEC, 128).attention == "xla"


@pytest.mark.parametrize(
    ("kind", "count", "flops"),
    [
        ("TPU v5 lite", 4, 4 * 197e12),
        ("TPU v5p", 1, 459e12),
        ("TPU v2", 8, 4 * 45e12),  # JAX's devices are cores, two per chip
        ("TPU v3", 8, 4 * 123e12),
        ("NVIDIA H100 80GB HBM3", 8, 8 * 989e12),
        ("NVIDIA A100-SXM4-80GB", 2, 2 * 312e12),
        ("NVIDIA L4", 1, 121e12),
        ("NVIDIA L40", 1, 181e12),
        ("NVIDIA L40S", 1, 362e12),
        ("Tesla T4", 1, 65e12),
    ],
)
def test_peaks_of_known_chips(kind, count, flops, monkeypatch):
    class Chip:
        device_kind = kind

    monkeypatch.setattr(jax, "devices", lambda: [Chip()] * count)
    monkeypatch.setattr(jax, "device_count", lambda: count)
    hardware.peak_flops.cache_clear()
    try:
        assert hardware.peak_flops() == (flops, f"{count} x {kind}, table")
    finally:
        hardware.peak_flops.cache_clear()


def test_an_unknown_machine_is_measured():
    flops, how = hardware._measured_matmul(size=128, seconds=0.01), hardware.peak_flops()[1]
    assert flops > 1e8
    assert "measured" in how


@pytest.mark.parametrize(("before", "count"), [("", 3), ("jax.config.update('jax_num_cpu_devices', 2); ", 2)])
def test_every_core_becomes_a_device_unless_the_user_chose(before, count):
    code = (
        f"import jax, os; {before}from scaling_jax.training import hardware; "
        "os.sched_getaffinity = lambda pid: {0, 1, 2}; hardware.use_cpu_devices(); print(jax.device_count())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.split() == [str(count)], out.stderr
