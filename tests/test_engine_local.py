"""Packs on the devices of one process: the next is compiled while another trains."""

import dataclasses

import jax
import packs
import pytest

from scaling_jax.engines import local
from scaling_jax.planning import make_plan
from scaling_jax.storage.records import Records
from scaling_jax.study import Execution, Ladder
from scaling_jax.training import layout
from scaling_jax.training.feed import ResidentFeed
from scaling_jax.training.loop import Training
from scaling_jax.training.program import LaneProgram, make_mesh

RATES = (0.01, 0.02, 0.03, 0.04)  # a lane on each of the four devices: packs train one after another
SIX_RATES = (*RATES, 0.05, 0.06)
COMMON = {"study": "pack", "family": "t", "dataset_hash": "d" * 16, "code_version": "", "device": ""}


def train(folder, monkeypatch, ahead: bool) -> tuple[dict, list[tuple[str, int]]]:
    """(losses by run_id, what happened in order: programs to compile and chunks trained, by width) of three scales."""
    events = []
    study = packs.make_study(steps=(40, 80), rates=RATES)
    study = dataclasses.replace(
        study,
        ladder=Ladder(widths=(8, 16, 24), depths=(1,)),
        execution=Execution(layout="map", dispatch_seconds=1e-9),
    )
    monkeypatch.setattr(local, "AHEAD_BACKENDS", (jax.default_backend(),) if ahead else ())
    compile_all = LaneProgram.compile

    def compiled(program):
        events.append(("compiled", program.state_shapes["params"]["embed"].shape[-1]))
        compile_all(program)

    monkeypatch.setattr(LaneProgram, "compile", compiled)
    plan = make_plan(study, packs.SPEC, "d" * 16)
    widths = {pack.scale: pack.width for pack in plan}
    records = Records(folder, 0)
    local.train_packs(
        plan,
        Training(
            study,
            ResidentFeed(packs.make_dataset()),
            records,
            finished=(),
            common=COMMON,
            should_stop=lambda: False,
            on_progress=lambda progress: events.append(("trained", widths[progress.pack])),
        ),
    )
    monkeypatch.setattr(LaneProgram, "compile", compile_all)
    return {run_id: row["loss"] for run_id, row in records.finished().items()}, events


@pytest.mark.slow
def test_the_next_pack_is_compiled_while_another_trains_and_losses_stay(tmp_path, monkeypatch):
    alone, one_by_one = train(tmp_path / "alone", monkeypatch, ahead=False)
    together, events = train(tmp_path / "together", monkeypatch, ahead=True)
    assert together == alone
    assert len(alone) == 3 * len(RATES) * 2
    order = [width for what, width in events if what == "compiled"]
    assert sorted(order) == [8, 16, 24]  # each once
    for events_of, earlier in ((one_by_one, False), (events, True)):
        for before, width in ((24, 16), (16, 8)):
            last = max(i for i, event in enumerate(events_of) if event == ("trained", before))
            assert (events_of.index(("compiled", width)) < last) == earlier


def test_layouts_are_tried_on_free_devices_only(tmp_path, monkeypatch):
    """Six lanes on four devices: the layout has to be timed, and nothing else may run meanwhile."""
    monkeypatch.setattr(local, "AHEAD_BACKENDS", (jax.default_backend(),))
    monkeypatch.setattr(layout, "WORTH_SECONDS", 0.0)
    study = packs.make_study(steps=(40,), rates=SIX_RATES)
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    records = Records(tmp_path, 0)
    asked = []
    monkeypatch.setattr(local, "build_program", lambda pack, training, devices: asked.append(training.study))
    for name in ("auto", "map"):
        tried = dataclasses.replace(study, execution=Execution(layout=name))
        training = Training(tried, None, records, (), COMMON, lambda: False, lambda progress: None)
        with local._Ahead(training) as ahead:
            ahead.start(pack)
            ahead.program(pack, jax.devices())
    # Tried: once, when its devices are free. Given: ahead, and not again.
    assert [s.execution.layout for s in asked] == ["auto", "map"]


@pytest.mark.parametrize("worth", [0.0, 60.0])
def test_layouts_are_tried_where_that_pays_and_then_recorded(tmp_path, monkeypatch, worth):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(layout, "WORTH_SECONDS", worth)
    seconds = {"vmap": 2.0, "map": 1.0, "sequential": 3.0}
    timed = []
    monkeypatch.setattr(layout, "_time", lambda name, study, pack: timed.append(name) or seconds[name])
    study = dataclasses.replace(packs.make_study(steps=(40,), rates=SIX_RATES), execution=Execution())
    (pack,) = make_plan(study, packs.SPEC, "d" * 16)
    mesh, records = make_mesh(jax.devices(), (4, 1, 1)), Records(tmp_path / "work", 0)

    def choose():
        return layout.choose_layout(study.execution, pack, study, mesh, records, lambda name, steps: name)

    assert choose() == ("map" if worth == 0 else "sequential")
    assert timed == (list(seconds) if worth == 0 else [])
    seconds["map"] = 9.0
    assert choose() == ("map" if worth == 0 else "sequential")  # what was recorded stays
    assert len(timed) <= 3
