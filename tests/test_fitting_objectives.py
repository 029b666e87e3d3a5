"""Objectives: their costs, asymmetry and weights."""

import numpy as np
import pandas as pd
import pytest
from fitting_truth import noisy
from scipy.special import huber

from scaling_jax import fitting
from scaling_jax.fitting.objectives import objective_from_dict

R = np.linspace(-0.02, 0.02, 81)


def test_huber_equals_scipy():
    np.testing.assert_allclose(fitting.Huber(1e-3).cost(R), huber(1e-3, R), rtol=1e-13)


def test_lad_and_least_squares():
    np.testing.assert_array_equal(fitting.LAD().cost(R), np.abs(R))
    np.testing.assert_array_equal(fitting.LeastSquares().cost(R), R**2)


def test_value_of_pandas_columns():
    column, weights = pd.Series(R, index=np.arange(81) * 3), pd.Series(np.arange(81.0))
    for objective in (fitting.Huber(1e-3), fitting.LAD(), fitting.LeastSquares()):
        assert objective.value(column, weights) == objective.value(R, weights.to_numpy())
        assert objective.value(column) == objective.value(R) == objective.value(list(R))


def test_printed_objectives_name_their_space():
    assert fitting.Huber().log and fitting.LAD().log and not fitting.LeastSquares().log
    assert str(fitting.Huber(1e-3)) == "Huber(delta=0.001) on ln y, SUM over points"
    assert "ln(y + 1)" in str(fitting.LeastSquares(log=True, shift=1.0))


def test_value_is_the_weighted_sum_of_the_residuals_costs():
    inputs, y = noisy("chinchilla", 0.01)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    for objective in (fitting.Huber(2e-3), fitting.LAD(), fitting.LeastSquares(), fitting.LeastSquares(log=True)):
        fit = fitting.fit("chinchilla", inputs, y, objective, weights=weights)
        f = fit.predict(inputs)
        r = np.log(y) - np.log(f) if objective.log else y - f
        np.testing.assert_allclose(fit.residuals, r, atol=1e-14)
        assert fit.objective_value == pytest.approx(np.sum(weights * objective.cost(r)), rel=1e-12)


def test_weight_two_is_the_row_twice():
    inputs, y = noisy("chinchilla", 0.01)
    weights = np.where(np.arange(len(y)) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(len(y)), weights.astype(int))
    for objective in (fitting.Huber(1e-3), fitting.LeastSquares(log=True)):
        weighted = fitting.fit("chinchilla", inputs, y, objective, weights=weights)
        repeated = fitting.fit("chinchilla", {k: v[twice] for k, v in inputs.items()}, y[twice], objective)
        assert weighted.params == pytest.approx(repeated.params, rel=1e-7)
        assert repeated.duplicates == len(twice) - len(y)


def test_weight_zero_leaves_a_row_out():
    inputs, y = noisy("chinchilla", 0.01)
    keep = np.arange(len(y)) != 7
    without = fitting.fit("chinchilla", {k: v[keep] for k, v in inputs.items()}, y[keep])
    zero = fitting.fit("chinchilla", inputs, np.where(keep, y, 99.0), weights=keep.astype(float))
    assert zero.params == pytest.approx(without.params, rel=1e-7)


def test_overestimates_are_penalized_as_in_olmo():
    # One rung in three is under-tuned: its loss is above its optimum, never below.
    inputs, y = noisy("power_offset", 0.002)
    y = np.where(np.arange(len(y)) % 3 == 0, y * 1.05, y)
    errors = {}
    for penalty in (0.1, 1.0, 10.0):
        fit = fitting.fit("power_offset", inputs, y, fitting.Huber(1e-2, overestimate_penalty=penalty))
        r = np.log(y) - np.log(fit.predict(inputs))  # negative where the law predicts too much
        assert fit.objective_value == pytest.approx(np.sum(huber(1e-2, r) * np.where(r < 0, penalty, 1.0)), rel=1e-12)
        assert fit.converged
        errors[penalty] = abs(fit.predict(1e13) / fitting.laws["power_offset"](
            {"E": 1.7, "A": 400.0, "alpha": 0.34}, {"x": 1e13}) - 1)  # fmt: skip
    assert errors[10.0] < 0.5 * errors[1.0] < 0.5 * errors[0.1]


def test_asymmetric_lad_is_a_quantile():
    # With a constant law, LAD with penalty w minimizes at the quantile 1 / (1 + w): the larger, the lower the law.
    y = np.random.default_rng(0).lognormal(size=101)
    law = fitting.law(lambda p, x: p["m"] + 0 * x["x"], params={"m": (0, 100)}, inputs="x")
    for penalty, q in ((1.0, 0.5), (3.0, 0.25), (0.25, 0.8)):
        fit = fitting.fit(law, np.arange(101.0), y, fitting.LAD(log=False, overestimate_penalty=penalty))
        assert fit.params["m"] == pytest.approx(np.quantile(y, q, method="inverted_cdf"), rel=1e-12)


def test_shift():
    inputs, y = noisy("power_offset", 0.01)
    fit = fitting.fit("power_offset", inputs, y, fitting.LeastSquares(log=True, shift=1.0))
    assert fit.objective_value == pytest.approx(np.sum((np.log1p(y) - np.log1p(fit.predict(inputs))) ** 2), rel=1e-12)


@pytest.mark.parametrize(
    "objective",
    [fitting.Huber(2e-3, overestimate_penalty=2), fitting.LAD(log=False), fitting.LeastSquares(log=True, shift=1.0)],
)
def test_objective_survives_a_dictionary(objective):
    assert objective_from_dict(objective.to_dict()) == objective
