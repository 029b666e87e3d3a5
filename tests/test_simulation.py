"""Many packs on machines that come and go: close to the bound, and losing less than the time between checkpoints."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest

PATH = pathlib.Path(__file__).parents[1] / "benchmarks" / "schedule_simulation.py"
spec = importlib.util.spec_from_file_location("schedule_simulation", PATH)
simulation = sys.modules["schedule_simulation"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulation)

FOREVER = simulation.World(life=(1e12, 1e12), replace=0.0, start=0.0)


@pytest.fixture(scope="module")
def ladder():
    """The planner's times of 10,000 packs."""
    return simulation.ladder_seconds()


@pytest.mark.parametrize("machines", simulation.MACHINES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ten_thousand_packs(ladder, machines, seed):
    assert len(ladder) == 10_000 and (np.diff(ladder) <= 0).all()
    world = simulation.World()
    assert world.life == (3600, 6 * 3600)
    out = simulation.simulate(ladder, machines, world, seed=seed)
    assert out.bound <= out.makespan < 1.15 * out.bound
    assert len(out.lost) > 1000
    assert out.lost.max() <= world.checkpoint


def test_notice_loses_nothing(ladder):
    out = simulation.simulate(ladder, 64, simulation.World(notice=True))
    assert len(out.lost) > 1000 and out.lost.max() == 0


def test_machines_that_last_are_graham_s_bound():
    """Longest first is within 4/3 - 1/(3m) of the best schedule (Graham, 1969), whose worst case this is for m = 3."""
    jobs = [5, 5, 4, 4, 3, 3, 3]
    out = simulation.simulate(jobs, 3, FOREVER)
    assert out.makespan == 11 and out.bound == 9
    assert len(out.lost) == 0


def test_one_pack_through_preemptions_by_hand():
    """Lives of 1000 s, starts of 60 s, checkpoints of 100 s: 940 s of training each, of which 900 s are saved."""
    world = simulation.World(life=(1000, 1000), replace=300, start=60, checkpoint=100)
    out = simulation.simulate([2500], 1, world)
    assert out.lost.tolist() == [40, 40]
    assert out.makespan == 2 * (1000 + 300) + 60 + 700


def test_work_is_never_lost_altogether():
    """Every pack ends, whatever the order, also those longer than any machine lives."""
    jobs = np.random.default_rng(3).exponential(20_000, 200)
    for last in (False, True):
        out = simulation.simulate(jobs, 7, preempted_last=last, seed=4)
        assert np.isfinite(out.makespan) and out.makespan > jobs.sum() / 7


def test_a_machine_that_idles_takes_up_what_another_loses():
    """Two machines, one pack: when its machine goes, the other trains on at once, not when the first comes back."""
    lives = iter([1000.0, 1e9, 1e9])
    world = simulation.World(life=(1.0, 1.0), replace=1e6, start=0, checkpoint=1)
    real, simulation._lives = simulation._lives, lambda rng, world: lives
    try:
        assert simulation.simulate([1500], 2, world).makespan == 1500
    finally:
        simulation._lives = real
