"""Which runs to make next: `fitting.suggest`."""

import numpy as np
import pytest

from scaling_jax import fitting
from scaling_jax.fitting.optimal import ensemble, joint, plans, suggest


def truth(N, D):
    return 1.7 + 480 / N**0.35 + 2100 / D**0.37


@pytest.fixture(scope="module")
def forecast():
    """Of a noisy ladder from 1.9e16 to 6e18 FLOPs."""
    N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 8.25, 5), np.logspace(8.5, 9.75, 5)))
    y = truth(N, D) * np.exp(0.003 * np.random.default_rng(0).normal(size=N.size))
    return fitting.forecast({"N": N, "D": D}, y)


def belief_at(forecast, N, D, target):
    pool = plans.Pool(N, D, 6 * N * D, np.arange(N.size), np.zeros(N.size), 0.0)
    return joint.belief_of(forecast, pool, target, np.ones(N.size))


def test_greedy_updates_are_those_of_a_joint_normal_distribution(forecast):
    """The variance after all runs, against the textbook formula in one step."""
    found = fitting.suggest(forecast, 1e20, target_flops=1e21, runs=5)
    assert len(found.runs) > 2
    belief, run = belief_at(forecast, found.runs.N, found.runs.D, found.target)
    solved = np.linalg.solve(belief.K + np.diag(belief.noise), belief.cross.T)
    left = belief.variance - np.mean(np.einsum("tm,mt->t", belief.cross, solved))
    assert found.after == pytest.approx(found.before * np.sqrt((run + left) / (run + belief.variance)))
    assert np.all(np.diff(found.runs.width) < 0) and found.cost <= 1e20


def test_the_joint_variance_is_that_of_the_forecast(forecast):
    target = {"N": np.array([1e9]), "D": np.array([2e10])}
    belief, run = belief_at(forecast, np.array([1e8]), np.array([1e9]), target)
    parts = forecast.predict(target).parts
    assert belief.variance == pytest.approx(sum(parts[k][0] ** 2 for k in ("resampling", "laws", "drift")), rel=1e-6)
    assert run == pytest.approx(parts["run"][0] ** 2)


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


def test_the_ensemble_is_bayesian_linear_regression_where_the_exponents_are_known(monkeypatch):
    """One law of the grid, against the textbook formulas; and its noise is found."""
    monkeypatch.setattr(ensemble, "GRID", np.zeros(1))
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7, 9, 300), 10 ** rng.uniform(9, 11, 300)
    y = (1.7 + 60 / N ** (1 / 3) + 300 / D ** (1 / 3)) * np.exp(0.01 * rng.normal(size=300))
    at = 10 ** rng.uniform(7, 10, 5), 10 ** rng.uniform(9, 12, 5)
    found, noise = ensemble.surface_covariance((N, D), y, np.ones(300), at)

    def terms(n, d):
        return np.stack([np.ones(n.size), n ** (-1 / 3), d ** (-1 / 3)], axis=1)

    X = terms(N, D) / y[:, None]
    coefficients, squares = np.linalg.lstsq(X, np.ones(300))[:2]
    value = terms(*at) @ coefficients
    expected = terms(*at) @ np.linalg.inv(X.T @ X) @ terms(*at).T / np.outer(value, value) * squares[0] / 300
    np.testing.assert_allclose(found, expected, rtol=0.01)
    assert noise == pytest.approx(0.01**2, rel=0.2)


def test_the_ensemble_knows_little_from_few_runs_and_a_law_from_many():
    N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 8, 20), np.logspace(9, 10, 20)))
    y = truth(N, D) * np.exp(0.003 * np.random.default_rng(0).normal(size=N.size))
    far, corners = (np.array([1e9]), np.array([1e11])), [0, 19, 380, 399, 210, 189]
    few, many = (
        ensemble.surface_covariance((N[i], D[i]), y[i], np.ones(len(i)), far)[0][0, 0]
        for i in (corners, np.arange(400))
    )
    assert few > 0.015**2 and many < few / 10


def test_a_law_that_is_hardly_known_is_spread_out_first(forecast, monkeypatch):
    """With nine runs a half of the FLOPs and runs, by information on the surface per FLOP; with 25 nothing of it."""
    N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 8, 3), np.logspace(8.5, 9.5, 3)))
    few = fitting.forecast({"N": N, "D": D}, truth(N, D) * np.exp(0.003 * np.random.default_rng(0).normal(size=9)))
    options = {"target_flops": 1e21, "runs": 10}
    found = fitting.suggest(few, 1e20, **options)
    pool = plans.Pool(*suggest._candidates(few._mixture, None), np.arange(225), np.zeros(225), 0.0)
    surface = joint.surface_belief(few, pool, np.ones(225))
    spread, paid, worth = plans.greedy(surface, plans.of_surface, 1e-3, pool, 0.5e20, 5, per_flop=True)
    assert list(found.index[:5]) == spread and 5 < len(found.index) <= 10 and found.cost <= 1e20
    K, n = surface.K[np.ix_(spread, spread)], surface.noise[spread]
    assert worth == pytest.approx(0.5 * np.linalg.slogdet(np.eye(5) + K / n[:, None])[1])  # D-optimality
    assert sum(paid) <= 0.5e20
    known, poor = fitting.suggest(forecast, 1e20, **options), fitting.suggest(few, 1e17, **options)
    monkeypatch.setattr(suggest, "SPREAD_RUNS", 0)
    assert list(known.index) == list(fitting.suggest(forecast, 1e20, **options).index)
    assert list(found.index) != list(fitting.suggest(few, 1e20, **options).index)
    assert list(poor.index) == list(fitting.suggest(few, 1e17, **options).index)  # which does not buy a start


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
