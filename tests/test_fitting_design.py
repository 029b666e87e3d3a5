"""Where to spend the next runs."""

import numpy as np
import pytest

from scaling_jax import fitting


def fitted(noise=2e-3, seed=0, n=60):
    rng = np.random.default_rng(seed)
    N = np.exp(rng.uniform(np.log(1e7), np.log(1e9), n))
    D = 20 * N * np.exp(rng.normal(0, 0.8, n))
    loss = (1.69 + 406.4 / N**0.34 + 410.7 / D**0.28) * np.exp(rng.normal(0, noise, n))
    return fitting.fit("chinchilla", {"N": N, "D": D}, loss, fitting.LeastSquares(log=True))


def information(fit, N, D):
    """Rows of d ln f / d (E, A, B, alpha, beta), written out."""
    p, f = fit.params, fit.predict({"N": N, "D": D})
    n, d = N ** -p["alpha"] / f, D ** -p["beta"] / f
    return np.stack([1 / f, n, d, -p["A"] * n * np.log(N), -p["B"] * d * np.log(D)], -1)


def stderr(fit, rows, target):
    """Delta-method standard error of ln N*(target), written out with finite differences in natural units."""
    names = list(fit.params)
    scale = np.array([fit.params[k] for k in names])
    gradient = []
    for k in names:
        up, down = ({**fit.params, k: fit.params[k] * (1 + s * 1e-6)} for s in (1, -1))
        gradient.append((np.log(fit.law.optimal_N(up, target)) - np.log(fit.law.optimal_N(down, target))) / 2e-6)
    rows = rows * scale
    sigma = 1.4826 * np.median(np.sort(np.abs(fit.residuals))[5:])
    return sigma * np.sqrt(np.array(gradient) @ np.linalg.solve(rows.T @ rows, np.array(gradient)))


def test_expected_errors_equal_an_explicit_delta_method():
    fit = fitted()
    plan = fitting.next_runs(fit, 1e19, target=1e22, runs=3)
    rows = information(fit, fit.data["N"], fit.data["D"])
    assert plan.before == pytest.approx(stderr(fit, rows, 1e22), rel=1e-4)
    for i, run in enumerate(plan.runs):
        rows = np.concatenate([rows, information(fit, plan.runs.N[i : i + 1], plan.runs.D[i : i + 1])])
        assert run.stderr == pytest.approx(stderr(fit, rows, 1e22), rel=1e-4)


def test_a_single_run_is_the_best_of_all_candidates():
    fit = fitted()
    N, D = np.geomspace(1e7, 3e9, 6), np.geomspace(1e8, 1e11, 6)
    plan = fitting.next_runs(fit, 1e20, target=1e22, runs=1, N=N, D=D)
    rows = information(fit, fit.data["N"], fit.data["D"])
    after = {}
    for n in N:
        for d in D:
            if 6 * n * d <= 1e20:
                after[n, d] = stderr(fit, np.concatenate([rows, information(fit, np.array([n]), np.array([d]))]), 1e22)
    best = min(after, key=after.get)
    assert (plan.runs.N[0], plan.runs.D[0]) == pytest.approx(best)


def test_a_law_of_tokens_per_parameter_plans_like_the_same_law_of_tokens():
    data, loss = fitted().data, fitted().y
    plans = [
        fitting.next_runs(fitting.fit(law, data, loss, fitting.LeastSquares(log=True)), 1e19, target=1e22, runs=2)
        for law in ("overtraining", "chinchilla_tied")
    ]
    for name in ("N", "D", "stderr"):
        np.testing.assert_allclose(plans[0].runs[name], plans[1].runs[name], rtol=1e-3)


def test_the_plan_is_within_budget_and_reduces_the_error():
    fit = fitted()
    for criterion in ("frontier", "parameters"):
        plan = fitting.next_runs(fit, 3e19, runs=6, criterion=criterion)
        assert np.sum(plan.runs.C) <= 3e19 * (1 + 1e-12)
        np.testing.assert_allclose(plan.runs.C, 6 * plan.runs.N * plan.runs.D)
        assert np.all(np.diff(plan.runs.stderr) <= 1e-12)
        assert plan.runs.stderr[-1] < 0.9 * plan.before
    assert "one standard error" in str(plan)


def test_planned_runs_reduce_the_error_as_expected():
    fit = fitted()
    plan = fitting.next_runs(fit, 3e19, target=1e22, runs=6)
    rng = np.random.default_rng(1)
    truth = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    N, D = np.r_[fit.data["N"], plan.runs.N], np.r_[fit.data["D"], plan.runs.D]
    clean = fit.law(truth, {"N": N, "D": D})
    seen = []
    for _ in range(150):
        again = fit.refit({"N": N, "D": D}, clean * np.exp(rng.normal(0, 2e-3, N.size)), starts=[truth])
        seen.append(np.log(again.law.optimal_N(again.params, 1e22)))
    assert np.std(seen) == pytest.approx(plan.runs.stderr[-1], rel=0.4)


def test_bad_input_gives_a_way_out():
    fit = fitted()
    with pytest.raises(ValueError, match="'speed': choose one of frontier, parameters"):
        fitting.next_runs(fit, 1e19, criterion="speed")
    with pytest.raises(ValueError, match="below the cheapest candidate"):
        fitting.next_runs(fit, 1.0)
    with pytest.raises(ValueError, match="budget=-1 must be a positive number"):
        fitting.next_runs(fit, -1)
    power = fitting.fit("power", {"x": [1.0, 2, 3, 4]}, [4.0, 3, 2.5, 2.2])
    with pytest.raises(ValueError, match="next runs are planned over N and D"):
        fitting.next_runs(power, 1e19)
