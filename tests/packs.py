"""A pack in this process: little data, a small model, every layout and mesh."""

import dataclasses

import jax
import numpy as np
from bigram import Bigram

from scaling_jax.data.dataset import Dataset
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan, record_of
from scaling_jax.storage.records import Records
from scaling_jax.study import Budgets, Data, Evaluation, Execution, Ladder, Optimizer, Schedule, Study
from scaling_jax.training import hardware
from scaling_jax.training.checkpoint import PackCheckpoints
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.loop import PackTrainer, Training, buffer_steps
from scaling_jax.training.program import LaneProgram, make_mesh
from scaling_jax.training.scale import scaling_of

CONTEXT, BATCH, VOCAB = 8, 4, 16
SPEC = Spec("tokens", VOCAB, CONTEXT)
LAYOUTS = ("vmap", "map", "sequential")


def make_dataset() -> Dataset:
    """Tokens that a model can learn something from: a noisy walk around the vocabulary."""
    steps = np.random.default_rng(0).choice([1, 2, 7], 3000, p=[0.7, 0.2, 0.1])
    tokens = (np.cumsum(steps) % VOCAB).astype(np.uint8)
    return Dataset(SPEC, tokens[:2600], tokens[2600:], "d" * 16, 1.0, 2600, {})


def make_study(steps=(20, 40), rates=(0.01, 0.02), optimizer=None, schedule=None, execution=None, **changes) -> Study:
    """A study of one small scale; budgets in optimizer steps."""
    return Study(
        name="pack",
        family=changes.pop("family", Bigram()),
        ladder=Ladder(widths=(16,), depths=(1,)),
        budgets=Budgets(tokens=tuple(s * BATCH * CONTEXT for s in steps), min_steps=1),
        optimizer=Optimizer(learning_rates=rates, batch_size=BATCH, **optimizer or {}),
        schedule=Schedule(**{"warmup_steps": 5} | (schedule or {})),
        data=Data(context=CONTEXT),
        evaluation=Evaluation(examples=32, batch_size=16),
        execution=Execution(layout="map", **execution or {}),
        **changes,
    )


def make_program(study, layout="map", mesh=(1, 1, 1), lanes=None, steps=128, feed=None, branches=1) -> LaneProgram:
    """The compiled pack of a study's only scale."""
    (pack,) = make_plan(study, SPEC, "d" * 16)
    execution = hardware.resolve(study.execution, pack.width, pack.depth, SPEC, 8)
    scaling = scaling_of(study, pack.width, pack.depth)
    model = study.family.build(pack.width, pack.depth, SPEC, scaling, execution)
    execution = dataclasses.replace(execution, layout=layout)
    devices = make_mesh(jax.devices()[: np.prod(mesh)], mesh)
    feed = feed or ResidentFeed(make_dataset())
    return LaneProgram(model, study, execution, devices, lanes or pack.lanes, feed, steps, branches)


def run_phase(program, phase, states=None):
    """(states, losses [lanes, steps]) of a phase in one dispatch."""
    states = program.init() if states is None else states
    count = phase.stop - phase.start
    states, losses = program.train(states, program.hparams(phase), phase.start, count)
    return states, np.stack(program.fetch(losses))[:, :count]


def train(study, folder, program=None, should_stop=lambda: False, attempt=0, on_metrics=None, branches=None) -> dict:
    """Trains the pack with its loop, branches on a program of their own if given; its rows of results by run_id."""
    (pack,) = make_plan(study, SPEC, "d" * 16)
    program = program or make_program(study, steps=buffer_steps(pack))
    records = Records(folder, attempt)
    finished = records.finished()
    record = record_of(pack)
    with PackCheckpoints(folder / "checkpoints", 2, record.forks, record.lanes) as checkpoints:
        common = {"study": "pack", "family": "t", "dataset_hash": "d" * 16, "code_version": "", "device": ""}
        training = Training(study, None, records, finished, common, should_stop, lambda progress: None, on_metrics)
        trainer = PackTrainer(training, pack, checkpoints, branches.branches if branches else 1)
        trainer.run(program, branches)
    return records.finished()
