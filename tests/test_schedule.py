"""The learning rate at every step, against closed forms; above all the last update of a decay."""

import itertools

import jax
import numpy as np
import pytest

from scaling_jax.planning import NO_DECAY, Phase, phases
from scaling_jax.study import Schedule
from scaling_jax.training.schedule import learning_rate

PEAK = 0.03


def rates(steps, decay, warmup=10, final=0.0, decay_shape="linear"):
    """Rates of the updates made at `steps`."""
    hparams = {
        "learning_rate": np.float32(PEAK),
        "warmup_steps": np.float32(warmup),
        "decay_start": np.float32(decay[0]),
        "decay_stop": np.float32(decay[1]),
        "final_fraction": np.float32(final),
    }
    return np.asarray(jax.vmap(lambda step: learning_rate(step, hparams, decay_shape))(np.asarray(steps, np.int32)))


def test_warm_up_is_linear_from_zero_to_the_peak():
    got = rates(range(30), (NO_DECAY, NO_DECAY), warmup=10)
    np.testing.assert_allclose(got[:10], PEAK * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(got[9:], PEAK, rtol=1e-6)
    np.testing.assert_allclose(rates(range(3), (NO_DECAY, NO_DECAY), warmup=0), PEAK, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 7, 2000])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_the_last_update_of_a_linear_decay_is_one_kth_of_the_peak_and_not_zero(k, final):
    stop = 10_000
    got = rates(range(stop - k - 2, stop), (stop - k, stop), final=final)
    left = np.arange(k, 0, -1) / k  # the first update of the decay is made at the peak
    np.testing.assert_allclose(got[:2], PEAK, rtol=1e-6)
    np.testing.assert_allclose(got[2:], PEAK * (final + (1 - final) * left), rtol=1e-5)
    assert got[-1] == pytest.approx(PEAK * ((1 - final) / k + final), rel=1e-5)
    assert got[-1] > 0


def test_cosine_is_the_half_cosine_over_every_budget():
    warmup, stop = 10, 110
    got = rates(range(stop), (warmup, stop), warmup=warmup, final=0.1, decay_shape="cosine")
    done = np.arange(stop - warmup) / (stop - warmup)
    np.testing.assert_allclose(got[warmup:], PEAK * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * done))), rtol=1e-5)
    assert (np.diff(got[warmup:]) < 0).all()
    assert got[-1] > 0.1 * PEAK


def test_steps_of_long_runs_are_told_apart():
    start, stop = 8_000_000, 10_000_000
    got = rates([start, start + 1, stop - 2, stop - 1], (start, stop))
    np.testing.assert_allclose(got, PEAK * np.array([1, 1 - 5e-7, 1e-6, 5e-7]), rtol=1e-6)
    assert got[2] == 2 * got[3]


def test_wsd_cools_down_over_the_last_fifth_of_each_budget():
    got = phases(Schedule(), (100, 200, 1000), (0.2,) * 3)
    assert got == (
        Phase("trunk", 0, 80, NO_DECAY, NO_DECAY, -1),
        Phase("branch", 80, 100, 80, 100, 0),
        Phase("trunk", 80, 160, NO_DECAY, NO_DECAY, -1),
        Phase("branch", 160, 200, 160, 200, 1),
        Phase("trunk", 160, 800, NO_DECAY, NO_DECAY, -1),
        Phase("branch", 800, 1000, 800, 1000, 2),
    )


def test_cosine_trains_every_budget_alone_and_constant_branches_off_nothing():
    assert phases(Schedule(name="cosine", warmup_steps=10), (100, 200), (0.2,) * 2) == (
        Phase("branch", 0, 100, 0, 100, 0),  # decays from the end of each lane's warm-up
        Phase("branch", 0, 200, 0, 200, 1),
    )
    assert phases(Schedule(name="constant"), (100, 200), (0.2,) * 2) == (
        Phase("trunk", 0, 100, NO_DECAY, NO_DECAY, -1),
        Phase("branch", 100, 100, NO_DECAY, NO_DECAY, 0),
        Phase("trunk", 100, 200, NO_DECAY, NO_DECAY, -1),
        Phase("branch", 200, 200, NO_DECAY, NO_DECAY, 1),
    )


@pytest.mark.parametrize("name", ["wsd", "cosine", "constant"])
@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.99])
def test_every_path_to_a_budget_is_whole(name, fraction):
    # Budgets so close that a later one forks before an earlier one ends, and cool-downs of a single step.
    budgets = (3, 4, 5, 50, 51, 200)
    plan = phases(Schedule(name=name, warmup_steps=0), budgets, (fraction,) * len(budgets))
    trunk = 0
    for phase in plan:
        if phase.kind == "trunk":
            assert phase.start == trunk < phase.stop
            trunk = phase.stop
        else:
            # What a branch starts from is there: the trunk has come exactly to its fork, or a fork before is no fork.
            assert phase.start == (0 if name == "cosine" else trunk)
            assert phase.stop == budgets[phase.budget]
            if name == "wsd":
                assert phase.start == phase.decay_start < phase.stop == phase.decay_stop
    assert [phase.budget for phase in plan if phase.kind == "branch"] == list(range(len(budgets)))
    assert all(a.stop == b.start for a, b in itertools.pairwise(p for p in plan if p.kind == "trunk"))
