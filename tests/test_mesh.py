"""Meshes of (run, data, fsdp): the same losses on 1, 2, 4, 8 devices in every layout; what cannot be split is said."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import mesh_losses
import numpy as np
import pytest
from packs import SPEC, make_program, make_study

from scaling_jax.errors import UserError
from scaling_jax.models import Transformer
from scaling_jax.planning import make_plan
from scaling_jax.study import Budgets, Evaluation, Optimizer


@pytest.fixture(scope="module")
def losses():
    """By case: losses [lanes, steps] and the evaluations of the final states."""
    script = pathlib.Path(mesh_losses.__file__)
    out = subprocess.run([sys.executable, script.name], cwd=script.parent, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    return json.loads(out.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("case", mesh_losses.CASES)
def test_losses_are_those_of_one_device(losses, case):
    first = case.split(", ")[0]
    reference = losses[first if first in ("transformer", "scan") else "map, 1 device"]
    np.testing.assert_allclose(losses[case]["losses"], reference["losses"], rtol=2e-5)
    np.testing.assert_allclose(losses[case]["evaluated"], reference["evaluated"], rtol=2e-5)


@pytest.mark.slow
def test_lanes_learn_and_differ(losses):
    """What the comparison above compares is not constant."""
    for case in ("map, 1 device", "transformer", "scan"):
        losses_LxS = np.array(losses[case]["losses"])
        assert np.all(losses_LxS[:, -1] < 0.9 * losses_LxS[:, 0])
        assert np.unique(losses_LxS[:, -1]).size == 3


def test_fsdp_splits_parameters_and_moments():
    program = make_program(make_study(family=Transformer(head_dim=8)), mesh=(1, 1, 4))
    (state,) = program.init()
    matrices = state["params"]["layer_0"]["up"], state["opt_state"][-1].mu["layer_0"]["up"]
    for matrix in matrices:
        assert {shard.data.size for shard in matrix.addressable_shards} == {matrix.size // 4}


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        ({"mesh": (1, 3, 1)}, "optimizer.batch_size=4 is not divisible by 3, .*execution.mesh=.1, 3, 1."),
        ({"microbatches": 3}, "optimizer.batch_size=4 is not divisible by 3, .*execution.microbatches=3"),
        ({"mesh": (1, 2, 1), "microbatches": 4}, "optimizer.batch_size=4 is not divisible by 8"),
    ],
)
def test_batches_that_do_not_divide(execution, message):
    with pytest.raises(UserError, match=message):
        make_plan(make_study(execution=execution), SPEC)


def test_evaluation_batch_and_width_that_do_not_divide():
    study = make_study(execution={"mesh": (1, 1, 32)})
    study = dataclasses.replace(study, optimizer=Optimizer(batch_size=32), budgets=Budgets(tokens=(32 * 8 * 40,)))
    with pytest.raises(UserError, match="evaluation.batch_size=16 is not divisible by 32"):
        make_plan(study, SPEC)
    study = dataclasses.replace(study, evaluation=Evaluation(batch_size=32))
    with pytest.raises(UserError, match="w16-d1: width 16 is not divisible by 32, .*execution.mesh"):
        make_plan(study, SPEC)
