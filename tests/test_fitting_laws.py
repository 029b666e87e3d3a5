"""Laws: their formulas, exact derivatives and closed-form optima; custom laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fitting_truth import FORMULA, TRUTH, design, noisy
from scipy.optimize import minimize_scalar

from scaling_jax import fitting
from scaling_jax.fitting.laws._evaluate import _JaxProgram
from scaling_jax.fitting.solver._problem import Problem

# Names and inputs of the public API.
INPUTS = {
    "power": "x", "power_offset": "x", "power_shifted": "x", "m4": "x", "bnsl1": "x", "bnsl2": "x", "saturating": "x",
    "kaplan": "N D", "chinchilla": "N D", "chinchilla_tied": "N D", "chinchilla_outer": "N D", "farseer": "N D",
    "lr_optimum": "N D", "batch_optimum": "N D", "data_constrained": "N D U", "overtraining": "N M", "moe": "N E",
    "bnsl1_signed": "x", "downstream": "N D", "downstream_scaled": "N D",
    "transfer": "N D S", "compression": "N D", "shape": "width depth N D", "sigmoid": "loss", "exponential": "loss",
}  # fmt: skip
NAMES = list(INPUTS)


@pytest.mark.parametrize("name", NAMES)
def test_formula(name):
    inputs = design(name)
    expected = [FORMULA[name](TRUTH[name], *row) for row in zip(*inputs.values())]
    np.testing.assert_allclose(fitting.laws[name](TRUTH[name], inputs), expected, rtol=2e-12)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_match_finite_differences(name):
    inputs, y = noisy(name, 0.01)
    problem = Problem.of(fitting.laws[name], inputs, y, np.ones(len(y)), fitting.LeastSquares())
    z = problem.unconstrained(TRUTH[name]) * 1.01
    f, slopes, upper = problem.evaluate(z[None], order=2)
    first = problem.evaluate(z[None])  # by the chain rule, through the parameters in natural units
    np.testing.assert_array_equal(first[0], f)
    np.testing.assert_allclose(first[1], slopes, rtol=1e-8, atol=1e-11 * np.abs(slopes).max())
    second = iter(upper)
    for i in range(problem.p):
        step = 1e-5 * np.eye(problem.p)[i] * max(abs(z[i]), 0.1)
        up, down = (problem.evaluate((z + s)[None]) for s in (step, -step))
        numeric = (up[0] - down[0]) / (2 * step[i])
        np.testing.assert_allclose(slopes[0, i], numeric[0], rtol=1e-6, atol=1e-7 * np.abs(numeric).max())
        for j in range(i, problem.p):
            numeric = (up[1][0, j] - down[1][0, j]) / (2 * step[i])
            exact = np.broadcast_to(next(second), f.shape)[0]
            scale = np.abs(slopes[0]).max() + np.abs(numeric).max()
            np.testing.assert_allclose(exact, numeric, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("A", [1e-25, 1e-40, 1e-80])
def test_parameters_in_excess_by_any_factor_are_worth_a_multiple_of_the_deserved(A):
    """Where nearly all of N is in excess N' = (1 + R_N*) N_opt(U), however far below one parameter N_opt is."""
    p = {"E": 2.0, "A": A, "B": 60.0, "alpha": 0.1, "beta": 0.17, "R_D*": 1.5, "R_N*": 2.0}
    x = {"N": np.geomspace(1e6, 1e9, 40), "D": np.geomspace(1e9, 1e11, 40), "U": np.geomspace(3e8, 9e9, 40)}
    data = x["U"] * (1 + p["R_D*"] * (1 - np.exp(-(x["D"] / x["U"] - 1) / p["R_D*"])))
    excess = p["beta"] * p["B"] / p["alpha"] * x["U"] ** -p["beta"] * (1 + p["R_N*"]) ** -p["alpha"]
    y = fitting.laws["data_constrained"](p, x)
    np.testing.assert_allclose(y, p["E"] + excess + p["B"] * data ** -p["beta"], rtol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_coordinates_round_trip(name):
    inputs, y = noisy(name, 0.0)
    problem = Problem.of(fitting.laws[name], inputs, y, np.ones(len(y)), fitting.LeastSquares())
    params = problem.constrained(problem.unconstrained(TRUTH[name]))
    for k, v in TRUTH[name].items():
        np.testing.assert_allclose(params[k], v, rtol=1e-10)


@pytest.mark.parametrize("name", ["kaplan", "chinchilla", "chinchilla_tied", "chinchilla_outer", "overtraining"])
@pytest.mark.parametrize("C", [1e19, 1e24])
def test_closed_form_optimum(name, C):
    law, params = fitting.laws[name], TRUTH[name]

    def loss(log_n):
        N, D = np.exp(log_n), C / (6 * np.exp(log_n))
        return FORMULA[name](params, N, D / N if "M" in law.inputs else D)

    found = minimize_scalar(loss, bounds=(10, 40), method="bounded", options={"xatol": 1e-12})
    assert np.log(law.optimal_N(params, C)) == pytest.approx(found.x, abs=1e-5)
    a = law.exponents.get("a", law.exponents.get("a*"))(params)
    assert np.log(law.optimal_N(params, 10 * C) / law.optimal_N(params, C)) / np.log(10) == pytest.approx(a, abs=1e-10)


def test_data_constrained_equals_the_authors_code():
    # `scaling_law(N, D, U)` of the datablations README, with its published constants
    params = {"E": np.exp(0.6254804), "A": np.exp(6.255414), "B": np.exp(7.3049974)}
    params |= {"alpha": 0.3526596, "beta": 0.3526596, "R_D*": 15.387756, "R_N*": 5.309743}
    at = {"N": [6.34e9, 8.67e9], "D": [242e9, 178e9], "U": 25e9}
    expected = [2.2256440889984477, 2.2269634075087867]
    np.testing.assert_allclose(fitting.laws["data_constrained"](params, at), expected, rtol=1e-15)


def test_overtraining_equals_tied_chinchilla():
    tied = TRUTH["chinchilla_tied"]
    eta = tied["alpha"] / 2
    params = {"E": tied["E"], "a": tied["A"] * 6**eta, "b": tied["B"] * 6**eta, "eta": eta}
    N, M = np.array([1e8, 3e9]), np.array([20.0, 500.0])
    np.testing.assert_allclose(
        fitting.laws["overtraining"](params, {"N": N, "M": M}),
        fitting.laws["chinchilla_tied"](tied, {"N": N, "D": N * M}),
        rtol=1e-13,
    )


def test_registry():
    assert {k: " ".join(fitting.laws[k].inputs) for k in INPUTS} == INPUTS and set(INPUTS) - {"bnsl1_signed"} <= set(
        fitting.laws
    )
    assert len(fitting.laws["bnsl7"].params) == 3 + 3 * 7
    for name in fitting.laws:
        law = fitting.laws[name]
        assert law.name == name and law.equation
        assert law.reference or law.custom  # those that an example has registered
        assert set(law.bounds) == set(law.coordinates) == set(law.params)


@pytest.mark.parametrize("name", NAMES)
def test_every_law_documents_itself(name):
    law = fitting.laws[name]
    assert law.equation in law.__doc__ and law.reference in law.__doc__ and "20" in law.reference
    assert all(f"{k} in [" in law.__doc__ for k in law.params)


def test_breaks_are_numbered_by_where_they_are():
    inputs, y = noisy("bnsl2", 0.0)
    params = fitting.fit("bnsl2", inputs, y, fitting.LeastSquares(log=True)).params
    assert params["d1"] < params["d2"]
    for k, v in TRUTH["bnsl2"].items():
        assert params[k] == pytest.approx(v, rel=1e-6)


def test_a_custom_law_equals_the_built_in_one():
    inputs, y = noisy("chinchilla", 0.005)
    built_in = fitting.fit("chinchilla", inputs, y)
    own = fitting.law(
        lambda p, x: p["E"] + p["A"] * x["N"] ** -p["alpha"] + p["B"] * x["D"] ** -p["beta"],
        params={"E": (0, 10), "A": (0, 1e6), "B": (0, 1e6), "alpha": (0, 2), "beta": (0, 2)},
        inputs=("N", "D"),
        name="mine",
    )
    assert [own.coordinates[k].kind == "linear" for k in own.params] == [True, True, True, False, False]
    fit = fitting.fit(own, inputs, y)
    assert fit.converged and fit.objective_value == pytest.approx(built_in.objective_value, rel=1e-10)
    for k in own.params:
        assert fit.params[k] == pytest.approx(built_in.params[k], rel=1e-6)


def test_law_with_vectors_inside_runs_on_jax():
    law = fitting.law(
        lambda p, x: jnp.dot(jnp.stack([p["a"], p["b"]]), jnp.stack([1.0, jnp.exp(-p["k"] * x["x"])])),
        params={"a": (0, 10), "b": (0, 10), "k": (1e-3, 10)},
        inputs="x",
    )
    assert isinstance(law._value, _JaxProgram)
    x = np.linspace(0, 50, 30)
    fit = fitting.fit(law, x, 2 + 3 * np.exp(-0.1 * x), fitting.LeastSquares())
    assert fit.params == pytest.approx({"a": 2, "b": 3, "k": 0.1}, rel=1e-9)
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize(
    "function, expected",
    [
        (
            lambda x: jnp.where(x > 0.5, jnp.sin(x) ** 2, jnp.tanh(x)),
            lambda x: np.where(x > 0.5, np.sin(x) ** 2, np.tanh(x)),
        ),
        (lambda x: jnp.clip(jnp.sqrt(x) / 3, 0.1, 0.3), lambda x: np.clip(np.sqrt(x) / 3, 0.1, 0.3)),
        (lambda x: jax.nn.softplus(-x) + jnp.log1p(x**3), lambda x: np.log1p(np.exp(-x)) + np.log1p(x**3)),
        (lambda x: jax.scipy.special.erf(x) - 0.1, lambda x: np.vectorize(__import__("math").erf)(x) - 0.1),
    ],
)  # fmt: skip
def test_operations_replayed_in_numpy(function, expected):
    law = fitting.law(lambda p, x: p["a"] * function(x["x"]), params={"a": (0, 10)}, inputs="x")
    assert not isinstance(law._value, _JaxProgram)
    x = np.linspace(0.05, 2, 41)
    np.testing.assert_allclose(law({"a": 2.0}, {"x": x}), 2 * expected(x), rtol=1e-14)


def test_batches_of_a_law_that_jax_runs_share_compilations():
    traced = []

    def function(p, x):
        traced.append(x)
        return p["A"] * jnp.interp(x["x"], jnp.array([1.0, 9.0]), jnp.array([2.0, 4.0]))

    law = fitting.law(function, params={"A": (0, 9)}, inputs="x")
    law({"A": 3.0}, {"x": np.ones(3)})
    before = len(traced)
    for n in (0, 1, 37, 255, 256, 257, 400, 512):
        x = np.linspace(1, 9, n)
        np.testing.assert_allclose(law({"A": 3.0}, {"x": x}), 3 * (2 + (x - 1) / 4), rtol=1e-12)
    assert law({"A": np.ones((4, 1))}, {"x": np.ones(30)}).shape == (4, 30)
    assert len(traced) == before + 1  # 512 rows; up to 256 were compiled before
