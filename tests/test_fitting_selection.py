"""Ranking laws by extrapolation from nested cuts of the training data."""

import pathlib

import numpy as np
import pandas as pd
import pytest

from scaling_jax import fitting

FITDATA = pathlib.Path(__file__).parents[2] / "shared" / "fitdata"


def curve(noise=1e-3, seed=0):
    x = np.geomspace(1e6, 1e10, 40)
    return {"x": x}, (1.7 + 400 * x**-0.34) * np.exp(np.random.default_rng(seed).normal(0, noise, 40))


def test_the_law_that_made_the_data_wins():
    data, y = curve()
    found = fitting.select(["power", "power_offset", "power_shifted"], data, y)
    assert found.candidates[0].name in ("power_offset", "power_shifted")
    assert found.candidates[-1].name == "power"
    assert found["power"].score > 10 * found["power_offset"].score
    assert found["power"].aicc > found["power_offset"].aicc + 10
    bent = fitting.select(["power", "power_offset"], data, 3 * data["x"] ** -0.2)
    assert bent["power"].score < 1e-9


def test_scores_equal_a_loop_over_the_cuts():
    data, y = curve()
    found = fitting.select(["power_offset"], data, y, fractions=(0.5, 0.75))
    assert found.cuts == (data["x"][20], data["x"][30])
    errors = []
    for cut in found.cuts:
        below = data["x"] < cut
        fit = fitting.fit("power_offset", {"x": data["x"][below]}, y[below])
        errors.append(np.sqrt(np.mean((np.log(fit.predict({"x": data["x"][~below]})) - np.log(y[~below])) ** 2)))
    np.testing.assert_allclose(found["power_offset"].by_cut, errors, rtol=1e-6)
    assert found["power_offset"].score == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-6)


def test_test_points_never_change_the_ranking():
    data, y = curve()
    cut = data["x"][30]
    honest = fitting.select(["power", "power_offset"], data, y, cut=cut)
    spoiled = y.copy()
    spoiled[30:] = 3 * data["x"][30:] ** -0.2 * 50  # the test points now favour the other law
    other = fitting.select(["power", "power_offset"], data, spoiled, cut=cut)
    assert [c.name for c in honest.candidates] == [c.name for c in other.candidates]
    assert [c.score for c in honest.candidates] == [c.score for c in other.candidates]
    assert [c.aicc for c in honest.candidates] == [c.aicc for c in other.candidates]
    assert honest["power_offset"].test < 0.01 < other["power_offset"].test
    np.testing.assert_array_equal(honest.best.y, y[:30])
    assert "test RMSLE" in str(honest)


def test_aicc_equals_the_textbook():
    data, y = curve()
    squares = fitting.fit("power_offset", data, y, fitting.LeastSquares(log=True))
    n, k = 40, 4
    expected = n * np.log(2 * np.pi * np.mean(squares.residuals**2)) + n + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert fitting.aicc(squares) == pytest.approx(expected, rel=1e-12)
    absolute = fitting.fit("power_offset", data, y, fitting.LAD())
    laplace = 2 * n * np.log(2 * np.mean(np.abs(absolute.residuals))) + 2 * n + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert fitting.aicc(absolute) == pytest.approx(laplace, rel=1e-12)
    held = fitting.fit("power_offset", data, y, fitting.LeastSquares(log=True), fixed={"alpha": 0.34})
    assert fitting.aicc(held) < fitting.aicc(squares) + 1  # one parameter less, hardly a worse fit


def test_laws_of_other_inputs_are_ranked_together():
    rng = np.random.default_rng(0)
    N = np.exp(rng.uniform(np.log(1e7), np.log(3e9), 60))
    D = 20 * N * np.exp(rng.normal(0, 1.5, 60))
    loss = (1.69 + 406 / N**0.34 + 410 / D**0.28) * np.exp(rng.normal(0, 1e-3, 60))
    found = fitting.select(["power_offset", "chinchilla"], {"N": N, "D": D, "x": 6 * N * D}, loss, C=6 * N * D)
    assert found.candidates[0].name == "chinchilla"


def test_a_law_that_cannot_be_fitted_is_named_not_hidden():
    data, y = curve()
    short = {"x": data["x"][::4]}
    found = fitting.select(["power", "bnsl2"], short, y[::4])
    assert [c.name for c in found.candidates] == ["power"]
    assert "bnsl2" in found.impossible and "bnsl2" in str(found)
    with pytest.raises(KeyError, match="was not ranked; these were: power"):
        found["bnsl2"]


def test_bad_input_gives_a_way_out():
    data, y = curve()
    with pytest.raises(ValueError, match="laws is empty"):
        fitting.select([], data, y)
    with pytest.raises(ValueError, match="leaves no training points"):
        fitting.select(["power"], data, y, cut=1.0)
    with pytest.raises(ValueError, match="C has .* values but y has .* one length"):
        fitting.select(["power"], data, y, C=data["x"][1:])
    with pytest.raises(ValueError, match="nothing to extrapolate"):
        fitting.select(["power"], data, y, C=np.ones(40))


def test_epoch_selection_prefers_a_law_with_a_floor():
    path = FITDATA / "chinchilla_epoch.csv"
    if not path.exists():
        pytest.skip("the published data chinchilla_epoch.csv are not beside this checkout")
    table = pd.read_csv(path).query("excluded == 0")
    found = fitting.select(
        ["kaplan", "chinchilla", "chinchilla_tied"], {"N": table.params, "D": table.tokens}, table.loss,
        C=table.flops, cut=1e21,
    )  # fmt: skip
    assert found.candidates[-1].name == "kaplan"
    assert found["chinchilla"].test == pytest.approx(0.012492, abs=5e-6)


def test_weights_and_clusters_are_cut_with_the_rows():
    data, y = curve()
    table = pd.DataFrame({**data, "y": y, "w": np.linspace(1, 2, 40), "trunk": np.arange(40) // 2})
    ranked = fitting.select(["power_offset"], table, "y", weights="w", clusters="trunk")
    assert len(ranked.best.clusters) == 40 and ranked.best.weights[-1] == 2
    held = fitting.holdout("power_offset", table, "y", cut=1e9, weights="w", clusters="trunk")
    np.testing.assert_array_equal(held.fit.weights, table.w[held.train])
    assert len(held.fit.clusters) == held.train.sum()


def test_laws_that_the_cuts_do_not_separate_are_undecided():
    data, y = curve(noise=5e-3, seed=2)
    alike = fitting.select(["power_offset", "power_shifted"], data, y)
    assert not alike.decided and "cannot tell" in repr(alike)
    assert min(alike.weights.values()) > 0.2 and sum(alike.weights.values()) == pytest.approx(1)
    clear = fitting.select(["power", "power_offset"], *curve())
    assert clear.decided and "cannot tell" not in repr(clear) and clear.weights["power_offset"] > 0.9


def test_runs_of_one_compute_but_for_rounding_are_on_one_side_of_a_cut():
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e8, 1e10, 6)))
    y = (1.8 + 400 / N**0.34 + 900 / D**0.3) * np.exp(0.003 * np.random.default_rng(2).standard_normal(36))
    found = fitting.select(["chinchilla", "kaplan"], {"N": N, "D": D}, y)
    cuts = np.array(found.cuts)
    assert (cuts[1:] > 1.1 * cuts[:-1]).all()
