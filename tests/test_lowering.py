"""The whole train step program of a big scale lowers for accelerators, with the attention kernel chosen there."""

import dataclasses
import re

import jax
import jax.export  # not part of `import jax`
import numpy as np
import pytest

from scaling_jax.data.dataset import Dataset
from scaling_jax.models import Scaling, Transformer
from scaling_jax.models.family import Spec
from scaling_jax.plan import Lane
from scaling_jax.study import Budgets, Data, Evaluation, Execution, Ladder, Optimizer, Study
from scaling_jax.training import device
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.lanes import LaneProgram, make_mesh

WIDTH, DEPTH, CONTEXT, VOCAB, BATCH = 1024, 16, 2048, 32_768, 16
CUDNN = [jax.export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaSoftmax{end}") for end in ("", "Backward")]


def exported(backend: str, mesh: tuple[int, int, int], layout: str = "map", num_lanes: int = 1) -> str:
    """StableHLO of the chunk of steps that a pack of this scale runs on `backend`."""
    spec = Spec("tokens", VOCAB, CONTEXT)
    tokens = np.zeros(CONTEXT * BATCH + 1, np.uint16)
    study = Study(
        name="big",
        family=Transformer(head_dim=128),
        ladder=Ladder(widths=(WIDTH,), depths=(DEPTH,)),
        budgets=Budgets(tokens=(1e9,)),
        optimizer=Optimizer(batch_size=BATCH),
        data=Data(context=CONTEXT),
        evaluation=Evaluation(examples=BATCH, batch_size=BATCH),
    )
    execution = device.resolve(Execution(layout=layout), WIDTH, DEPTH, spec, 128, backend)
    model = study.family.build(WIDTH, DEPTH, spec, Scaling("mup", WIDTH, 256), execution)
    lanes = [Lane(0.01 * (i + 1), 0.0, 1.0, 0) for i in range(num_lanes)]
    devices = make_mesh(jax.devices()[: np.prod(mesh)], mesh)
    feed = ResidentFeed(Dataset(spec, tokens, tokens, "d" * 16, 1.0, len(tokens), {}))
    program = LaneProgram(model, study, dataclasses.replace(execution, layout=layout), devices, lanes, feed, 64)
    function, arguments = program.train_program()
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
