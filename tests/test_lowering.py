"""The whole train program of a big scale: it lowers for accelerators, and takes the memory that was planned."""

import re

import jax
import jax.export  # not part of `import jax`
import numpy as np
import pytest

from scaling_jax.data.dataset import Dataset
from scaling_jax.models import Scaling, Transformer
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan, step_bytes
from scaling_jax.study import Budgets, Data, Evaluation, Execution, Ladder, Optimizer, Study
from scaling_jax.training import hardware
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.program import LaneProgram, make_mesh

WIDTH, DEPTH, CONTEXT, VOCAB, BATCH = 1024, 16, 2048, 32_768, 16
CUDNN = [jax.export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaSoftmax{end}") for end in ("", "Backward")]


def big_program(backend: str, mesh=(1, 1, 1), num_lanes=1, **execution) -> tuple[LaneProgram, int]:
    """(the program that a pack of this scale runs on `backend`, its planned bytes on a device)."""
    spec = Spec("tokens", VOCAB, CONTEXT)
    tokens = np.zeros(CONTEXT * BATCH + 1, np.uint16)
    study = Study(
        name="big",
        family=Transformer(head_dim=128),
        ladder=Ladder(widths=(WIDTH,), depths=(DEPTH,)),
        budgets=Budgets(tokens=(1e9,)),
        optimizer=Optimizer(learning_rates=tuple(0.01 * (i + 1) for i in range(num_lanes)), batch_size=BATCH),
        data=Data(context=CONTEXT),
        evaluation=Evaluation(examples=BATCH, batch_size=BATCH),
        execution=Execution(**{"layout": "map"} | execution),
    )
    (pack,) = make_plan(study, spec)
    execution = hardware.resolve(study.execution, WIDTH, DEPTH, spec, 128, backend)
    model = study.family.build(WIDTH, DEPTH, spec, Scaling("mup", WIDTH, 256), execution)
    devices = make_mesh(jax.devices()[: np.prod(mesh)], mesh)
    feed = ResidentFeed(Dataset(spec, tokens, tokens, "d" * 16, 1.0, len(tokens), {}))
    program = LaneProgram(model, study, execution, devices, pack.lanes, feed, 64)
    return program, step_bytes(study, pack, spec, mesh, execution)


def exported(backend: str, mesh: tuple[int, int, int], layout: str, num_lanes: int) -> str:
    """StableHLO of the chunk of steps."""
    function, arguments = big_program(backend, mesh, num_lanes, layout=layout)[0].train_program()
    platform = {"gpu": "cuda"}.get(backend, backend)
    return jax.export.export(function, platforms=[platform], disabled_checks=CUDNN)(*arguments).mlir_module()


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "kernel"), [("gpu", "__cudnn$fmhaSoftmaxBackward"), ("tpu", "tpu_custom_call")])
@pytest.mark.parametrize(("mesh", "layout", "num_lanes"), [((1, 1, 1), "map", 1), ((1, 2, 2), "vmap", 2)])
def test_train_program_lowers(backend, kernel, mesh, layout, num_lanes, monkeypatch):
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)  # what it asks the machine for
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    text = exported(backend, mesh, layout, num_lanes)
    assert kernel in text
    # Weights are multiplied in bfloat16 with float32 gradients, and the master weights stay float32.
    lanes = f"{num_lanes}x" if num_lanes > 1 else ""
    assert re.search(rf"dot_general.*tensor<{lanes}1024x4096xbf16>", text)
    assert re.search(rf"dot_general.*bf16>.*-> tensor<{lanes}1024x4096xf32>", text)
    assert not re.search(r"tensor<[^>]*2048x2048x[^>]*>", text), "scores are held in memory"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "changes", "within"),
    [
        ((1, 1, 1), {"remat": True}, 0.15),
        ((1, 1, 1), {"remat": False}, 0.15),
        ((1, 1, 1), {"remat": True, "microbatches": 8, "attention": "xla"}, 0.15),
        ((1, 2, 2), {"remat": True}, 0.2),
    ],
)
def test_planned_memory_is_about_that_of_xla(mesh, changes, within):
    program, planned = big_program("cpu", mesh, **changes)
    function, arguments = program.train_program()
    found = function.lower(*arguments).compile().memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    assert planned == pytest.approx(held + found.temp_size_in_bytes, rel=within)
