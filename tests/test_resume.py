"""A pack that was stopped goes on from what is left of its folder, and ends in the same losses bit by bit."""

import itertools
import shutil

import numpy as np
import packs
import pytest

from scaling_jax.errors import Preempted
from scaling_jax.planning import phases

STUDY = packs.make_study(steps=(50, 100), execution={"dispatch_seconds": 1e-9})  # chunks of a step, after the first

pytestmark = pytest.mark.usefixtures("optimized")


@pytest.fixture(scope="module")
def program():
    return packs.make_program(STUDY, steps=80)


@pytest.fixture(scope="module")
def wanted(program, tmp_path_factory):
    """Losses by run of the pack left alone."""
    return losses(packs.train(STUDY, tmp_path_factory.mktemp("whole"), program))


def losses(rows):
    return {run_id: row["loss"] for run_id, row in rows.items()}


def stop_after(folder, program, chunks, attempt=0):
    """Trains until told to stop after so many chunks."""
    asked = itertools.count(1)
    with pytest.raises(Preempted):
        packs.train(STUDY, folder, program, lambda: next(asked) >= chunks, attempt)


def checkpoints(folder):
    """Folders of all checkpoints, in the order in which they were written."""
    found = [path for path in (folder / "checkpoints").glob("*/*") if path.name.isdigit()]
    return sorted(found, key=lambda path: (path / "head" / "metadata").stat().st_mtime_ns)


def test_told_to_stop_it_saves_after_the_chunk_under_way_and_goes_on_from_there(tmp_path, program, wanted):
    trained = []

    class Counting:
        def __getattr__(self, name):
            return getattr(program, name)

        def train(self, states, hparams, first, count):
            trained.append((*first, *count))
            return program.train(states, hparams, first, count)

    for attempt in range(1000):
        asked = iter([False, True])  # told during the second chunk of every attempt
        before = len(trained)
        try:
            got = packs.train(STUDY, tmp_path / "stopped", Counting(), lambda asked=asked: next(asked, True), attempt)
        except Preempted:
            assert len(trained) - before <= 2
        else:
            break
    phase_steps = {(p.start, p.stop) for p in phases(STUDY.schedule, (50, 100), (0.2, 0.2))}
    seen = sorted(itertools.chain(*(range(first, first + count) for first, count in trained)))
    assert seen == sorted(itertools.chain(*(range(*p) for p in phase_steps)))  # no step twice, none left out
    assert losses(got) == wanted


@pytest.mark.parametrize("stage", ["trunk", "branch", "second trunk", "second branch"])
@pytest.mark.parametrize("damaged", [1, 100])
def test_damaged_checkpoints(tmp_path, program, wanted, caplog, stage, damaged):
    # 21 chunks per 40 steps of a phase: 20 steps, then one by one; a branch of 10 or 20 steps has as many chunks.
    stop_after(tmp_path, program, {"trunk": 10, "branch": 26, "second trunk": 40, "second branch": 85}[stage])
    for checkpoint in checkpoints(tmp_path)[-damaged:]:
        for path in (checkpoint / "state").rglob("d/*"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    assert losses(packs.train(STUDY, tmp_path, program, attempt=1)) == wanted
    assert "falling back to the one before" in caplog.text
    assert list((tmp_path / "checkpoints.unreadable").iterdir())


def test_lost_results_are_trained_again_whatever_the_checkpoints_say(tmp_path, program, wanted):
    assert losses(packs.train(STUDY, tmp_path, program)) == wanted
    for attempt, lost in enumerate([*([run_id] for run_id in wanted), list(wanted)], 1):
        for run_id in lost:
            (tmp_path / "runs" / run_id / "_SUCCESS").unlink()
        kept = {run_id: (tmp_path / "runs" / run_id / "result.json").stat().st_mtime_ns for run_id in wanted}
        assert losses(packs.train(STUDY, tmp_path, program, attempt=attempt)) == wanted
        for run_id, when in kept.items():  # those that were there are not written again
            assert ((tmp_path / "runs" / run_id / "result.json").stat().st_mtime_ns == when) == (run_id not in lost)


def test_lost_checkpoints_only_cost_time(tmp_path, program, wanted):
    stop_after(tmp_path, program, 60)
    first = losses(packs.Records(tmp_path).finished())
    assert 0 < len(first) < len(wanted)
    shutil.rmtree(tmp_path / "checkpoints")
    assert losses(packs.train(STUDY, tmp_path, program, attempt=1)) == wanted


def test_a_finished_pack_is_not_touched(tmp_path, program):
    packs.train(STUDY, tmp_path, program)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    class Forbidden:
        def __getattr__(self, name):
            if name in ("init", "train", "evaluate"):
                pytest.fail(f"{name} was called")
            return getattr(program, name)

    packs.train(STUDY, tmp_path, Forbidden(), attempt=1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_curves_are_those_of_the_undisturbed_run(tmp_path, program):
    study = packs.make_study(
        steps=(100, 200), execution={"dispatch_seconds": 1e6}
    )  # chunks of 20 steps, then of the rest
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    program = packs.make_program(study, steps=200)
    packs.train(study, whole, program)
    for attempt in range(100):
        try:
            packs.train(study, stopped, program, lambda: True, attempt)
        except Preempted:
            continue
        break
    assert attempt > 3
    records = [packs.Records(folder) for folder in (whole, stopped)]
    for kind in ("runs", "trunks"):
        for folder in (whole / kind).iterdir():
            wanted, got = ([(p["step"], p["loss"]) for p in r.points(kind, folder.name)] for r in records)
            assert got == wanted
            assert len(wanted) >= 1


def test_resumes_on_another_mesh_and_layout(tmp_path, program, wanted):
    stop_after(tmp_path, program, 26)
    resumed = packs.train(STUDY, tmp_path, packs.make_program(STUDY, "sequential", (4, 1, 1), steps=80), attempt=1)
    for run_id, loss in losses(resumed).items():
        np.testing.assert_allclose(loss, wanted[run_id], rtol=1e-5)
