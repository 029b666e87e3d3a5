"""The frontier: closed forms, any cost, caps, intervals and how far it reaches beyond the data."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from fitting_truth import FORMULA, TRUTH, noisy
from scipy.optimize import minimize_scalar

from scaling_jax import fitting

C = np.array([1e19, 1e22, 1e25])


@pytest.fixture(scope="module")
def fit():
    return fitting.fit("chinchilla", *noisy("chinchilla", 0.004))


def brute(loss, tokens, low=5.0, high=40.0):
    """N that minimizes loss(N, tokens(N)), by scipy."""
    found = minimize_scalar(lambda n: loss(np.exp(n), tokens(np.exp(n))), bounds=(low, high), method="bounded",
                            options={"xatol": 1e-10})  # fmt: skip
    return float(np.exp(found.x))


def loss_of(fit):
    return lambda N, D: FORMULA["chinchilla"](fit.params, N, D)


def test_closed_form_and_numerical_agree(fit):
    closed, numerical = fit.frontier(C), fit.frontier(C, cost=lambda N, D: 6 * N * D)
    assert (closed.method, numerical.method) == ("closed form", "numerical")
    for k in ("N", "D", "loss"):
        np.testing.assert_allclose(getattr(numerical, k), getattr(closed, k), rtol=1e-8)
    np.testing.assert_allclose(6 * closed.N * closed.D, C, rtol=1e-12)
    np.testing.assert_allclose(closed.loss, fit.predict({"N": closed.N, "D": closed.D}), rtol=1e-13)


def test_shapes_follow_c(fit):
    assert fit.frontier(1e22).N.shape == () and float(fit.frontier(1e22).N) > 0
    assert fit.frontier(C.reshape(3, 1), level=0.9).interval["D"][0].shape == (3, 1)
    assert (
        fit.frontier([], level=0.9).N.shape == fit.frontier([], cost=lambda N, D: 7 * N * D, level=0.9).N.shape == (0,)
    )


@pytest.mark.parametrize(
    "cost",
    [
        lambda N, D: 6 * N * D + 2e3 * N**0.5 * D,  # attention beside 6ND
        lambda N, D: (
            1.5 * (6 * N * D) / (4e14 * 0.4) / 3600 + 1e-9 * N
        ),  # dollars: device-hours, and a checkpoint store
        lambda N, D: 6 * math.exp(math.log(N)) * D if N > 0 else math.inf,  # written for scalars
    ],
    ids=["exact FLOPs", "dollars", "scalar code"],
)
def test_any_cost(fit, cost):
    budget = float(cost(3e9, 6e10))
    found = fit.frontier(budget, cost=cost)

    def tokens(N):
        low, high = 1e-3, 1e40
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if cost(N, middle) <= budget else (low, middle)
        return low

    assert float(found.N) == pytest.approx(brute(loss_of(fit), tokens), rel=1e-4)
    assert cost(float(found.N), float(found.D)) == pytest.approx(budget, rel=1e-9)


def test_stepwise_cost(fit):
    # Whole nodes of eight devices: the cost of D goes in steps.
    def cost(N, D):
        return np.ceil(6 * N * D / 1e20) * 1e20

    found = fit.frontier(1e22, cost=cost)
    assert float(found.N) == pytest.approx(float(fit.frontier(1e22).N), rel=0.02)
    assert cost(found.N, found.D) <= 1e22


def test_caps(fit):
    free = fit.frontier(1e24)
    small = fit.frontier(1e24, max_N=1e9)
    assert float(small.N) == pytest.approx(1e9) and float(small.N) <= 1e9
    assert float(small.D) == pytest.approx(1e24 / 6e9) and small.loss > free.loss
    few = fit.frontier(1e24, max_D=1e11)
    assert float(few.D) == pytest.approx(1e11) and float(few.N) == pytest.approx(1e24 / 6e11, rel=1e-6)
    memory = fit.frontier(1e24, allowed=lambda N, D: 16 * N <= 8e10)
    assert float(memory.N) == pytest.approx(5e9, rel=1e-6) and float(memory.N) <= 5e9
    slack = fit.frontier(1e22, max_N=1e13, max_D=1e15)
    assert float(slack.N) == pytest.approx(float(fit.frontier(1e22).N), rel=1e-7)
    with pytest.raises(fitting.FitError, match="buys nothing"):
        fit.frontier(1e24, allowed=lambda N, D: False)


@pytest.mark.parametrize("run", [False, True], ids=["delta", "bootstrap"])
def test_intervals(run):
    inputs, y = noisy("chinchilla", 0.01)
    fit = fitting.fit("chinchilla", inputs, y)
    if run:
        boot = fit.bootstrap(300)
        p = dict(zip(boot.params, boot.samples.T))
        G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
        expected = np.quantile(G * (1e24 / 6) ** (p["beta"] / (p["alpha"] + p["beta"])), [0.05, 0.95])
        np.testing.assert_allclose(boot.frontier(1e24, level=0.9).interval["N"], expected, rtol=1e-5)
        fit = fit.with_bootstrap(boot)
        np.testing.assert_allclose(fit.frontier(1e24, level=0.9).interval["N"], expected, rtol=1e-5)
    closed, numerical = (fit.frontier(C, cost, 0.9) for cost in (None, lambda N, D: 6 * N * D))
    for k in ("N", "D", "loss"):
        low, high = closed.interval[k]
        assert np.all(low < getattr(closed, k)) and np.all(getattr(closed, k) < high)
        np.testing.assert_allclose(numerical.interval[k], closed.interval[k], rtol=2e-4)
    width = np.log(closed.interval["N"][1] / closed.interval["N"][0])
    assert width[2] > width[1]  # the further away, the less sure


def test_extrapolation_is_reported(fit):
    found = fit.frontier([1e10, 1e19, 1e25])
    low, high = fit.ranges["C"]
    np.testing.assert_allclose(found.extrapolation, [np.log10(1e10 / low), 0, np.log10(1e25 / high)])
    assert "decades below the data" in repr(found) and "decades above the data" in repr(found)


def test_rows_of_weight_zero_do_not_extend_the_range():
    inputs, y = noisy("chinchilla", 0.004)
    small = inputs["N"] < 1e9
    fit = fitting.fit("chinchilla", inputs, y, weights=small.astype(float))
    alone = fitting.fit("chinchilla", {k: v[small] for k, v in inputs.items()}, y[small])
    assert fit.ranges == alone.ranges
    assert float(fit.frontier(1e22).extrapolation) == pytest.approx(float(alone.frontier(1e22).extrapolation))


def test_other_laws():
    tied = fitting.fit("chinchilla_tied", *noisy("chinchilla_tied", 0.0))
    N, D = noisy("chinchilla_tied", 0.0)[0].values()
    y = FORMULA["chinchilla_tied"](TRUTH["chinchilla_tied"], N, D)
    over = fitting.fit("overtraining", {"N": N, "D": D}, y)  # M follows
    np.testing.assert_array_equal(over.data["M"], D / N)
    assert "  a* = 0.5000\n" in str(over)  # by the law: not +- 0
    assert over.predict({"N": 1e9, "D": 2e10}) == over.predict({"N": 1e9, "M": 20.0})
    assert fitting.holdout("overtraining", {"N": N, "D": D}, y, cut=np.median(6 * N * D)).rmsle < 1e-7
    # Counting N otherwise leaves the tokens as they are, not M.
    counted = fitting.sensitivity(over, objectives=[over.objective], conventions={"twice": 2 * N}).rows[1]["params"]
    assert counted["eta"] == pytest.approx(over.params["eta"], rel=1e-6)
    assert counted["b"] == pytest.approx(over.params["b"], rel=1e-6)  # b / D^(2 eta)
    np.testing.assert_allclose(over.frontier(C).N, tied.frontier(C).N, rtol=1e-6)
    np.testing.assert_allclose(over.frontier(C, cost=lambda N, D: 6 * N * D).D, tied.frontier(C).D, rtol=1e-6)
    farseer = fitting.fit("farseer", *noisy("farseer", 0.0))
    # This law falls again at absurd sizes; the meaningful optimum is the one inside.
    expected = brute(lambda n, d: FORMULA["farseer"](farseer.params, n, d), lambda n: 1e20 / 6 / n, low=17, high=26)
    assert float(farseer.frontier(1e20).N) == pytest.approx(expected, rel=1e-4)


def test_repeated_data_need_unique_tokens():
    fit = fitting.fit("data_constrained", *noisy("data_constrained", 0.0))
    plenty = fit.frontier(1e22, inputs={"U": 1e15})
    scarce = fit.frontier(1e22, inputs={"U": 1e10})
    chinchilla = fitting.laws["chinchilla"].optimal_N(fit.params, 1e22)
    assert float(plenty.N) == pytest.approx(chinchilla, rel=1e-4)
    assert scarce.loss > plenty.loss
    expected = brute(lambda n, d: FORMULA["data_constrained"](fit.params, n, d, 1e10), lambda n: 1e22 / 6 / n)
    assert float(scarce.N) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(fitting.FitError, match="inputs="):
        fit.frontier(1e22)


def test_shape_law_takes_its_shape_from_n():
    fit = fitting.fit("shape", *noisy("shape", 0.0))
    shape = {"depth": 24.0, "width": lambda N, D: np.sqrt(N / (12 * 24))}
    found = fit.frontier(1e21, inputs=shape)
    expected = brute(
        lambda n, d: FORMULA["shape"](fit.params, np.sqrt(n / (12 * 24)), 24.0, n, d), lambda n: 1e21 / 6 / n
    )
    assert float(found.N) == pytest.approx(expected, rel=1e-4)


def test_a_metric_to_maximize():
    import jax.numpy as jnp

    law = fitting.law(
        lambda p, x: p["top"] - p["A"] * jnp.exp(-0.3 * jnp.log(x["N"])) - p["B"] * jnp.exp(-0.3 * jnp.log(x["D"])),
        params={"top": (0, 2), "A": (0, 1e4), "B": (0, 1e4)}, inputs=("N", "D"),
    )  # fmt: skip
    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e12, 6)))
    fit = fitting.fit(law, {"N": N, "D": D}, 0.9 - 40 * N**-0.3 - 80 * D**-0.3, fitting.LeastSquares())
    found = fit.frontier(1e22, maximize=True)
    assert float(found.N) == pytest.approx((40 / 80) ** (1 / 0.6) * (1e22 / 6) ** 0.5, rel=1e-6)


def test_laws_without_a_frontier_are_refused():
    with pytest.raises(fitting.FitError, match="no frontier"):
        fitting.fit("power", np.geomspace(1, 100, 9), np.geomspace(9, 1, 9)).frontier(1e20)
    with pytest.raises(fitting.FitError, match="no frontier"):
        fitting.fit("lr_optimum", *noisy("lr_optimum", 0.0)).frontier(1e20)


def test_a_dip_far_outside_the_data_is_not_the_optimum():
    inputs, y = noisy("chinchilla", 0.0)

    def dented(p, x):  # the same law where the data are, and a deeper minimum at N = 1e20
        plain = p["E"] + 406.4 / x["N"] ** 0.34 + 410.7 / x["D"] ** 0.28
        return plain * (1 - 0.99 * jnp.exp(-((jnp.log(x["N"]) - 46.0) ** 2) / 8))

    law = fitting.law(dented, params={"E": (0, 5)}, inputs=("N", "D"))
    at = fitting.fit(law, inputs, y).frontier([1e20, 1e23])
    np.testing.assert_allclose(at.N, fitting.laws["chinchilla"].optimal_N(TRUTH["chinchilla"], at.C), rtol=1e-6)
    assert not at.warnings


def test_an_optimum_far_outside_the_data_is_reported():
    inputs, _ = noisy("chinchilla", 0.0)
    law = fitting.law(
        lambda p, x: p["E"] + 1e3 / x["N"] ** 0.3 + 1e-40 * x["N"] ** 2.0, params={"E": (0, 5)}, inputs=("N", "D")
    )
    fit = fitting.fit(law, inputs, law({"E": 1.5}, inputs))
    (warning,) = fit.frontier(1e21).warnings
    assert "far outside the data" in warning and "5e+07 to 5e+09" in warning


def test_a_vanished_term_is_reported():
    inputs, _ = noisy("chinchilla", 0.0)
    fit = fitting.fit("chinchilla", inputs, 2 + 500 * inputs["D"] ** -0.3, fitting.LeastSquares())
    assert fit.frontier(1e22).warnings or float(fit.frontier(1e22).N) < 1e3


def test_a_law_without_derived_exponents_has_the_slope_of_its_frontier():
    inputs, y = noisy("chinchilla", 0.004)
    built_in = fitting.fit("chinchilla", inputs, y)
    own = fitting.law(
        lambda p, x: p["E"] + p["A"] * x["N"] ** -p["alpha"] + p["B"] * x["D"] ** -p["beta"],
        params={"E": (0, 5), "A": (0, 1e5), "B": (0, 1e5), "alpha": (0, 2), "beta": (0, 2)}, inputs=("N", "D"),
    )  # fmt: skip
    found = fitting.approaches(*inputs.values(), 6 * inputs["N"] * inputs["D"], y, target=1e23, law=own)
    slope = found.estimates["parametric"]
    assert (slope.a, slope.b) == pytest.approx((built_in.exponents["a"], built_in.exponents["b"]), abs=1e-5)
    assert slope.interval == pytest.approx(built_in.interval(0.95)["a"], abs=1e-3)
    given = fitting.approaches(*inputs.values(), 6 * inputs["N"] * inputs["D"], y, target=1e23, law=built_in)
    assert given.fit is built_in and given.estimates["parametric"].interval == built_in.interval(0.95)["a"]
