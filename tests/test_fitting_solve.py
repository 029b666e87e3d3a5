"""The solver: the true optimum, whatever the law, units, objective or start; its certificate; its side effects."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fitting_truth import FORMULA, TRUTH, design, noisy
from scipy.optimize import least_squares, linprog, minimize

from scaling_jax import fitting
from scaling_jax.fitting.solver import _refine as refine
from scaling_jax.fitting.solver._levenberg_marquardt import _step, levenberg_marquardt
from scaling_jax.fitting.solver._newton import newton
from scaling_jax.fitting.solver._problem import Problem
from scaling_jax.fitting.solver._refine import relative_gradient
from scaling_jax.fitting.solver._starts import bounded_least_squares, choose, low_discrepancy

HUBER, LSQ, LAD = fitting.Huber(1e-3), fitting.LeastSquares(), fitting.LAD()


def value_at_truth(fit, name):
    truth = fit.law(TRUTH[name], fit.data)
    return fit.objective.value(fit.objective.transform(fit.y) - fit.objective.transform(truth))


@pytest.mark.parametrize("name", list(TRUTH))
def test_noise_free_data_recover_the_truth(name):
    fit = fitting.fit(name, *noisy(name, 0.0))
    assert fit.converged
    for k, v in TRUTH[name].items():
        assert fit.params[k] == pytest.approx(v, rel=1e-7, abs=1e-9), k


@pytest.mark.parametrize("objective", [HUBER, LSQ], ids=lambda o: o.name)
@pytest.mark.parametrize("name", list(TRUTH))
def test_noisy_optimum_is_stationary_and_below_the_truth(name, objective):
    fit = fitting.fit(name, *noisy(name, 0.005, seed=1), objective)
    assert fit.certificate.gradient <= 1e-8 and fit.converged
    assert fit.objective_value <= value_at_truth(fit, name)
    # Stationary by an independent measure: no small step along any coordinate goes down.
    z, best = fit.z, fit.objective_value
    problem = fit.problem
    steps = 1e-5 * np.maximum(np.abs(z), 0.1) * np.concatenate([np.eye(len(z)), -np.eye(len(z))])
    around = problem.value(np.clip(z + steps, problem.lower, problem.upper))
    assert np.all(around >= best * (1 - 1e-12))


@pytest.mark.parametrize("name", ["chinchilla", "overtraining", "power_shifted", "m4", "moe", "kaplan", "sigmoid"])
def test_lad_optimum_is_exact(name):
    fit = fitting.fit(name, *noisy(name, 0.005, seed=1), LAD)
    assert fit.converged and fit.certificate.gradient <= 1e-10
    assert fit.objective_value <= value_at_truth(fit, name)
    zeros = np.sum(np.abs(fit.residuals) < 1e-10)
    assert 1 <= zeros <= len(fit.params)  # fewer than p where curvature determines the others
    # No small step goes down to first order: the linear program of the linearized problem ends where it started.
    r, jacobian = (1e6 * a[0] for a in fit.problem.residuals_and_jacobian(fit.z[None]))  # HiGHS is exact to 1e-7
    reach = 1.0 / np.maximum(np.abs(jacobian).max(axis=1), 1e-300)
    ends = np.maximum(-reach, fit.problem.lower - fit.z), np.minimum(reach, fit.problem.upper - fit.z)
    identity = np.eye(r.size)
    bounds = [*zip(*ends), *[(0, None)] * (2 * r.size)]
    costs = np.r_[np.zeros(len(fit.z)), np.ones(2 * r.size)]
    found = linprog(costs, A_eq=np.hstack([jacobian.T, identity, -identity]), b_eq=r, bounds=bounds)
    assert found.fun >= 1e6 * fit.objective_value * (1 - 1e-9)


def test_lad_of_a_law_linear_in_logs_is_the_linear_program():
    inputs, y = noisy("lr_optimum", 0.05, seed=3)
    fit = fitting.fit("lr_optimum", inputs, y, LAD)
    X = np.stack([np.ones_like(y), np.log(inputs["N"]), np.log(inputs["D"])], axis=1)
    n = len(y)
    solved = linprog(
        np.r_[np.zeros(3), np.ones(2 * n)], A_eq=np.hstack([X, np.eye(n), -np.eye(n)]), b_eq=np.log(y),
        bounds=[(None, None)] * 3 + [(0, None)] * (2 * n),
    )  # fmt: skip
    assert fit.objective_value == pytest.approx(solved.fun, rel=1e-9)
    assert np.log(fit.params["A"]) == pytest.approx(solved.x[0], rel=1e-7)
    assert fit.params["alpha"] == pytest.approx(solved.x[1], rel=1e-7)


@pytest.mark.parametrize("name", ["chinchilla", "power_offset", "exponential"])
def test_least_squares_equals_scipys_best_of_many_starts(name):
    inputs, y = noisy(name, 0.02, seed=5)
    fit = fitting.fit(name, inputs, y, fitting.LeastSquares())
    names, columns = list(TRUTH[name]), list(inputs.values())
    rng, best = np.random.default_rng(0), np.inf

    def residuals(t):
        with np.errstate(all="ignore"):
            return np.nan_to_num(FORMULA[name](dict(zip(names, t)), *columns) - y, nan=1e3, posinf=1e3, neginf=-1e3)

    for _ in range(12):
        start = np.array([TRUTH[name][k] for k in names]) * rng.uniform(0.7, 1.4, len(names))
        found = least_squares(residuals, start, x_scale=np.abs(start), xtol=1e-14, ftol=1e-14, gtol=1e-14)
        best = min(best, 2 * found.cost)
    assert fit.objective_value <= best * (1 + 1e-9)
    assert fit.objective_value == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("name", TRUTH)
def test_units_of_inputs_and_metric_make_no_difference(name):
    inputs, y = noisy(name, 0.004, seed=2)
    reference = fitting.fit(name, inputs, y)
    free = ("alpha", "beta", "gamma", "zeta", "eta", "alpha_N", "alpha_D", "R_D*", "R_N*", "c0", "c1", "c2", "f1", "f2")
    free_of_units = [k for k in free if k in reference.params and not (name == "exponential" and k == "gamma")]
    for factor, unit in ((1e-6, 1e10), (1e6, 1e-7)):
        # farseer's exponent of D depends on N, so a unit of D changes the law itself
        scaled = {k: v * factor if not (name == "farseer" and k == "D") else v for k, v in inputs.items()}
        unit = 1.0 if name.startswith("downstream") else unit  # an accuracy is a share of one
        fit = fitting.fit(name, scaled, y * unit)
        assert fit.objective_value == pytest.approx(reference.objective_value, rel=1e-9)
        np.testing.assert_allclose(fit.predict(scaled) / unit, reference.predict(inputs), rtol=1e-9)
        for k in free_of_units:
            assert fit.params[k] == pytest.approx(reference.params[k], rel=1e-9)


def test_natural_units():
    inputs, y = noisy("chinchilla", 0.004)
    in_units = fitting.fit("chinchilla", inputs, y).params
    in_millions = fitting.fit("chinchilla", {"N": inputs["N"] / 1e6, "D": inputs["D"] / 1e6}, y).params
    assert in_millions["A"] == pytest.approx(in_units["A"] * 1e-6 ** in_units["alpha"], rel=1e-9)


def test_increasing_metrics():
    x = np.geomspace(1e6, 1e10, 25)
    seconds = fitting.fit("power", x, 3e-5 * x**0.8)
    assert seconds.params["alpha"] == pytest.approx(-0.8)
    floor = fitting.fit("power_offset", x, 0.2 + 3e-6 * x**0.7)
    assert floor.params == pytest.approx({"E": 0.2, "A": 3e-6, "alpha": -0.7}, rel=1e-7)
    accuracy = fitting.fit("saturating", x, 0.8 - 30 * x**-0.3, fitting.LeastSquares())
    assert accuracy.params == pytest.approx({"E": 0.8, "A": 30, "alpha": 0.3}, rel=1e-7)
    falling_error = fitting.fit(
        "sigmoid", np.linspace(2, 3, 30), 0.1 + 0.5 / (1 + np.exp(-6 * (np.linspace(2, 3, 30) - 2.4)))
    )
    assert falling_error.params["k"] == pytest.approx(-6, rel=1e-6)


def test_a_metric_of_both_signs_has_a_floor_below_zero(tmp_path):
    inputs, y = noisy("chinchilla", 0.0)
    reward = y - 3.0 + 0.003 * np.random.default_rng(0).standard_normal(len(y))
    fit = fitting.fit("chinchilla", inputs, reward, LSQ)
    shifted = fitting.fit("chinchilla", inputs, reward + 3.0, LSQ)
    assert reward.min() < 0 < reward.max() and fit.converged
    assert fit.params == pytest.approx(shifted.params | {"E": shifted.params["E"] - 3.0}, rel=1e-6)
    low, high = fit.interval(0.95)["E"]
    assert low < fit.params["E"] < high < 0
    fit.to_json(tmp_path / "fit.json")
    again = fitting.load(tmp_path / "fit.json")
    assert again.interval(0.95) == fit.interval(0.95) and fitting.laws["chinchilla"].bounds["E"][0] == 0


def test_m4_fits_rising_and_falling_metrics():
    x = np.geomspace(1e6, 1e10, 40)
    falling = fitting.laws["m4"](TRUTH["m4"] | {"E": 0.2, "E0": 0.9}, {"x": x})
    rising = fitting.fit("m4", x, 1 - falling, fitting.LeastSquares())
    assert rising.params["E"] == pytest.approx(0.8, rel=1e-6) and rising.params["E0"] == pytest.approx(0.1, rel=1e-5)
    assert {k: rising.params[k] for k in "Ac"} == pytest.approx({k: TRUTH["m4"][k] for k in "Ac"}, rel=1e-4)


def test_the_logarithmic_limit_of_a_vanishing_exponent_converges():
    # Accuracy often grows as ln C over all the data: E and A then run to infinity together.
    x, rng = np.geomspace(1e18, 1e24, 30), np.random.default_rng(0)
    y = (0.04 * np.log(x) - 1.5) * np.exp(0.01 * rng.standard_normal(30))
    for objective in (fitting.Huber(1e-3), LSQ, fitting.LAD(log=False)):
        fit = fitting.fit("saturating", x, y, objective)
        assert fit.converged and fit.certificate.agree >= 18 and fit.at_bounds == {"alpha": "lower"}
    slope, level = np.polyfit(np.log(x), y, 1)
    fit = fitting.fit("saturating", x, y, LSQ)
    np.testing.assert_allclose(fit.predict(x), slope * np.log(x) + level, rtol=2e-3)
    line = 2.0 - 0.4 * (loss := np.linspace(2, 3, 30)) + 0.01 * rng.standard_normal(30)
    assert fitting.fit("exponential", loss, line, LSQ).converged


@pytest.mark.slow
def test_a_law_of_many_optima_is_searched_until_restarts_agree():
    inputs, y = noisy("bnsl2", 0.03, 1)
    fits = [fitting.fit("bnsl2", inputs, y, LSQ, seed=s) for s in range(3)]
    values = [fit.objective_value for fit in fits]
    assert max(values) <= min(values) * (1 + 1e-9)
    assert all(fit.converged and fit.certificate.moved_agree > 1 for fit in fits)
    assert min(values) <= fitting.fit("bnsl2", inputs, y, LSQ, starts=[TRUTH["bnsl2"]]).objective_value * (1 + 1e-9)
    assert "restarts)" in str(fits[0].certificate)


def test_a_break_sharper_than_the_data_resolve_keeps_the_certificate():
    x = np.geomspace(1e7, 1e11, 60)
    y = fitting.laws["bnsl2"](TRUTH["bnsl2"], {"x": x}) * np.exp(0.05 * np.random.default_rng(100).standard_t(3, 60))
    fit = fitting.fit("bnsl2", x, y, fitting.LeastSquares(log=True))
    assert fit.converged and any("not identified" in w for w in fit.warnings)


def test_fixed_parameters_are_kept_and_the_others_are_optimal():
    inputs, y = noisy("chinchilla", 0.01)
    whole = fitting.fit("chinchilla", inputs, y, LSQ)
    for held in ({"alpha": 0.3}, {"A": 300.0}, {"E": 1.6, "B": 500.0}, {"E": 0.0}):
        fit = fitting.fit("chinchilla", inputs, y, LSQ, fixed=held)
        assert all(fit.params[k] == v for k, v in held.items())
        assert fit.converged and fit.objective_value >= whole.objective_value
    same = fitting.fit("chinchilla", inputs, y, LSQ, fixed={"A": whole.params["A"]})
    assert same.params == pytest.approx(whole.params, rel=1e-6)


def test_two_optima_are_distinguished():
    law = fitting.law(lambda p, x: jnp.sin(p["w"] * x["x"]), params={"w": (0.1, 6)}, inputs="x")
    x = np.linspace(0, 6, 40)
    fit = fitting.fit(law, x, np.sin(2.3 * x) + 0.05 * np.cos(9 * x), LSQ)
    assert fit.params["w"] == pytest.approx(2.3, abs=0.02)
    assert 1 <= fit.certificate.agree < fit.certificate.starts
    assert fit.certificate.next_best > 10 * fit.objective_value


def test_a_narrow_minimum_is_found():
    # Half the points follow one slope exactly, the others another: under LAD each is an optimum.
    x = np.geomspace(1, 1e4, 30)
    y = np.where(np.arange(30) % 2 == 0, x**-0.2, x**-0.6)
    fit = fitting.fit("power", x, y, fitting.Huber(1e-4), fixed={"A": 1.0})
    grid = np.linspace(0.1, 0.7, 6001)
    costs = [fitting.Huber(1e-4).value(np.log(y) + a * np.log(x)) for a in grid]
    assert fit.objective_value <= min(costs)


@pytest.mark.parametrize("bad_run", [None, 3])
def test_a_step_narrower_than_the_spacing_of_the_data_is_found(bad_run):
    loss = np.array([2.316, 2.335, 2.518, 2.617, 2.824, 2.846, 3.550, 3.615])
    accuracy = np.array([0.634, 0.568, 0.613, 0.473, 0.505, 0.409, 0.256, 0.345])
    if bad_run is None:
        accuracy = accuracy + 2  # where it is an optimum that four starts in five miss
    step = {"floor": accuracy[5:].mean(), "gain": 0.3, "k": 60.0, "L0": 2.835}
    if bad_run is not None:
        step["gain"], accuracy[bad_run] = 0.2, 0.9
    fit, stepped = (fitting.fit("sigmoid", loss, accuracy, starts=starts) for starts in (None, [step]))
    assert fit.converged and fit.objective_value <= stepped.objective_value * (1 + 1e-9)


def test_an_optimum_that_starts_agree_on_is_perturbed():
    rng = np.random.default_rng(29)
    rows = rng.choice(300, 20, replace=False)
    inputs = {k: v[rows] for k, v in design("shape", 29).items()}
    y = np.array([FORMULA["shape"](TRUTH["shape"], *row) for row in zip(*inputs.values())])
    y *= np.exp(0.01 * rng.standard_normal(20))
    y[np.argmin(inputs["width"])] *= 1.3  # one bad run, which a steep term in the width can take in
    plain, probed = fitting.fit("shape", inputs, y, starts=24), fitting.fit("shape", inputs, y)
    assert plain.certificate.agree >= 18  # nearly all starts agree, on an optimum that is not the best
    assert probed.converged and probed.objective_value < 0.98 * plain.objective_value


def test_bounds_are_respected_and_reported():
    x = np.geomspace(1, 1e3, 30)
    fit = fitting.fit("power_offset", x, 5 * x**-0.3)
    assert fit.params["E"] == pytest.approx(0.0, abs=1e-9)
    fit = fitting.fit("power_offset", x, 5 * x**-0.3 - 0.1, LSQ)
    assert fit.at_bounds == {"E": "lower"} and fit.params["E"] == 0.0 and fit.converged
    assert any("E" in w and "bound" in w for w in fit.warnings)


def test_starts_can_be_given():
    inputs, y = noisy("chinchilla", 0.01)
    reference = fitting.fit("chinchilla", inputs, y)
    start = {"E": 1.0, "A": 100.0, "B": 1000.0, "alpha": 0.5, "beta": 0.4}
    one = fitting.fit("chinchilla", inputs, y, starts=[start])
    assert one.certificate.starts == 1 and one.params == pytest.approx(reference.params, rel=1e-6)
    assert fitting.fit("chinchilla", inputs, y, starts=200).certificate.starts == 200
    far = fitting.fit("chinchilla", inputs, y, starts=[{**start, "E": 1e300}])  # E is all of the law: only E moves
    assert far.converged and far.params == pytest.approx(reference.params, rel=1e-6)


def test_a_start_at_the_optimum_returns_it():
    law = fitting.law(lambda p, x: jnp.sin(p["w"] * x["x"]), params={"w": (0.1, 6)}, inputs="x")
    x = np.linspace(0, 6, 40)
    dent = fitting.fit(law, x, np.sin(2.3 * x), LSQ, starts=[{"w": 4.0}])
    assert dent.converged and dent.objective_value > 1.0  # a local optimum
    assert fitting.fit(law, x, np.sin(2.3 * x), LSQ, starts=[dent.params]).params == pytest.approx(dent.params)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_absurd_units_are_fitted_or_refused(unit):
    inputs, y = noisy("chinchilla", 0.01)
    usual, absurd = fitting.fit("chinchilla", inputs, y), fitting.fit("chinchilla", inputs, y * unit)
    assert absurd.params["alpha"] == pytest.approx(usual.params["alpha"], rel=1e-9)
    with pytest.raises(fitting.DataError, match="too large|a larger unit"):
        fitting.fit("chinchilla", inputs, y * unit, LSQ)


def test_same_seed_same_bits_and_other_seed_same_optimum():
    inputs, y = noisy("bnsl1", 0.003)
    one, two, other = (fitting.fit("bnsl1", inputs, y, seed=s) for s in (0, 0, 1))
    assert one.params == two.params and one.certificate == two.certificate
    assert other.objective_value == pytest.approx(one.objective_value, rel=1e-9)


def test_failure_to_converge_warns(monkeypatch):
    inputs, y = noisy("chinchilla", 0.01)
    monkeypatch.setattr(refine, "newton", lambda problem, z: z * 1.01)
    with pytest.warns(fitting.FitWarning, match="NOT CONVERGE"):
        fit = fitting.fit("chinchilla", inputs, y)
    assert not fit.converged and "NOT CONVERGED" in str(fit)
    assert any("NOT CONVERGED" in w for w in fit.warnings)


def test_a_steep_term_at_the_end_of_its_input_converges():
    x = 3.41891246 * 2.33345075 ** np.arange(8)  # around their mean, A and alpha of the first two points are one
    y = np.array([5.19373078, 6.95468761, 5.46834091, 5.55816891, 5.64841707, 5.70439891, 5.75258733, 5.79726628])
    fit = fitting.fit("saturating", x, y, fitting.LeastSquares(log=True))
    assert fit.converged and fit.params["alpha"] > 10


def test_optima_at_a_bound_are_tried():
    law = fitting.law(
        lambda p, x: p["b"] * (1 / x["x"] + p["g"]) ** p["c"],
        params={"b": (0, np.inf), "g": (0, np.inf), "c": (0, 20)},
        inputs=("x",),
    )
    x = np.geomspace(1e3, 1e5, 25)  # the limit of c at infinity is the truth
    y = 0.5 * np.exp(2e3 / x) * np.exp(0.01 * np.random.default_rng(0).standard_normal(25))
    near, free = fitting.fit(law, x, y, fixed={"c": 19.5}), fitting.fit(law, x, y)
    found = list(refine._at_ends(free.problem, free.problem.unconstrained(near.params), 2000))
    value, z, gradient = min(found, key=lambda end: end[0])
    assert gradient <= 1e-8 and value == pytest.approx(free.objective_value, rel=1e-9) and value < near.objective_value
    assert free.problem.constrained(z)["c"] == pytest.approx(20.0)


def test_many_rows_are_searched_on_a_sample_and_finished_on_all():
    rng = np.random.default_rng(0)
    N, D = 10 ** rng.uniform(7, 10, 20_000), 10 ** rng.uniform(9, 12, 20_000)
    y = FORMULA["chinchilla"](TRUTH["chinchilla"], N, D) * np.exp(0.01 * rng.standard_normal(20_000))
    fit = fitting.fit("chinchilla", {"N": N, "D": D}, y, fitting.LeastSquares(log=True))
    assert fit.converged and fit.certificate.rows == 4096 and fit.n == 20_000
    for k, error in fit.stderr.items():
        truth = TRUTH["chinchilla"].get(k, 0.28 / 0.62 if k == "a" else 0.34 / 0.62)
        value = fit.params.get(k, fit.exponents.get(k))
        assert abs(value - truth) < 4.5 * error


def test_an_element_whose_derivatives_overflow_does_not_stop_the_others():
    inputs, y = noisy("farseer", 0.01)
    problem = Problem.of(fitting.laws["farseer"], inputs, y, np.ones(len(y)), HUBER)
    z = np.repeat(problem.unconstrained(TRUTH["farseer"])[None], 2, axis=0)
    score, matrix = np.ones((2, 9)), np.stack([np.eye(9)] * 2)
    matrix[1, :6] = matrix[1, :, :6] = np.nan
    matrix[1, 6:, 3:6] = matrix[1, 3:6, 6:] = matrix[1, 8] = matrix[1, :, 8] = 0.0  # LAPACK calls this singular
    step, decrease = _step(problem, z, score, matrix, np.full(2, 1e-3))
    assert np.isfinite(step[0]).all() and decrease[0] > 0
    assert not decrease[1] > 0


@pytest.mark.parametrize("seed", range(4))
def test_descents_follow_a_curved_valley_to_its_end(seed):
    # m4 on a power law with an offset: the valley ends at a bound, or where its other limit is infinite.
    x = np.geomspace(1e3, 1e7, 24)
    y = (2.5 + 4 / x**0.11) * np.exp(0.02 * np.random.default_rng(seed).standard_normal(24))
    fit = fitting.fit("m4", x, y, fitting.LeastSquares(log=True))
    ends = levenberg_marquardt(fit.problem, choose(fit.problem, 64, 5), max_steps=200, tolerance=1e-10, widen=0.02)
    assert fit.converged and fit.certificate.agree >= 20 and fit.certificate.starts == 24
    assert np.mean(ends.value <= fit.objective_value * (1 + 1e-6)) > 0.9
    assert ends.converged.all() and max(relative_gradient(fit.problem, z) for z in ends.z) < 1e-4


def test_batch_elements_are_independent():
    inputs, y = noisy("chinchilla", 0.01)
    problem = Problem.of(fitting.laws["chinchilla"], inputs, y, np.ones(len(y)), HUBER)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=300).astype(float)
    start = problem.unconstrained(TRUTH["chinchilla"])
    together = levenberg_marquardt(problem, np.repeat(start[None], 300, axis=0), weights)
    for i in (0, 137, 299):
        alone = levenberg_marquardt(problem, start[None], weights[i : i + 1])
        assert together.value[i] == pytest.approx(alone.value[0], rel=1e-9)


@pytest.mark.parametrize("objective", [HUBER, LSQ, fitting.Huber(1e-3, overestimate_penalty=2)])
def test_rows_of_equal_inputs_are_evaluated_once_and_count_each(objective):
    """The descent of a ladder with seeds, each resample with its own weights, beside the one that sees every row."""
    inputs, y = noisy("chinchilla", 0.01)
    problem = Problem.of(fitting.laws["chinchilla"], inputs, y, np.ones(len(y)), objective)
    z, rows = problem.unconstrained(TRUTH["chinchilla"]), np.random.default_rng(0).permutation(np.arange(240) % 40)
    repeated = problem.rows(rows)
    repeated = repeated.with_data(y=repeated.y * np.exp(np.random.default_rng(1).normal(0, 0.01, 240)))
    weights = np.random.default_rng(2).integers(0, 3, (5, 240)).astype(float)
    placed = repeated.with_data(weights=weights).by_place()
    assert len(placed.starts) == len(np.unique(rows)) and problem.by_place().starts is None
    starts = np.repeat(z[None], 5, axis=0) + 0.1
    ends = levenberg_marquardt(repeated, starts, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "by_place", lambda self: self)
        plain = levenberg_marquardt(repeated, starts, weights)
    assert ends.converged.all() and ends.value == pytest.approx(plain.value, rel=1e-9)
    assert ends.z == pytest.approx(plain.z, abs=1e-5)


def test_bounded_least_squares_equals_scipy():
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(0)
    for lower in ([0, 0, 0], [0, -np.inf, 0], [-np.inf] * 3, [0.2, 0, -1]):
        A, b = rng.standard_normal((20, 40, 3)), rng.standard_normal((20, 40))
        gram, moment = A.transpose(0, 2, 1) @ A, np.einsum("bnk,bn->bk", A, b)
        ours = bounded_least_squares(gram, moment, np.array(lower, float), np.full(3, np.inf))
        for i in range(20):
            np.testing.assert_allclose(ours[i], lsq_linear(A[i], b[i], (lower, np.inf), tol=1e-14).x, atol=1e-7)


def test_starts_fill_the_cube():
    points = low_discrepancy(512, 3, seed=0)
    counts, _ = np.histogramdd(points, bins=4, range=[(0, 1)] * 3)
    assert counts.min() >= 4 and counts.max() <= 12  # 8 on average in each of 64 cells


def test_the_callers_jax_configuration_is_unchanged():
    before = (jax.config.jax_enable_x64, jax.config.jax_platforms, jax.config.jax_default_device)
    fitting.fit("chinchilla", *noisy("chinchilla", 0.01)).bootstrap(20)
    assert (jax.config.jax_enable_x64, jax.config.jax_platforms, jax.config.jax_default_device) == before
    assert jnp.ones(1).dtype == jnp.float32
    with jax.enable_x64(True):
        double = fitting.fit("chinchilla", *noisy("chinchilla", 0.01)).params
    assert double == fitting.fit("chinchilla", *noisy("chinchilla", 0.01)).params


HELD = """
    import sys
    import jax
    from jax._src import xla_bridge

    def held():
        raise RuntimeError("the accelerator belongs to another process")

    xla_bridge.register_backend_factory("held", held, priority=500, fail_quietly=False)
    import jax.numpy as jnp
    import numpy as np
    from scaling_jax import fitting

    N, D = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e11, 6)))
    y = (1.7 + 400 / N**0.34 + 410 / D**0.28) * np.exp(0.01 * np.random.default_rng(0).standard_normal(36))
    fit = fitting.fit("chinchilla", {"N": N, "D": D}, y)
    fit.bootstrap(50)
    fit.frontier(1e22, cost=lambda n, d: 6 * n * d, level=0.9)
    fit.profile("E")
    str(fit)
    own = fitting.law(lambda p, x: p["a"] * jnp.exp(-p["k"] * x["N"] / 1e9) + p["b"],
                      params={"a": (0, 10), "k": (0, 10), "b": (0, 10)}, inputs="N")
    fitting.fit(own, N, y, fitting.LAD())
    # NumPy cannot replay a vector inside a law: JAX runs it, on a CPU client of its own.
    basis = fitting.law(lambda p, x: p["a"] + jnp.sum(p["b"] / (x["N"] / 1e7) ** (jnp.arange(3) / 3)),
                        params={"a": (0, 10), "b": (0, 10)}, inputs="N")
    assert type(basis._value).__name__ == "_JaxProgram"
    fitting.fit(basis, N, y).bootstrap(20)
    assert not xla_bridge._backends, xla_bridge._backends
    heavy = {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib", "pandas"} & set(sys.modules)
    assert not heavy, heavy
    print("fine")
"""


def test_an_accelerator_that_another_process_holds_is_never_touched():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(HELD)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "fine", done.stderr


@pytest.mark.parametrize("size", [1e-12, 1e-10, 1e-9, 6e-9, 1e-7, 1e-5])
def test_misfits_of_any_size_end_converged(size):
    """Where residuals are little more than rounding, values cannot tell a better point: gradients do."""
    N, D = (v.ravel() for v in np.meshgrid(np.logspace(7, 9, 6), np.logspace(9, 11, 6)))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        y = (1.2 + 12 / N**0.32 + 95 / D**0.34) * np.exp(size * rng.normal(size=N.size))
        fit = fitting.fit("chinchilla", {"N": N, "D": D}, y)
        assert fit.converged
        for away in 10.0 ** rng.uniform(-14, -10, size=10):
            near = fit.problem.unconstrained(fit.params) + away * rng.normal(size=5)
            assert refine.relative_gradient(fit.problem, newton(fit.problem, near)) < 1e-9


def test_the_lowest_point_of_a_flat_between_thresholds_is_found():
    """No residual is within Huber's threshold where descents end: the cost is linear there, without curvature."""
    x = np.array([float(f"{v:.6g}") for v in np.geomspace(1e18, 1e22, 12)])
    fit = fitting.fit("power", {"x": x}, np.round(1.7 + 40 * x**-0.1, 6))
    assert fit.converged
    within = np.sort(np.abs(fit.problem.residuals(fit.z[None])[0]))[:2]
    assert within == pytest.approx([1e-3, 1e-3], rel=1e-3) and within.max() <= 1e-3  # two parameters, two residuals

    def cost(z):
        size = np.abs(np.log(fit.y) - z[0] + z[1] * np.log(x / 1e20))
        return np.sum(np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)))

    start = [np.log(fit.predict({"x": 1e20})), 0.019]
    best = minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-13, "fatol": 1e-19, "maxiter": 9999})
    assert fit.objective_value <= best.fun * (1 + 1e-9)
