"""Which runs to make next: `fitting.suggest`."""

import numpy as np
import pytest

from scaling_jax import fitting
from scaling_jax.fitting.optimal import suggest as module


def truth(N, D):
    return 1.7 + 480 / N**0.35 + 2100 / D**0.37


@pytest.fixture(scope="module")
def forecast():
    """Of a noisy ladder from 1.9e16 to 6e18 FLOPs."""
    N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 8.25, 5), np.logspace(8.5, 9.75, 5)))
    y = truth(N, D) * np.exp(0.003 * np.random.default_rng(0).normal(size=N.size))
    return fitting.forecast({"N": N, "D": D}, y)


def test_greedy_updates_are_those_of_a_joint_normal_distribution(forecast):
    """The variance after all runs, against the textbook formula in one step."""
    found = fitting.suggest(forecast, 1e20, target_flops=1e21, runs=5)
    assert len(found.runs) > 2
    n, d = found.runs.N, found.runs.D
    pool = module._Pool(n, d, 6 * n * d, np.arange(n.size), np.zeros(n.size), 0.0)
    joint = module._joint(forecast, pool, found.target, np.ones(n.size))
    solved = np.linalg.solve(joint.K + np.diag(joint.noise), joint.cross.T)
    left = joint.variance - np.mean(np.einsum("tm,mt->t", joint.cross, solved))
    assert found.after == pytest.approx(found.before * np.sqrt((joint.run + left) / (joint.run + joint.variance)))
    assert np.all(np.diff(found.runs.width) < 0) and found.cost <= 1e20


def test_the_joint_variance_is_that_of_the_forecast(forecast):
    target = {"N": np.array([1e9]), "D": np.array([2e10])}
    pool = module._Pool(*(np.array([v]) for v in (1e8, 1e9, 6e17)), np.zeros(1, int), np.zeros(1), 0.0)
    joint, parts = module._joint(forecast, pool, target, np.ones(1)), forecast.predict(target).parts
    assert joint.variance == pytest.approx(sum(parts[k][0] ** 2 for k in ("resampling", "laws", "drift")), rel=1e-6)
    assert joint.run == pytest.approx(parts["run"][0] ** 2)


def test_runs_nearer_to_the_target_say_more_and_more_flops_narrow_more(forecast):
    near, far = ({"N": [n], "D": [20 * n]} for n in (2e9, 2e7))
    widths = [fitting.suggest(forecast, 1e22, target_flops=1e22, candidates=c).after for c in (near, far)]
    assert widths[0] < 0.8 * widths[1]
    widths = [fitting.suggest(forecast, budget, target_flops=1e22).after for budget in (1e18, 1e19, 1e20)]
    assert widths == sorted(widths, reverse=True) and widths[2] < 0.8 * widths[0]


def test_a_longer_budget_of_a_trunk_costs_its_extension(forecast):
    """Chosen one by one, in whatever order, branches cost what planning's phases of WSD take."""
    tokens = np.array([4e10, 1e10, 2e10])
    candidates = {"N": np.full(3, 3e8), "D": tokens, "C": 2e9 * tokens}
    options = {"candidates": candidates, "trunks": ["a"] * 3, "shared": 0.8, "target_flops": 1e21}
    found = fitting.suggest(forecast, 1e21, **options)
    spent = 0.8 * found.runs.D.max() + 0.2 * found.runs.D.sum()
    assert found.cost == pytest.approx(2e9 * spent) and len(found.runs) > 1
    grown = fitting.suggest(forecast, 1e21, **options, trained={"a": 2e10}, runs=1)
    assert grown.cost == pytest.approx(2e9 * (0.2 * grown.runs.D[0] + 0.8 * max(grown.runs.D[0] - 2e10, 0)))
    alone = fitting.suggest(forecast, 1e21, candidates=candidates, target_flops=1e21)
    assert alone.cost == pytest.approx(2e9 * alone.runs.D.sum())


def test_it_says_stop_where_nothing_affordable_helps(forecast):
    found = fitting.suggest(forecast, 1e17, target_flops=1e22)
    assert found.stop and found.text().startswith("stop: the 90% interval")
    assert not fitting.suggest(forecast, 1e20, target_flops=1e22).stop


def test_bad_input(forecast):
    with pytest.raises(fitting.FitError, match="below the cheapest candidate"):
        fitting.suggest(forecast, 1.0)
    with pytest.raises(fitting.FitError, match="1 entries for 225 candidates"):
        fitting.suggest(forecast, 1e20, trunks=["a"])
    with pytest.raises(fitting.FitError, match="candidates: N, D and C must be positive"):
        fitting.suggest(forecast, 1e20, candidates={"N": [1e8], "D": [-1e9]})
    with pytest.raises(fitting.FitError, match="target: N and D must be positive"):
        fitting.suggest(forecast, 1e20, target={"N": 0, "D": 1e9})
    with pytest.raises(fitting.FitError, match="budget_flops=-1"):
        fitting.suggest(forecast, -1.0)
    x = np.logspace(3, 6, 12)
    with pytest.raises(fitting.FitError, match="loss in N and D"):
        fitting.suggest(fitting.forecast(x, 1 + 5 * x**-0.3), 1e20)
