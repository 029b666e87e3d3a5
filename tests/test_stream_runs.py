"""A study whose batches are streamed from the disk ends in the table of one whose data lie on the devices."""

import functools
import signal

import ladder
import pandas as pd
import pytest
from test_fault_injection import watch_files

# Two packs side by side; rates and seeds are lanes, and every seed has a stream of its own.
OPTIONS = (
    "--num_cpu_devices=2",
    "--set=execution.mesh=(1,1,1)",
    "--set=optimizer.learning_rates=(0.01,0.03)",
    "--set=seeds=(0,5)",
    "--set=execution.dispatch_seconds=0.01",
    "--set=execution.checkpoint_seconds=0.05",
)
SELDOM = "--set=execution.checkpoint_seconds=60"  # for what is not interrupted
IMAGES = '''
"""Digits, cropped and shifted."""
from scaling_jax.models import MLP
from scaling_jax.study import Budgets, Data, Evaluation, Fit, Ladder, Optimizer, Schedule, Study


def get_study():
    return Study(
        name="digits",
        family=MLP(),
        ladder=Ladder(widths=(8, 16), depths=(1,)),
        budgets=Budgets(tokens=(2400, 4800), min_steps=10),
        optimizer=Optimizer(learning_rates=(0.01,), batch_size=32),
        schedule=Schedule(warmup_steps=10),
        data=Data(source="digits"),
        evaluation=Evaluation(examples=100, batch_size=50),
        fit=Fit(bootstrap=0),
    )
'''


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    return ladder.Cli(tmp_path / "log")


def trained(command, workdir, study, feed, *options):
    args = ("run", f"--study={study}", f"--workdir={workdir}", f"--set=execution.feed={feed}", *options)
    assert command.run(*args) == 0, command.said()
    return ladder.table(workdir)


@pytest.mark.slow
def test_streamed_text_killed_and_gone_on_with_ends_in_the_same_losses(command, tmp_path):
    study = ladder.write_study(tmp_path)
    resident = trained(command, tmp_path / "resident", study, "resident", *OPTIONS, SELDOM)
    workdir = tmp_path / "stream"
    args = ("run", f"--study={study}", f"--workdir={workdir}", "--set=execution.feed=stream", *OPTIONS)
    killed = 0
    for operation in (60, 120):
        code = command.run(*args, before=functools.partial(watch_files, str(workdir), operation))
        assert code in (0, -signal.SIGKILL), command.said()
        killed += code != 0
    assert killed
    streamed = trained(command, workdir, study, "stream", *OPTIONS)
    assert len(streamed) == 2 * 3 * 2 * 2
    pd.testing.assert_frame_equal(streamed, resident, check_exact=True)


@pytest.mark.slow
def test_streamed_images_with_augmentation_end_in_the_same_losses(command, tmp_path):
    pytest.importorskip("sklearn")
    study = tmp_path / "digits.py"
    study.write_text(IMAGES)
    resident, streamed = (trained(command, tmp_path / feed, study, feed) for feed in ("resident", "stream"))
    pd.testing.assert_frame_equal(streamed, resident, check_exact=True)
    plain = trained(command, tmp_path / "plain", study, "stream", "--set=data.augment=False")
    assert (plain.loss != streamed.loss).all()
    unique = resident.unique_tokens.unique()
    assert len(unique) == 1 and (resident.epochs == resident.steps * 32 / unique[0]).all()
