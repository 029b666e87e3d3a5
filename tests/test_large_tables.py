"""Tables of others with tens of thousands of rows: the same answer, from a sample where all rows would tell no more."""

import numpy as np
import pandas as pd
import pytest

from scaling_jax import analysis, fitting
from scaling_jax.analysis import read
from scaling_jax.analysis.columns import MANY_SIZES, size_labels
from scaling_jax.analysis.fits import MANY
from scaling_jax.analysis.runs import scale_table
from scaling_jax.fitting.inference.rolling import inner_cuts
from scaling_jax.fitting.optimal import envelope as hull
from scaling_jax.fitting.plots import MAX_LABELS, RANGES, data_levels
from scaling_jax.fitting.rows import duplicates
from scaling_jax.report import figures, text
from scaling_jax.study import Fit

TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def table(rows, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    N, D = 10 ** rng.uniform(7, 10, rows), 10 ** rng.uniform(9, 12, rows)
    mean = TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]
    return pd.DataFrame({"params": N, "tokens": D, "loss": mean * np.exp(noise * rng.standard_normal(rows))})


@pytest.fixture(scope="module")
def found():
    return analysis.analyse(table(60_000))


def test_a_large_table_is_trusted_and_says_how_many_rows_are_fitted(found):
    assert found.used == read.MOST_ROWS
    assert found.verdict == "trust", found.reasons
    assert any("30,000 of 60,000 rows are fitted" in note for note in found.notes)
    assert "30000 of them are fitted" in text.summary(found).replace("\n    ", " ")
    for name, (low, high) in found.fit.interval(0.99).items():
        if name in TRUTH:
            assert low < TRUTH[name] < high, name


def test_sizes_beyond_telling_apart_are_drawn_as_ranges(found):
    drawn = figures.charts(found, figures.OF_A_FIT)
    assert {"frontier", "allocation", "n_and_d", "residuals"} <= set(drawn)
    for chart in drawn.values():
        for panel in chart.panels:
            assert len(panel.marks) < 10 * RANGES
    shown = {mark.scale for mark in drawn["residuals"].panels[0].marks if mark.scale}
    assert len(shown) == RANGES and all(" to " in name for name in shown)
    few = drawn["residuals"].thinned(2000)
    assert sum(panel.num_runs for panel in few.panels) <= 3 * 2100


def test_one_scale_of_a_large_table_that_is_off_is_found():
    runs = table(20_000)
    runs["params"] = np.geomspace(1e7, 1e10, 12).round()[np.arange(20_000) % 12]
    mean = TRUTH["E"] + TRUTH["A"] / runs.params ** TRUTH["alpha"] + TRUTH["B"] / runs.tokens ** TRUTH["beta"]
    runs["loss"] = mean * np.exp(0.01 * np.random.default_rng(1).standard_normal(20_000))
    only_seeds = [reason for reason in analysis.analyse(runs).reasons if "seed" not in reason]
    assert not only_seeds
    scales = np.unique(runs.params)
    runs.loc[runs.params == scales[6], "loss"] *= 1.03
    found = analysis.analyse(runs)
    assert found.verdict != "trust" and any("scale" in reason for reason in found.reasons)


@pytest.mark.parametrize("clustered", [False, True])
def test_the_normal_approximation_is_what_resamples_tend_to(clustered):
    runs = table(MANY + 1)
    labels = np.arange(len(runs)) // 4 if clustered else None
    if clustered:  # what rows of a cluster share widens intervals
        runs["loss"] *= np.exp(0.02 * np.random.default_rng(2).standard_normal(len(runs)))[labels]
    fit = fitting.fit("chinchilla", {"N": runs.params, "D": runs.tokens}, runs.loss, clusters=labels)
    resampled, normal = (fit.bootstrap(400, method=method) for method in ("pairs", "normal"))
    assert normal.converged == 1.0 and normal.method == "normal"
    for name, deviation in resampled.stderr.items():
        assert normal.stderr[name] == pytest.approx(deviation, rel=0.2), name
    point = {"N": 1e11, "D": 1e13}
    (low, high), (low2, high2) = (boot.predict(point, 0.9).interval for boot in (resampled, normal))
    assert high2 - low2 == pytest.approx(high - low, rel=0.25)


def test_parameters_at_a_bound_stay_there_in_the_normal_approximation():
    runs = table(MANY + 1)
    y = (runs.loss - TRUTH["E"]) * runs.params**-0.02  # steeper than the law's terms: no floor
    kept = fitting.fit("chinchilla", {"N": runs.params, "D": runs.tokens}, y.clip(lower=1e-3))
    assert kept.params["E"] == 0.0
    samples = kept.bootstrap(50, method="normal").columns()
    assert (samples["E"] == 0.0).all() and np.std(samples["alpha"]) > 0


def test_few_and_many_independent_rows_are_resampled_and_approximated():
    few, many = (analysis.analyse(table(n), fit=Fit(bootstrap=20)).fitted for n in (200, MANY + 1))
    assert few.source == "pairs bootstrap, 20 resamples"
    assert "normal approximation" in many.source and len(many.bootstrap.coordinates) == 20


def test_continuous_amounts_of_data_are_not_one_budget():
    levels = data_levels(np.geomspace(1e9, 1e12, 5000))
    assert len(levels) > 2 and levels[0] == pytest.approx(1e9) and levels[-1] == pytest.approx(1e12)
    assert len(data_levels(np.array([1e9, 1.001e9, 1e10, 1.001e10]))) == 2


def test_labels_of_very_many_sizes_are_unique():
    N = pd.Series(np.r_[1e9 + np.arange(MANY_SIZES + 500), np.nan])
    labels = size_labels(N)
    assert labels[:-1].nunique() == len(N) - 1 and labels.iloc[-1] == "all"


def test_the_table_of_scales_takes_the_best_run_of_each():
    rows = [("a", 1.0, 2.0, 3.0, 6.0, 0.1), ("a", 1.0, 4.0, 2.5, 24.0, 0.2), ("a", 1.0, 4.0, 2.7, 24.0, 0.3),
            ("b", 9.0, 1.0, 2.0, 54.0, 0.4)]  # fmt: skip
    frame = pd.DataFrame(rows[::-1], columns=["scale", "N", "D", "y", "C", "lr"])
    found = scale_table(frame)
    assert list(found.scale) == ["a", "b"]
    assert found.iloc[0].to_dict() == {
        "scale": "a", "N": 1.0, "budgets": 2, "y": 2.5, "D": 4.0, "C": 24.0, "lr": 0.2, "longest": 4.0,
        "y_longest": 2.5,
    }  # fmt: skip


def test_the_hulls_of_resamples_are_those_of_all_points():
    runs = table(3_000, noise=0.05)
    C = 6 * runs.params * runs.tokens
    x, y = np.log(C.to_numpy()), np.log(runs.loss.to_numpy())
    order = np.lexsort((y, x))
    near, rng = hull._within_reach(y, order), np.random.default_rng(0)
    assert len(near) < len(order)
    for _ in range(50):
        drawn = np.zeros(len(x), bool)
        drawn[rng.integers(len(x), size=len(x))] = True
        assert np.array_equal(
            hull._lower_hull(x, y, near[drawn[near]]), hull._lower_hull(x, y, order[drawn[order]])
        )  # fmt: skip


def test_repeated_rows_are_counted():
    x, y = np.array([1.0, 1.0, 2.0, 1.0, 3.0]), np.array([5.0, 5.0, 5.0, 5.0, 6.0])
    assert duplicates({"x": x}, y) == 2
    assert duplicates({"x": x}, np.arange(5.0)) == 0


def test_refits_of_many_points_take_a_sample():
    runs = table(30_000)
    fit = fitting.fit("chinchilla", {"N": runs.params, "D": runs.tokens}, runs.loss)
    found = fitting.sensitivity(fit)
    assert len(found.rows) >= 3 and found.size_ratio() < 1.05


def test_few_runs_have_as_many_colors_as_scales():
    assert len(analysis.analyse(table(MAX_LABELS)).runs.scales) == MAX_LABELS


def test_recipes_of_many_runs_are_compared_by_a_sample():
    rng = np.random.default_rng(0)
    C = 10 ** rng.uniform(18, 22, 20_000)
    losses = [1.7 + 40 * (m * C) ** -0.1 * np.exp(0.01 * rng.standard_normal(C.size)) for m in (1.0, 1.5)]
    found = fitting.compare({"A": ({"C": C}, losses[0]), "B": ({"C": C}, losses[1])})
    m = found.multiplier(1e20)
    assert m.low < 1.5 < m.high and m.high < 1.15 * m.low
    assert "A: 512 of 20000 runs, evenly along compute" in found.reasons


def test_many_rows_in_few_clusters_are_not_resampled():
    runs = table(MANY + 1)
    runs["trunk"] = np.arange(len(runs)) % 12
    runs["loss"] *= np.exp(0.02 * np.random.default_rng(2).standard_normal(12))[runs.trunk]
    columns = analysis.Columns(cluster="trunk")
    fitted = analysis.analyse(runs, fit=Fit(bootstrap=2000), columns=columns).fitted
    assert "cluster sandwich" in fitted.source and "in 12 clusters" in fitted.source
    ends, student = fitted.bootstrap.interval(0.9), fitted.bootstrap.solution.interval(0.9)
    for name in ("alpha", "beta"):
        assert np.ptp(ends[name]) == pytest.approx(np.ptp(student[name]), rel=0.1)


def test_cuts_of_many_rows_leave_a_share_of_them_below():
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(45, 2, 3000))
    assert all(np.sum(scale < cut) >= 60 for cut in inner_cuts(scale))
    few = np.geomspace(1e15, 1e20, 30)
    assert np.sum(few < inner_cuts(few)[0]) == 6


def test_compute_that_does_not_rise_with_tokens_within_a_size_is_no_error():
    runs = table(200)
    runs["params"] = np.resize(np.geomspace(1e7, 1e10, 8).round(), len(runs))
    runs["flops"] = 6 * runs.params * runs.tokens
    runs.loc[::20, "tokens"] /= 1e9
    assert analysis.analyse(runs).verdict == "no answer"


def test_more_outliers_than_are_tested_are_not_counted_as_so_many():
    runs = table(MANY + 1)
    runs.loc[::50, "loss"] *= 1.5
    reasons = analysis.analyse(runs, fit=Fit(bootstrap=0)).reasons
    assert any("and at least 37 more" in reason for reason in reasons)


def test_a_law_that_extrapolates_far_worse_is_no_other_opinion():
    found = analysis.analyse(table(2000), fit=Fit(law="auto", bootstrap=0))
    assert found.selection.candidates[-1].name == "kaplan"
    assert "kaplan" not in set(found.approaches.approach) and not any("kaplan" in reason for reason in found.reasons)
