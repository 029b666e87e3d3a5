"""Packs on the devices of one process: the whole study is one list of work, and its order changes no bit."""

import dataclasses
import heapq
import itertools
import json
import threading
import types

import jax
import numpy as np
import packs
import pytest

from scaling_jax.engines import local, schedule
from scaling_jax.errors import Preempted
from scaling_jax.models import Transformer
from scaling_jax.models.family import Spec
from scaling_jax.planning import make_plan
from scaling_jax.storage.records import Records
from scaling_jax.study import Budgets, Data, Execution, Ladder, Optimizer, Study
from scaling_jax.training import layout, loop
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.loop import PackTrainer, Training
from scaling_jax.training.program import make_mesh

SIX_RATES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
COMMON = {"study": "pack", "family": "t", "dataset_hash": "d" * 16, "code_version": "", "device": ""}
FAST = {"dispatch_seconds": 1e-9}  # chunks of a step, after the first

pytestmark = pytest.mark.usefixtures("optimized")


def training_of(study, folder, should_stop=lambda: False, attempt=0, on_progress=lambda progress: None):
    records = Records(folder, attempt)
    feed = ResidentFeed(packs.make_dataset())
    return Training(study, feed, records, set(records.finished()), COMMON, should_stop, on_progress)


def losses(training):
    return {run_id: row["loss"] for run_id, row in training.records.finished().items()}


@pytest.fixture
def compiled_once(monkeypatch):
    """Every program is compiled once, whoever trains."""
    build, built = local.build_program, {}

    def program(pack, training, devices, together=1, init=True):
        key = (pack.name, tuple(devices), together)
        if key not in built:
            built[key] = build(pack, training, devices, together, init)
        return built[key]

    monkeypatch.setattr(local, "build_program", program)
    return program


@pytest.mark.slow
def test_branches_on_several_devices_stopped_under_way_end_in_the_same_bits(tmp_path, monkeypatch, compiled_once):
    monkeypatch.setattr(schedule, "WORTH", 0.0)
    schedule_half = {"cooldown_fraction": 0.5}
    study = packs.make_study(steps=(100, 140, 180), rates=(0.01,), schedule=schedule_half, execution=FAST)
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    serial = training_of(study, tmp_path / "serial")
    programs = [compiled_once(pack, serial, [device]) for device in jax.devices()[:2]]
    with local.checkpoints_of(pack, serial) as checkpoints:
        PackTrainer(serial, pack, checkpoints).run(programs[0])
    wanted = losses(serial)

    under_way = {}

    def watch(progress):
        under_way[threading.current_thread()] = progress.phase

    def several_branches():
        return sum(phase == "branch" and thread.is_alive() for thread, phase in [*under_way.items()]) > 1

    stopped = training_of(study, tmp_path / "pool", several_branches, on_progress=watch)
    with pytest.raises(Preempted):
        local.train_packs([pack], stopped, jax.devices()[:2])
    begun = {path.parent.name for path in (tmp_path / "pool").glob("checkpoints/*/branch-*/*") if path.name.isdigit()}
    assert len(begun) > 1 and len(losses(stopped)) < len(wanted)
    again = training_of(study, tmp_path / "pool", attempt=1)
    local.train_packs([pack], again, jax.devices()[:2])
    assert losses(again) == wanted
    assert {event.devices for event in again.trace.events} == {(0,), (1,)}
    assert 0 < again.trace.busy(2) <= 1
    assert json.loads(again.trace.to_json())["traceEvents"]


def test_a_device_goes_on_while_a_piece_is_evaluated(tmp_path, monkeypatch):
    study = packs.make_study(steps=(40, 60), rates=(0.01,), execution=FAST)
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    evaluating, went_on, finish = threading.Event(), threading.Event(), PackTrainer._finish

    def finish_late(trainer, piece, *args):
        if piece.phases[0].budget == 0:
            evaluating.set()
            assert went_on.wait(60)
        finish(trainer, piece, *args)

    def watch(progress):
        if evaluating.is_set():
            went_on.set()

    monkeypatch.setattr(PackTrainer, "_finish", finish_late)
    training = training_of(study, tmp_path, on_progress=watch)
    local.train_packs([pack], training, jax.devices()[:1])
    assert len(losses(training)) == 2 and 0 < training.trace.busy(1) <= 1
    rows = [event for event in json.loads(training.trace.to_json())["traceEvents"] if event["tid"] == 0]
    assert all(first["ts"] + first["dur"] <= second["ts"] + 1 for first, second in itertools.pairwise(rows))


def test_without_memory_for_another_state_a_device_waits_for_the_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "FORK_SHARE", 0.0)
    study = packs.make_study(steps=(40, 60), rates=(0.01,), execution=FAST)
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    finish, running = PackTrainer._finish, []

    def look(trainer, *args):
        running.append(len(trainer._running))
        finish(trainer, *args)
        running.append(len(trainer._running))

    monkeypatch.setattr(PackTrainer, "_finish", look)
    training = training_of(study, tmp_path)
    local.train_packs([pack], training, jax.devices()[:1])
    assert len(losses(training)) == 2 and set(running) == {1}


@pytest.mark.slow
def test_branches_side_by_side_are_the_branches_one_by_one(tmp_path):
    """Two lanes and three branches as lanes of one program; stopped in the middle of them, resumed bit by bit."""
    study, axis = packs.make_study(steps=(60, 80, 120), execution=FAST, schedule={"cooldown_fraction": 0.4}), 2
    single = packs.make_program(study, "vmap", (axis, 1, 1), steps=128)
    together = packs.make_program(study, "vmap", (axis, 1, 1), steps=128, branches=3)
    plain = packs.train(study, tmp_path / "single", single)

    def train(folder, attempt=0, should_stop=lambda: False):
        return packs.train(study, folder, single, should_stop, attempt, branches=together)

    whole = train(tmp_path / "whole")
    assert plain.keys() == whole.keys()
    for run_id, row in plain.items():
        np.testing.assert_allclose(whole[run_id]["loss"], row["loss"], rtol=2e-5)
    folder = tmp_path / "stopped"
    asked = itertools.count()
    with pytest.raises(Preempted):
        train(folder, 0, lambda: next(asked) >= 55)  # after the chunks of the trunk and a few of the branches
    saved = {path.parent.name: int(path.name) for path in folder.glob("checkpoints/branch-*/*") if path.name.isdigit()}
    assert len(saved) == 3
    asked = itertools.count()
    with pytest.raises(Preempted):  # again, when the shorter ones have ended
        train(folder, 1, lambda: next(asked) >= 1)
    assert {k: row["loss"] for k, row in train(folder, 2).items()} == {k: row["loss"] for k, row in whole.items()}


@pytest.mark.slow
def test_one_by_one_and_side_by_side_agree_over_a_thousand_steps(tmp_path):
    """The schedule of old, a branch after another on one device, and all at once on two; vmap's rounding, 2e-7 a step,
    grows to half a percent at such rates, whatever the schedule."""
    study = packs.make_study(steps=(600, 800, 1000), schedule={"cooldown_fraction": 0.4})
    old = packs.train(study, tmp_path / "old", packs.make_program(study, "sequential", (1, 1, 1)))
    trunk, branches = (packs.make_program(study, "sequential", (2, 1, 1), branches=count) for count in (1, 3))
    new = packs.train(study, tmp_path / "new", trunk, branches=branches)
    assert old.keys() == new.keys() and len({row["loss"] for row in old.values()}) == len(old) >= 6
    for run_id, row in old.items():
        np.testing.assert_allclose(new[run_id]["loss"], row["loss"], rtol=1e-5)


class Simulated(PackTrainer):
    """A pack whose pieces are done when the clock says so."""

    def __init__(self, study, pack, seconds):
        checkpoints = types.SimpleNamespace(parts=set)
        super().__init__(Training(study, None, None, (), {}, None, None), pack, checkpoints)
        self._step_seconds[1] = seconds

    def end(self, piece):
        self._running.remove(piece)
        if piece.kind == "trunk":
            self._reached.add(piece.phases[0].stop)


def simulate(study, seconds, num_devices, compile_seconds=6.0):
    """(share of device-seconds that is busy after the first compilation, seconds in all) of the schedule.

    Args:
      seconds: of a step, by width.
    """
    plan = make_plan(study, Spec("tokens", 256, study.data.context), "d" * 16)
    tasks = [
        schedule.Task(
            Simulated(study, pack, seconds[pack.width]), min(len(pack.lanes), num_devices), 1.0,
            compile_seconds=compile_seconds,
        )
        for pack in plan
    ]  # fmt: skip
    now, busy, events, free, number = 0.0, 0.0, [], set(range(num_devices)), itertools.count()
    ready, compiler = {}, 0.0  # when programs are compiled, and when the compiler is free again
    while True:
        while found := schedule.choose(tasks, free, num_devices):
            task, piece, devices = found
            task.home, task.begun = task.home or devices, True
            if devices not in task.compiled:
                ready[task, devices] = now + compile_seconds
            task.compiled.add(devices)
            task.trainer.begin(piece)
            free -= set(devices)
            length = task.seconds(piece)
            busy += length * task.need
            heapq.heappush(events, (max(now, ready[task, devices]) + length, next(number), task, piece, devices))
        if compiler <= now and (found := schedule.compile_next(tasks, range(num_devices))):
            task, devices = found
            task.home, ready[task, devices] = devices, now + compile_seconds
            task.compiled.add(devices)
            compiler = now + compile_seconds
            continue
        if not events:
            break
        now, _, task, piece, devices = heapq.heappop(events)
        task.trainer.end(piece)
        free |= set(devices)
    assert all(task.trainer.done for task in tasks)
    return busy / ((now - compile_seconds) * num_devices), now


def quickstart(seeds=(0,), widths=(16, 32, 48, 64, 96)):
    return Study(
        name="quickstart", family=Transformer(head_dim=16), ladder=Ladder(widths=widths, depths=(2,)),
        budgets=Budgets(tokens=(0.5e6, 0.7e6, 1e6, 1.4e6, 2e6, 2.8e6)),
        optimizer=Optimizer(learning_rates=(0.014,), batch_size=4), data=Data(context=128), seeds=seeds,
    )  # fmt: skip


SECONDS = {16: 0.0019, 32: 0.0036, 48: 0.0053, 64: 0.0076, 96: 0.0146}  # of a step on one core, measured


@pytest.mark.parametrize(
    ("seeds", "widths", "devices", "share"),
    [
        ((0,), (16, 32, 48, 64, 96), 1, 0.9),
        ((0,), (16, 32, 48, 64, 96), 2, 0.9),
        ((0, 1), (16, 32, 48, 64, 96), 2, 0.9),
        ((0,), (32, 96), 2, 0.8),
        ((0,), (16, 32, 48, 64, 96), 4, 0.5),  # bound by the longest run
        ((0,), (96,), 2, 0.6),  # as well: 2.8 of 3.9
    ],
)
def test_no_device_idles_while_anything_is_ready(seeds, widths, devices, share):
    busy, total = simulate(quickstart(seeds, widths), SECONDS, devices)
    print(f"{seeds} {widths} {devices} devices: {busy:.3f} busy, {total:.0f} s")
    assert busy >= share


def test_the_longest_run_bounds_the_time():
    """One pack on many devices takes what its longest run takes, and the compilation of others."""
    _, total = simulate(quickstart(widths=(96,)), SECONDS, 4)
    assert total < 1.1 * (2.8e6 / 512 * SECONDS[96]) + 6.0


@pytest.mark.parametrize(
    ("backend", "worth", "chosen"), [("gpu", 0.0, "map"), ("gpu", 60.0, "vmap"), ("cpu", 0.0, "sequential")]
)
def test_layouts_are_tried_where_that_pays_and_then_recorded(tmp_path, monkeypatch, backend, worth, chosen):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(layout.hardware, "peak_flops", lambda: (1e12, "given"))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(layout, "WORTH_SECONDS", worth)
    seconds = {"vmap": 2.0, "map": 1.0, "sequential": 3.0}
    timed = []
    monkeypatch.setattr(layout, "_time", lambda name, pack: timed.append(name) or seconds[name])
    study = dataclasses.replace(packs.make_study(steps=(40,), rates=SIX_RATES), execution=Execution())
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    mesh, records = make_mesh(jax.devices(), (4, 1, 1)), Records(tmp_path / "work", 0)

    def choose():
        return layout.choose_layout(study.execution, pack, study, mesh, records, lambda name, steps: name)

    assert choose() == chosen
    assert timed == (list(seconds) if chosen == "map" else [])
    seconds["map"] = 9.0
    assert choose() == chosen  # what was recorded stays
    assert len(timed) <= 3
    (record,) = (tmp_path / "work" / "checkpoints").glob("*.layout.json")
    before = record.read_text()
    monkeypatch.setattr(layout.distributed, "is_single_process", lambda: False)
    assert choose() == chosen and record.read_text() == before  # also the branches, which several processes do not use
