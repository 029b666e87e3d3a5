"""Uncertainty: covariances against textbook formulas, coverage on simulated data, resampling, open intervals."""

import jax.numpy as jnp
import numpy as np
import pytest
from fitting_truth import FORMULA, TRUTH, noisy
from scipy.optimize import minimize
from scipy.stats import t as student

from scaling_jax import fitting
from scaling_jax.fitting.inference.covariance import leverage_correction, quantiles
from scaling_jax.fitting.inference.delta import open_where_unmoved

LINE = fitting.law(lambda p, x: p["a"] + p["b"] * x["x"], params={"a": (-99, 99), "b": (-99, 99)}, inputs="x")


@pytest.fixture(scope="module")
def line():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 10, 60)
    y = 2 + 0.5 * x + rng.standard_normal(60) * (0.2 + 0.1 * x)
    return x, y, fitting.fit(LINE, x, y, fitting.LeastSquares())


def given_back(X, r, labels):
    """Residuals plus the part absorbed by least squares in each cluster, H_gg r_g: first order of (I - H_gg)^-1."""
    H = X @ np.linalg.inv(X.T @ X) @ X.T
    return r + (H * (labels[:, None] == labels)) @ r


def test_least_squares_covariance_equals_white(line):
    x, y, fit = line
    X = np.stack([np.ones_like(x), x], axis=1)
    bread = np.linalg.inv(X.T @ X)
    r = given_back(X, y - X @ (bread @ X.T @ y), np.arange(60))
    white = bread @ (X.T * r**2 @ X) @ bread
    assert fit.stderr == pytest.approx({"a": white[0, 0] ** 0.5, "b": white[1, 1] ** 0.5}, rel=1e-6)
    half = student.ppf(0.975, 58) * white[1, 1] ** 0.5
    assert fit.interval(0.95)["b"] == pytest.approx((fit.params["b"] - half, fit.params["b"] + half), rel=1e-6)


def test_clustered_covariance_equals_liang_zeger(line):
    x, y, _ = line
    labels = np.repeat(np.arange(12), 5)
    fit = fitting.fit(LINE, x, y, fitting.LeastSquares(), clusters=labels)
    X = np.stack([np.ones_like(x), x], axis=1)
    bread = np.linalg.inv(X.T @ X)
    r = given_back(X, y - X @ (bread @ X.T @ y), labels)
    scores = np.stack([(X[labels == g] * r[labels == g, None]).sum(axis=0) for g in range(12)])
    expected = bread @ scores.T @ scores @ bread * 12 / 11
    assert fit.stderr["b"] == pytest.approx(expected[1, 1] ** 0.5, rel=1e-6)


def test_prediction_interval_of_a_line(line):
    x, y, fit = line
    X = np.stack([np.ones_like(x), x], axis=1)
    bread = np.linalg.inv(X.T @ X)
    r = given_back(X, y - X @ (bread @ X.T @ y), np.arange(60))
    covariance = bread @ (X.T * r**2 @ X) @ bread
    at = np.array([1.0, 20.0])
    half = student.ppf(0.95, 58) * np.sqrt(covariance[0, 0])
    _, (low, high) = fit.predict([0.0, 5.0], level=0.9)
    assert (high[0] - low[0]) / 2 == pytest.approx(half, rel=1e-6)
    half = student.ppf(0.95, 58) * np.sqrt(at @ covariance @ at)
    assert np.ptp(fit.predict(20.0, level=0.9).interval) / 2 == pytest.approx(half, rel=1e-6)
    assert "of the law's mean only" in repr(fit.predict(20.0, level=0.9))


def test_profile_of_a_line_is_its_delta_interval(line):
    _, _, fit = line
    assert tuple(fit.profile("b", 0.9)) == pytest.approx(fit.interval(0.9)["b"], rel=1e-3)


def test_profile_refits_the_others():
    inputs, y = noisy("chinchilla", 0.01, seed=4)
    fit = fitting.fit("chinchilla", inputs, y, fitting.LeastSquares(log=True))
    profile = fit.profile("alpha")
    for end in profile:
        i = int(np.argmin(np.abs(profile.grid - end)))
        held = profile.grid[i]

        def rss(t, held=held):
            p = {"E": t[0], "A": np.exp(t[1]), "B": np.exp(t[2]), "alpha": held, "beta": t[3]}
            return np.sum((np.log(y) - np.log(np.maximum(FORMULA["chinchilla"](p, *inputs.values()), 1e-9))) ** 2)

        p = fit.params
        start = [p["E"], np.log(p["A"]) + (held - p["alpha"]) * 20, np.log(p["B"]), p["beta"]]
        options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-10, "fatol": 1e-16}
        found = minimize(rss, start, method="Nelder-Mead", options=options)
        assert profile.objective[i] == pytest.approx(found.fun, rel=1e-6)
    lower, upper = profile
    between = np.interp([lower, upper], profile.grid, profile.objective)
    assert between == pytest.approx(profile.threshold, rel=0.01)


def test_bootstrap_of_a_mean_is_known():
    y = np.random.default_rng(0).normal(5, 1, 80)
    law = fitting.law(lambda p, x: p["m"] + 0 * x["x"], params={"m": (-99, 99)}, inputs="x")
    fit = fitting.fit(law, np.arange(80.0), y, fitting.LeastSquares())
    exact = np.std(y) / np.sqrt(80)
    for method in ("pairs", "residual", "wild"):
        boot = fit.bootstrap(4000, seed=1, method=method)
        assert boot.samples.shape == (4000, 1) and boot.converged == 1.0
        assert boot.stderr["m"] == pytest.approx(exact, rel=0.05)
        assert boot.samples.mean() == pytest.approx(y.mean(), abs=4 * exact / np.sqrt(4000))


def test_each_resample_is_a_fit():
    inputs, y = noisy("chinchilla", 0.01)
    fit = fitting.fit("chinchilla", inputs, y)
    boot = fit.bootstrap(8, seed=5)
    rng = np.random.RandomState(5)
    drawn = [rng.choice(len(y), len(y)) for _ in range(8)]
    for i in (0, 5):
        alone = fitting.fit("chinchilla", {k: v[drawn[i]] for k, v in inputs.items()}, y[drawn[i]])
        assert boot.samples[i] == pytest.approx(list(alone.params.values()), rel=1e-4)


def test_bootstrap_is_a_function_of_its_seed():
    fit = fitting.fit("chinchilla", *noisy("chinchilla", 0.01))
    one = fit.bootstrap(50, seed=3).samples
    other = fit.bootstrap(50, seed=4).samples
    assert np.array_equal(one, fit.bootstrap(50, seed=3).samples) and not np.array_equal(one, other)


def test_branches_of_one_trunk_are_not_independent():
    # Five branches share their trunk's error: taken as independent, their intervals are too narrow.
    rng = np.random.default_rng(0)
    x = np.repeat(np.geomspace(1e6, 1e10, 14), 5) * np.tile(np.geomspace(1, 1.5, 5), 14)
    trunk = np.repeat(np.arange(14), 5)
    y = 40 * x**-0.2 * np.exp(0.02 * rng.standard_normal(14)[trunk] + 0.002 * rng.standard_normal(70))
    alone = fitting.fit("power", x, y, fitting.LeastSquares(log=True))
    together = fitting.fit("power", x, y, fitting.LeastSquares(log=True), clusters=trunk)
    assert together.params == alone.params
    for stderr in (lambda f: f.stderr["alpha"], lambda f: f.bootstrap(600).stderr["alpha"],
                   lambda f: f.bootstrap(600, method="wild").stderr["alpha"]):  # fmt: skip
        assert 1.6 < stderr(together) / stderr(alone) < 3.0


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["normal", "heavy"])
def test_intervals_cover(noise):
    truth, (inputs, exact) = TRUTH["chinchilla"], noisy("chinchilla", 0.0)
    C = 1e23
    covered = {"delta": [], "bootstrap": [], "profile": [], "N*": [], "prediction": []}
    law = fitting.laws["chinchilla"]
    for seed in range(120):
        rng = np.random.default_rng(seed)
        draw = rng.standard_normal(81) if noise == "normal" else rng.standard_t(3, 81)
        objective = fitting.LeastSquares(log=True) if noise == "normal" else fitting.Huber(5e-3)
        fit = fitting.fit("chinchilla", inputs, exact * np.exp(0.01 * draw), objective, starts=6)
        covered["delta"].append(_inside(fit.interval(0.9)["alpha"], truth["alpha"]))
        covered["profile"].append(_inside(fit.profile("alpha", 0.9), truth["alpha"]))
        covered["N*"].append(_inside(fit.frontier(C, level=0.9).interval["N"], law.optimal_N(truth, C)))
        at = {"N": 1e10, "D": 1e12}
        covered["prediction"].append(_inside(fit.predict(at, level=0.9).interval, law(truth, at)))
        covered["bootstrap"].append(_inside(fit.bootstrap(150).interval(0.9)["alpha"], truth["alpha"]))
    for what, hits in covered.items():
        assert 0.82 <= np.mean(hits) <= 0.97, (what, np.mean(hits))  # 0.9 +- 3 standard errors, less at the low end


def _inside(interval, value):
    low, high = interval
    return bool(low <= value <= high)


def test_unidentified_parameters_have_open_ends():
    # The break is far beyond the data, which determine neither its place nor its sharpness.
    law = fitting.law(
        lambda p, x: p["A"] * x["x"] ** -0.3 / (1 + x["x"] / p["where"]),
        params={"A": (0, 99), "where": (1, np.inf)},
        inputs="x",
    )
    x = np.geomspace(1, 1e3, 40)
    y = 3 * x**-0.3 * np.exp(0.01 * np.random.default_rng(0).standard_normal(40))
    fit = fitting.fit(law, x, y)
    assert fit.profile("where").upper == np.inf and fit.profile("where").lower > 1e3
    assert fit.bootstrap(100).interval(0.9)["where"][1] == np.inf
    assert fit.bootstrap(100).stderr["where"] == np.inf
    assert 1e2 < fit.bootstrap(100).interval(0.9)["where"][0] < np.inf
    assert fit.profile("A").upper < 4


def test_a_collinear_design_gets_no_false_precision():
    # D = 20 N exactly: with tied exponents only A + B / 20^alpha matters.
    N = np.geomspace(1e7, 1e10, 25)
    y = FORMULA["chinchilla_tied"](TRUTH["chinchilla_tied"], N, 20 * N)
    y = y * np.exp(0.003 * np.random.default_rng(0).standard_normal(25))
    fit = fitting.fit("chinchilla_tied", {"N": N, "D": 20 * N}, y)
    assert fit.stderr["A"] > 100 * fit.params["A"] and fit.interval()["A"][1] > 1e9
    assert fit.stderr["E"] < 0.02 and fit.stderr["alpha"] < 0.01
    low, high = fit.profile("A")
    assert low <= fit.params["A"] * 1e-2 or high >= 1e2 * fit.params["A"] or low == 0.0
    assert any("identified" in w or "told apart" in w for w in fit.warnings)
    assert np.ptp(fit.interval(0.9)["alpha"]) < 1


def test_intervals_come_from_the_bootstrap_that_a_fit_is_given():
    fit = fitting.fit("chinchilla", *noisy("chinchilla", 0.01))
    at = {"N": [1e9, 2e9], "D": 1e11}
    by_delta = fit.interval(0.9), fit.predict(at, level=0.9).interval
    boot = fit.bootstrap(200)
    assert (fit.interval(0.9), fit.resampled) == (by_delta[0], None)  # nothing in the fit has changed
    assert np.array_equal(fit.predict(at, level=0.9).interval, by_delta[1])
    resampled = fit.with_bootstrap(boot)
    assert resampled.interval(0.9) == boot.interval(0.9) != by_delta[0] and resampled.stderr == boot.stderr
    values = np.array([fit.law(dict(zip(boot.params, row)), at) for row in boot.samples])
    for source in (boot, resampled):
        interval = source.predict(at, level=0.9).interval
        np.testing.assert_allclose(interval, np.quantile(values, [0.05, 0.95], axis=0))
    assert set(boot.stderr) == {*fit.params, "a", "b"}
    a = boot.samples[:, 4] / (boot.samples[:, 3] + boot.samples[:, 4])
    assert boot.stderr["a"] == pytest.approx(np.std(a, ddof=1))


def test_fixed_parameters_have_no_error():
    fit = fitting.fit("chinchilla", *noisy("chinchilla", 0.01), fixed={"E": 1.69})
    assert fit.bootstrap(20).samples.shape == (20, 4) and "E" not in fit.stderr
    with pytest.raises(fitting.LawError, match="E is fixed"):
        fit.profile("E")


def test_profile_of_a_law_of_one_parameter():
    law = fitting.law(lambda p, x: jnp.exp(-p["k"] * x["x"]), params={"k": (0, 10)}, inputs="x")
    x = np.linspace(0, 2, 40)
    y = np.exp(-0.7 * x) + 0.01 * np.random.default_rng(0).standard_normal(40)
    fit = fitting.fit(law, x, y, fitting.LeastSquares())
    assert tuple(fit.profile("k")) == pytest.approx(fit.interval()["k"], rel=0.01)


def test_as_many_parameters_as_points_leave_every_interval_open():
    N, D = np.array([1e7, 1e8, 1e9, 1e8, 1e9]), np.array([1e9, 1e9, 1e10, 1e11, 1e11])
    fit = fitting.fit(
        "chinchilla", {"N": N, "D": D}, FORMULA["chinchilla"](TRUTH["chinchilla"], N, D) * [1, 1.01, 1, 1, 1]
    )
    assert fit.objective_value < 1e-20
    assert fit.interval()["E"] == (0, np.inf) and fit.interval()["alpha"] == (0, 10) and np.isinf(fit.stderr["a"])
    low, high = fit.frontier(1e22, level=0.9).interval["N"]
    assert low == 0 and np.isinf(high)
    assert tuple(fit.profile("E")) == (0, np.inf)
    assert any("goes through them all" in w for w in fit.warnings)
    with pytest.raises(fitting.FitError, match="5 points for 5 parameters leave no residual to resample"):
        fit.bootstrap(10)


def test_parameters_that_no_resample_changes_are_not_certain():
    inputs, _ = noisy("chinchilla", 0.0)
    y = 1 / (2 + 500 * inputs["D"] ** -0.3)  # rises, so that the law ends as a constant: alpha has no effect
    fit = fitting.fit("chinchilla", inputs, y)
    unmoved = {k: (fit.params[k], fit.params[k]) for k in ("A", "alpha")} | {"a": (0.5, 0.5), "beta": (0.1, 0.2)}
    assert open_where_unmoved(fit, unmoved) == {
        "A": (0, np.inf), "alpha": (0, 10), "a": (-np.inf, np.inf), "beta": (0.1, 0.2),
    }  # fmt: skip


def test_unknown_samples_widen_both_ends():
    samples = np.r_[np.arange(99.0), np.nan]
    low, high = quantiles(samples, 0.98)
    assert low == -np.inf and high == np.inf
    assert quantiles(samples, 0.9) == pytest.approx(
        [np.quantile(np.r_[-np.inf, samples[:99]], 0.05), np.quantile(np.r_[samples[:99], np.inf], 0.95)]
    )


@pytest.mark.parametrize("weights", [None, np.tile([1.0, 2.0, 0.5], 27)])
def test_the_fitted_share_of_a_residual_is_its_leverage(weights):
    inputs, y = noisy("chinchilla", 0.01)
    fit = fitting.fit("chinchilla", inputs, y, fitting.LeastSquares(log=True), weights=weights)
    labels = np.arange(81) // 3
    X = fit.problem.residuals_and_jacobian(fit.z[None])[1][0].T
    H = X @ np.linalg.solve(X.T * fit.weights @ X, X.T * fit.weights)
    np.testing.assert_allclose(
        leverage_correction(fit.problem, fit.z, None), np.diag(H) * fit.residuals, rtol=1e-6, atol=1e-12
    )
    together = [H[np.ix_(labels == g, labels == g)] @ fit.residuals[labels == g] for g in range(27)]
    np.testing.assert_allclose(
        leverage_correction(fit.problem, fit.z, labels), np.concatenate(together), rtol=1e-6, atol=1e-12
    )
