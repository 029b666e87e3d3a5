"""IsoFLOP sweeps (approach 2), the envelope (approach 1), and the comparison of the three approaches."""

import dataclasses
import pathlib

import numpy as np
import pandas as pd
import pytest

from scaling_jax import fitting

FITDATA = pathlib.Path(__file__).parents[2] / "shared" / "fitdata"
CHINCHILLA = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}


def published(name: str) -> pd.DataFrame:
    path = FITDATA / name
    if not path.exists():
        pytest.skip(f"the published data {name} are not beside this checkout")
    return pd.read_csv(path)


def surface(E, A, B, alpha, beta, budgets, half_width=4.0, points=15, scale=1.0, drift=0.0):
    """Noise-free IsoFLOP sweeps around (off, by scale and drift) the optimum; and the true N*, D* at 1e24."""
    a = beta / (alpha + beta)
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    N, D, C = [], [], []
    for c in budgets:
        center = G * (c / 6) ** a / scale * 10 ** (-drift * (np.log10(c) - 17) / 4)
        n = np.geomspace(center / half_width, center * half_width, points)
        N.append(n), D.append(c / 6 / n), C.append(np.full(points, c))
    N, D, C = map(np.concatenate, (N, D, C))
    return N, D, C, E + A / N**alpha + B / D**beta, (G * (1e24 / 6) ** a, (1e24 / 6) ** (1 - a) / G)


def polyfit_approach2(N, D, C, loss):
    """Approach 2 as published: numpy's polyfit, written out per budget."""
    found = {"N": [], "D": []}
    budgets = np.unique(C)
    for c in budgets:
        for name, x in (("N", N), ("D", D)):
            c2, c1, _ = np.polyfit(np.log10(x[c == C]), loss[c == C], 2)
            found[name].append(-c1 / (2 * c2))
    return [np.polyfit(np.log10(budgets), found[k], 1)[0] for k in "ND"]


def test_parabola_is_the_published_approach_2_including_its_bias():
    table = published("approach2_bias.csv")
    for row in table.itertuples():
        N, D, C, loss, (_, true_d) = surface(
            row.E, row.A, row.B, row.alpha, row.beta, 10.0 ** np.arange(17, 22),
            row.half_width_factor, int(row.n_points), row.center_scale, row.drift_log10,
        )  # fmt: skip
        found = fitting.isoflop(N, D, C, loss, method="parabola")
        assert found.a == pytest.approx(row.approach2_a, abs=1e-6)
        assert found.b == pytest.approx(row.approach2_b, abs=1e-6)
        error = found.frontier(1e24).D[0] / true_d - 1
        assert error == pytest.approx(row.rel_err_Dstar_at_1e24, abs=1e-6)


def test_the_default_frontier_has_no_such_bias():
    table = published("approach2_bias.csv")
    for row in table.itertuples():
        N, D, _, loss, true = surface(
            row.E, row.A, row.B, row.alpha, row.beta, 10.0 ** np.arange(17, 22),
            row.half_width_factor, int(row.n_points), row.center_scale, row.drift_log10,
        )  # fmt: skip
        frontier = fitting.fit("chinchilla", {"N": N, "D": D}, loss).frontier(1e24)
        np.testing.assert_allclose([float(np.squeeze(frontier.N)), float(np.squeeze(frontier.D))], true, rtol=1e-6)


@pytest.mark.parametrize("experiment", ["llama_3__raw_loss", "marin_202603__comma__llama_2"])
def test_parabola_equals_polyfit_on_real_sweeps(experiment):
    data = published("isoflop.csv").query("experiment == @experiment")
    N, D, C, loss = (data[k].to_numpy() for k in ("params", "tokens", "flops", "loss"))
    found = fitting.isoflop(N, D, C, loss, method="parabola")
    np.testing.assert_allclose([found.a, found.b], polyfit_approach2(N, D, C, loss), rtol=1e-9)
    if experiment.startswith("llama"):
        assert found.a == pytest.approx(0.46322, abs=1e-5)


def test_porian_optima_give_all_fifteen_exponents():
    optima = published("porian_optima.csv").dropna()
    for row in published("porian_published.csv").itertuples():
        rows = optima[optima.experiment == row.experiment]
        law = fitting.power_law(rows.flops, rows.n_star, rows.n_star_logstd)
        assert law.exponent == pytest.approx(row.n_exponent, abs=5e-4)
        fit = fitting.fit(
            "power", {"x": rows.flops}, rows.n_star,
            objective=fitting.LeastSquares(log=True), weights=rows.n_star_logstd**-2.0,
        )  # fmt: skip
        assert any(np.isclose(abs(value), law.exponent, atol=1e-6) for value in fit.params.values())


def test_porian_points_give_all_fifteen_exponents_and_the_global_parabola_is_warned_about():
    points = published("porian.csv")
    for row in published("porian_published.csv").itertuples():
        rows = points[points.experiment == row.experiment]
        data = (rows.params, rows.tokens, rows.flops, rows.loss)
        found = fitting.isoflop(*data)
        assert found.a == pytest.approx(row.n_exponent, abs=0.01)
        low, high = found.interval(0.95)["a"]
        assert low < row.ci_hi and high > row.ci_lo
        # The interval is informative: neither a point nor everything.
        assert 0.02 < high - low < 0.2
        parabola = fitting.isoflop(*data, method="parabola")
        assert any("parabola" in warning for warning in parabola.warnings)
        if abs(parabola.a - row.n_exponent) > 0.05:
            assert any("unreliable here" in warning for warning in parabola.warnings)


def test_akima_minimum_equals_a_fine_grid_of_scipys_interpolant():
    from scipy.interpolate import Akima1DInterpolator

    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=[1e18, 1e19, 1e20], points=9)
    loss = loss * np.exp(np.random.default_rng(0).normal(0, 2e-3, loss.size))
    found = fitting.isoflop(N, D, C, loss)
    for optimum in found.optima:
        rows = np.isclose(C, optimum.C)
        grid = np.linspace(np.log(N[rows][0]), np.log(N[rows][-1]), 200_001)[1:-1]
        values = Akima1DInterpolator(np.log(N[rows]), np.log(loss[rows]))(grid)
        assert np.log(optimum.N) == pytest.approx(grid[values.argmin()], abs=2e-5)
        assert optimum.loss == pytest.approx(np.exp(values.min()), rel=1e-9)


@pytest.mark.parametrize("method, tolerance", [("akima", 1e-3), ("cubic", 1e-3), ("parabola", 1e-4)])
def test_noise_free_symmetric_sweeps_give_the_true_exponent(method, tolerance):
    N, D, C, loss, _ = surface(1.7, 400, 400, 0.31, 0.31, 10.0 ** np.arange(17, 22))
    found = fitting.isoflop(N, D, C, loss, method=method)
    assert found.a == pytest.approx(0.5, abs=tolerance)
    assert found.b == pytest.approx(0.5, abs=tolerance)
    np.testing.assert_allclose(6 * found.optima.N * found.optima.D, found.optima.C, rtol=1e-6)


def test_cubic_beats_the_parabola_on_a_skewed_wide_curve():
    N, D, C, loss, (true_n, _) = surface(1.69, 406.4, 410.7, 0.465, 0.155, 10.0 ** np.arange(17, 22), 8.0)
    error = {
        method: abs(np.log(fitting.isoflop(N, D, C, loss, method=method).frontier(1e24).N[0] / true_n))
        for method in ("parabola", "cubic", "akima")
    }
    assert error["cubic"] < error["parabola"] / 3
    assert error["akima"] < error["parabola"] / 3


def test_intervals_cover_the_truth_at_about_their_level():
    budgets = np.geomspace(1e18, 1e21, 7)
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=budgets, points=9)
    truth = CHINCHILLA["beta"] / (CHINCHILLA["alpha"] + CHINCHILLA["beta"])
    rng = np.random.default_rng(1)
    inside = 0
    for i in range(100):
        noisy = loss * np.exp(rng.normal(0, 1e-3, loss.size))
        low, high = fitting.isoflop(N, D, C, noisy, seed=i).interval(0.8)["a"]
        inside += low < truth < high
    assert 68 <= inside <= 97


def test_budgets_are_found_with_jitter_or_given():
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=[1e18, 3e18, 1e19])
    jitter = np.exp(np.random.default_rng(0).uniform(-0.04, 0.04, C.size))
    found = fitting.isoflop(N, D * jitter, C * jitter, loss)
    np.testing.assert_allclose(found.optima.C, [1e18, 3e18, 1e19], rtol=0.03)
    assert any("inside a budget" in warning for warning in found.warnings)
    given = fitting.isoflop(N, D, C, loss, budgets=[1e18, 1e19])
    np.testing.assert_array_equal(given.optima.C, [1e18, 1e19])
    assert any("15 points are near none" in warning for warning in given.warnings)


def test_runs_without_budgets_are_refused():
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(16, 20, 200)), np.exp(rng.uniform(20, 24, 200))
    with pytest.raises(ValueError, match=r"not IsoFLOP sweeps.*budgets="):
        fitting.isoflop(N, D, 6 * N * D, 2 + N**-0.3)
    with pytest.raises(ValueError, match="at least two compute budgets"):
        fitting.isoflop([1e6, 2e6, 3e6], [3e6, 2e6, 1e6], [1e13] * 3, [3, 2, 3])


def test_single_runs_are_not_sweeps_and_are_dropped_in_one_sentence():
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=[1e18, 1e19, 1e20])
    single = 10.0 ** np.arange(21, 28)
    beside = [
        np.r_[one, more] for one, more in ((N, single**0.5), (D, single**0.5 / 6), (C, single), (loss, single**0))
    ]
    found = fitting.isoflop(*beside)
    assert found.optima.C.tolist() == [1e18, 1e19, 1e20]
    (said,) = [w for w in found.warnings if "dropped" in w]
    assert said == "7 of 10 budgets dropped (1e+21, 1e+22, 1e+23, 1e+24, ...): too few sizes, akima needs 3"
    few = np.isin(beside[0], np.r_[N[C == 1e18][4:7], N[C == 1e19][4:7], single**0.5])
    with pytest.raises(ValueError, match="13 points have 9 different C, only 2 of them.*not IsoFLOP sweeps"):
        fitting.isoflop(*(column[few] for column in beside))


@pytest.mark.parametrize("scale, word", [(0.1, "smaller"), (10.0, "larger")])
def test_a_minimum_at_the_edge_is_dropped_with_advice(scale, word):
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=[1e18, 1e19, 1e20, 1e21])
    one = surface(**CHINCHILLA, budgets=[1e18], scale=scale)
    keep = C != 1e18
    N, D, C, loss = (np.r_[x[keep], y] for x, y in zip((N, D, C, loss), one[:4]))
    found = fitting.isoflop(N, D, C, loss)
    assert found.optima.C.tolist() == [1e19, 1e20, 1e21]
    assert any(f"add {word} models" in warning for warning in found.warnings)
    with pytest.raises(ValueError, match="0 of 3 budgets have an optimum"):
        fitting.isoflop(*surface(**CHINCHILLA, budgets=[1e18, 1e19, 1e20], scale=scale)[:4])


def test_off_center_and_wide_sweeps_are_reported():
    def parabola(**sweep):
        budgets = 10.0 ** np.arange(17, 22)
        return fitting.isoflop(*surface(**CHINCHILLA, budgets=budgets, **sweep)[:4], method="parabola")

    off = parabola(scale=3.0)
    assert any("off center" in warning for warning in off.warnings)
    wide = parabola(half_width=16)
    assert any("span more than 30x" in warning for warning in wide.warnings)
    drift = parabola(drift=0.477)
    assert any("drifts by" in warning for warning in drift.warnings)
    assert any("unreliable here" in warning for warning in drift.warnings)
    good = parabola(half_width=3)
    assert good.warnings == []


def test_repeated_sizes_are_averaged_and_counted():
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=[1e18, 1e19, 1e20])
    once = fitting.isoflop(N, D, C, loss)
    up, down = fitting.isoflop(*(np.r_[x, x] for x in (N, D, C)), np.r_[loss * 1.001, loss / 1.001]), once
    assert up.a == pytest.approx(down.a, abs=1e-9)
    assert any("45 points repeat a size" in warning for warning in up.warnings)


def test_the_same_seed_gives_the_same_interval_and_data_are_unchanged():
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=[1e18, 1e19, 1e20])
    loss = loss * np.exp(np.random.default_rng(0).normal(0, 1e-3, loss.size))
    kept = loss.copy()
    first, second = (fitting.isoflop(list(N), list(D), list(C), loss, seed=3) for _ in range(2))
    assert first.interval() == second.interval() != fitting.isoflop(N, D, C, loss, seed=4).interval()
    np.testing.assert_array_equal(loss, kept)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"loss": np.nan}, r"loss\[2\] is nan"),
        ({"N": -1.0}, r"N\[2\] is -1"),
        ({"C": np.inf}, r"C\[2\] is inf"),
    ],
)
def test_bad_values_are_quoted(change, message):
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=[1e18, 1e19, 1e20])
    columns = {"N": N, "D": D, "C": C, "loss": loss}
    for name, value in change.items():
        columns[name][2] = value
    with pytest.raises(ValueError, match=message):
        fitting.isoflop(**columns)
    with pytest.raises(ValueError, match=message):
        fitting.envelope(**columns)


def test_other_bad_input_gives_a_way_out():
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=[1e18, 1e19, 1e20])
    with pytest.raises(ValueError, match="'spline': choose one of akima, cubic, parabola"):
        fitting.isoflop(N, D, C, loss, method="spline")
    with pytest.raises(ValueError, match="columns differ in length: N has 44"):
        fitting.isoflop(N[1:], D, C, loss)
    with pytest.raises(ValueError, match="window is 2"):
        fitting.isoflop(N, D, C, loss, window=2)
    with pytest.raises(ValueError, match="N is not numeric: 'a' at row 0"):
        fitting.isoflop(["a"] * 45, D, C, loss)
    with pytest.raises(ValueError, match="level=95 must lie between 0 and 1"):
        fitting.isoflop(N, D, C, loss).interval(95)


def test_envelope_is_the_lower_convex_hull_of_scipy():
    from scipy.spatial import ConvexHull

    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(16, 21, 300)), np.exp(rng.uniform(20, 25, 300))
    C, loss = 6 * N * D, 1.7 + 400 / N**0.34 + 410 / D**0.28
    found = fitting.envelope(N, D, C, loss)
    points = np.log(np.stack([C, loss], 1))
    vertices = ConvexHull(points).vertices
    start = int(np.flatnonzero(vertices == points[:, 0].argmin())[0])
    ring = np.roll(vertices, -start)  # counter-clockwise from the leftmost point: the lower hull comes first
    lower = ring[: int(np.flatnonzero(ring == points[:, 1].argmin())[0]) + 1]
    np.testing.assert_array_equal(found.index, lower)
    np.testing.assert_array_equal(found.optima.N, N[lower])


def test_envelope_on_dense_noise_free_sweeps_gives_the_true_exponent():
    budgets = np.geomspace(1e17, 1e21, 9)
    N, D, C, loss, _ = surface(**CHINCHILLA, budgets=budgets, points=41)
    found = fitting.envelope(N, D, C, loss)
    assert found.a == pytest.approx(0.28 / 0.62, abs=2e-3)
    assert found.b == pytest.approx(1 - found.a, abs=1e-9)
    low, high = found.interval(0.95)["a"]
    assert low <= 0.28 / 0.62 <= high
    assert np.isnan(fitting.envelope(N, D, C, loss, resamples=0).interval()["a"]).all()
    assert (
        dataclasses.replace(fitting.isoflop(N, D, C, loss), samples=np.empty((0, 2))).interval()["a"][0]
        < 0.28 / 0.62 + 1e-3
    )


def test_envelope_warns_on_few_points_and_sizes_at_the_edge():
    N, C = (x.ravel() for x in np.meshgrid(np.geomspace(1e9, 1e11, 21), np.geomspace(1e17, 1e21, 9)))
    D = C / (6 * N)
    found = fitting.envelope(N, D, C, 1.69 + 406.4 / N**0.34 + 410.7 / D**0.28)
    assert any("smallest size tried" in warning for warning in found.warnings)
    with pytest.raises(ValueError, match="lower hull"):
        fitting.envelope([1e6, 1e7], [1e8, 1e8], [6e14, 6e15], [2.0, 3.0])


def test_power_law_equals_numpy_polyfit():
    rng = np.random.default_rng(0)
    x, std = np.geomspace(1, 1e6, 12), rng.uniform(0.05, 0.5, 12)
    y = 3 * x**0.4 * np.exp(rng.normal(0, std))
    (slope, intercept), covariance = np.polyfit(np.log(x), np.log(y), 1, w=1 / std, cov=True)
    found = fitting.power_law(x, y, std)
    np.testing.assert_allclose(
        [found.exponent, np.log(found.coefficient), found.stderr],
        [slope, intercept, covariance[0, 0] ** 0.5],
        rtol=1e-9,
    )
    with pytest.raises(ValueError, match="two distinct x"):
        fitting.power_law([2.0, 2.0], [1.0, 3.0])


def noisy(noise=1e-3, seed=0, points=9):
    N, D, C, loss, true = surface(**CHINCHILLA, budgets=np.geomspace(1e18, 1e21, 7), points=points)
    return N, D, C, loss * np.exp(np.random.default_rng(seed).normal(0, noise, loss.size)), true


def test_the_three_approaches_are_compared():
    *columns, (true_n, true_d) = noisy()
    found = fitting.approaches(*columns, target=1e24)
    assert list(found.estimates) == ["envelope", "isoflop", "parabola", "parametric"]
    for name, estimate in found.estimates.items():
        assert estimate.a == pytest.approx(0.28 / 0.62, abs=0.06), name
        assert estimate.interval[0] < estimate.a < estimate.interval[1], name
    assert found.estimates["isoflop"].a == fitting.isoflop(*columns).a
    assert found.estimates["parabola"].a == fitting.isoflop(*columns, method="parabola").a
    assert found.estimates["envelope"].a == fitting.envelope(*columns).a
    direct = fitting.fit("chinchilla", {"N": columns[0], "D": columns[1]}, columns[3])
    parametric = found.estimates["parametric"]
    np.testing.assert_allclose(parametric.N, direct.frontier(1e24).N, rtol=1e-9)
    np.testing.assert_allclose([parametric.N, parametric.D], [true_n, true_d], rtol=0.1)
    sizes = [e.N for e in found.estimates.values()]
    assert found.size_ratio == max(sizes) / min(sizes)
    assert f"{found.size_ratio:.2f}x apart" in found.disagreement[0]
    text = str(found)
    assert all(label in text for label in ("1 envelope", "2 IsoFLOP, Akima", "2 IsoFLOP, parabola", "3 parametric law"))


def test_incompatible_approaches_are_reported():
    # Drifting sweeps bias the parabola; the law on the same points is right.
    N, D, C, loss, _ = surface(1.69, 406.4, 410.7, 0.465, 0.155, np.geomspace(1e17, 1e21, 9), drift=0.477)
    loss = loss * np.exp(np.random.default_rng(0).normal(0, 2e-4, loss.size))
    found = fitting.approaches(N, D, C, loss)
    assert found.estimates["parametric"].a == pytest.approx(0.25, abs=0.005)
    assert found.estimates["parabola"].a < 0.24
    assert any(
        "2 IsoFLOP, parabola (a = 0.22" in s and "are incompatible at the 95% level" in s
        for s in found.disagreement[1:]
    )
    assert any(w.startswith("2 IsoFLOP, parabola: the parabola is unreliable here") for w in found.warnings)


def test_impossible_approaches_are_reported_with_the_reason():
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(16, 21, 80)), np.exp(rng.uniform(20, 25, 80))
    loss = 1.69 + 406.4 / N**0.34 + 410.7 / D**0.28
    found = fitting.approaches(N, D, 6 * N * D, loss)
    assert set(found.impossible) == {"isoflop", "parabola"}
    assert "not IsoFLOP sweeps" in found.impossible["isoflop"]
    assert found.isoflop is None and found.envelope is not None
    assert str(found).count("not IsoFLOP sweeps") == 1


def test_cross_check_against_the_parametric_law():
    *columns, _ = noisy(noise=1e-4, points=15)
    good = fitting.cross_check(fitting.isoflop(*columns))
    assert good.warnings == []
    np.testing.assert_allclose(good.ratio, 1, atol=0.1)
    assert good.a[1] == pytest.approx(0.28 / 0.62, abs=2e-3)
    drifting = surface(1.69, 406.4, 410.7, 0.465, 0.155, np.geomspace(1e17, 1e21, 9), 4.0, drift=0.477)[:4]
    bad = fitting.cross_check(fitting.isoflop(*drifting, method="parabola"))
    assert bad.a == pytest.approx((0.228, 0.25), abs=2e-3)
    assert any("a = 0.228 and chinchilla on the same runs 0.250" in w for w in bad.warnings)
    scaled = fitting.isoflop(columns[0] * 1.5, *columns[1:])  # a consistent change of unit is no disagreement
    assert fitting.cross_check(scaled).a == pytest.approx(good.a, abs=1e-6)


def test_an_interpolant_with_several_minima_is_reported():
    *columns, _ = noisy(noise=1e-2, points=15)
    warnings = fitting.isoflop(*columns).warnings
    assert any("dip more than once" in w for w in warnings)
    assert not any("dip" in w for w in fitting.isoflop(*columns, method="cubic").warnings)
