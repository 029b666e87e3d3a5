"""Forecasts: the contract, the parts of the interval, coverage by simulation, and when there is no answer."""

import jax
import numpy as np
import pytest
from scipy.special import ndtri, stdtrit

from scaling_jax import fitting
from scaling_jax.fitting.inference.noise import luck_of_best

C_TARGET = 6e21


def loss(N, D):
    """A sum of three powers: none of the laws."""
    return 1.7 + 300 / N**0.34 + 900 / D**0.35 + 3.0 / (N * D) ** 0.05 * 0.1


def grid(sizes=5, tokens=5):
    N, D = np.meshgrid(np.logspace(7, 9, sizes), np.logspace(9, 11, tokens))
    return N.ravel(), D.ravel()


def noisy(N, D, seed, noise=0.003):
    return loss(N, D) * np.exp(noise * np.random.default_rng(seed).normal(size=N.shape))


@pytest.fixture(scope="module")
def forecast():
    N, D = grid()
    return fitting.forecast({"N": N, "D": D}, noisy(N, D, 0))


def test_the_squares_of_the_parts_add_up_to_the_interval(forecast):
    asked = {"N": np.array([1e9, 1e10]), "D": np.array([1e11, 1e12])}
    prediction = forecast.predict(asked, level=0.9)
    assert set(prediction.parts) == {"resampling", "run", "laws", "drift"}
    total = np.sqrt(sum(v**2 for v in prediction.parts.values()))
    half = 0.5 * np.log(prediction.high / prediction.low)
    quantile = half / total
    assert np.all((quantile > 1.645) & (quantile < 2.0))  # of Student's t: wider than the normal one
    expected = stdtrit(forecast._mixture.learned_dof, 0.95)
    far = forecast.predict({"N": 1e13, "D": 1e15}, level=0.9)  # where what the cuts taught is all that counts
    far_total = np.sqrt(sum(v**2 for v in far.parts.values()))
    np.testing.assert_allclose(0.5 * np.log(far.high / far.low) / far_total, expected, rtol=0.05)
    np.testing.assert_allclose(np.sqrt(prediction.low * prediction.high), prediction.value, rtol=1e-9)
    assert prediction.parts["drift"][0] == 0 and prediction.parts["drift"][1] > 0  # none inside the data


def test_the_value_is_the_weighted_mean_of_the_laws_in_logarithms(forecast):
    asked = {"N": 1e10, "D": 1e12}
    logs = [w * np.log(forecast.fits[k].predict(asked)) for k, w in forecast.weights.items()]
    assert np.isclose(forecast.predict(asked).value, np.exp(sum(logs)), rtol=1e-12)
    assert np.isclose(sum(forecast.weights.values()), 1)


def test_tables_lists_and_dicts_give_the_same_forecast(forecast):
    pd = pytest.importorskip("pandas")
    N, D = grid()
    frame = pd.DataFrame({"N": N, "D": D, "loss": noisy(N, D, 0), "other": "text"})
    asked = {"N": [1e10], "D": [1e12]}
    value = forecast.predict(asked).value
    assert fitting.forecast(frame, "loss").predict(pd.DataFrame(asked)).value == value
    lists = {"N": list(N), "D": list(D)}
    assert fitting.forecast(lists, list(frame["loss"])).predict(asked).value == value


def test_jax_configuration_is_left_as_it_was(forecast):
    before = jax.config.jax_enable_x64
    forecast.predict({"N": 1e10, "D": 1e12})
    forecast.frontier(1e21)
    assert jax.config.jax_enable_x64 == before


def test_a_single_input_is_forecast_under_its_own_name():
    D = np.logspace(8, 11, 12)
    y = (1.5 + 40 / D**0.2) * np.exp(0.002 * np.random.default_rng(1).normal(size=12))
    prediction = fitting.forecast({"D": D}, y).predict({"D": 1e12})
    assert prediction.low < 1.5 + 40 / 1e12**0.2 < prediction.high
    assert prediction.high / prediction.low < 1.3
    by_array = fitting.forecast(D, y).predict(1e12)
    assert by_array.value == prediction.value
    with pytest.raises(fitting.FitError, match="no frontier of N and D"):
        fitting.forecast({"D": D}, y).frontier(1e21)


def test_frontier_spends_its_budget_and_its_interval_covers_the_optimum(forecast):
    frontier = forecast.frontier([1e20, C_TARGET])
    assert frontier.answer and not frontier.reasons
    np.testing.assert_allclose(6 * frontier.N * frontier.D, [1e20, C_TARGET], rtol=1e-9)
    N = np.logspace(7, 12, 20001)
    best = N[np.argmin(loss(N, C_TARGET / (6 * N)))]
    low, high = (v[1] for v in frontier.interval["N"])
    assert low < best < high and high / low < 20
    assert frontier.interval["run"][0][1] < frontier.interval["loss"][0][1] < frontier.loss[1]
    wide = forecast.frontier(C_TARGET, level=0.99).interval["N"]
    assert wide[0] < low and wide[1] > high


def test_a_custom_cost_is_spent(forecast):
    def cost(N, D):
        return 6 * N * D + 1e3 * N**1.3

    frontier = forecast.frontier(1e21, cost=cost)
    np.testing.assert_allclose(cost(frontier.N, frontier.D), 1e21, rtol=1e-6)


def test_intervals_cover_runs_beyond_the_data_where_no_law_is_true():
    """Sixteen simulated ladders; a binomial of 16 runs at .9 is below 12 once in 60 times, and the seed is fixed."""
    N, D = grid(5, 4)
    held, errors = 0, []
    for seed in range(16):
        rng = np.random.default_rng([1, seed])
        forecast = fitting.forecast({"N": N, "D": D}, noisy(N, D, seed, 0.01))
        n = np.exp(rng.uniform(*np.log([2e9, 1e10])))
        run = loss(n, 30 * n) * np.exp(0.01 * rng.normal())
        prediction = forecast.predict({"N": n, "D": 30 * n})
        held += int(prediction.low < run < prediction.high)
        errors.append(np.log(prediction.high / prediction.low))
    assert 13 <= held <= 16
    assert np.median(errors) < 0.25  # and not because they are endless


def no_answer(N, D, y, match, laws=None):
    frontier = fitting.forecast({"N": N, "D": D}, y, laws=laws).frontier(1e21)
    assert not frontier.answer and frontier.N is None and frontier.interval is None
    assert any(match in reason for reason in frontier.reasons), frontier.reasons
    assert "no answer, because" in repr(frontier)


def test_no_answer_from_tokens_in_proportion_to_parameters():
    N = np.logspace(7, 9, 12)
    no_answer(N, 20 * N, noisy(N, 20 * N, 0), "collinear")


def test_no_answer_from_six_runs_for_five_parameters():
    N, D = (v[[0, 4, 8, 12, 16, 23]] for v in grid())
    no_answer(N, D, noisy(N, D, 0), "6 different runs")


def test_no_answer_from_noise_alone():
    N, D = grid()
    no_answer(N, D, np.exp(0.1 * np.random.default_rng(0).normal(size=25)), "noise", laws=["chinchilla"])


def test_no_answer_when_the_optimum_of_the_ladders_own_budget_is_outside():
    N, D = (v.ravel() for v in np.meshgrid(np.logspace(6, 7, 5), np.logspace(11, 12, 5)))
    no_answer(N, D, noisy(N, D, 0), "above all of its sizes")


def test_too_few_runs_for_any_law_are_refused():
    with pytest.raises(fitting.FitError, match="4 different runs for 5 parameters"):
        fitting.forecast({"N": [1e7, 2e7, 4e7, 8e7], "D": [1e9, 3e9, 2e9, 9e9]}, [3.0, 2.9, 2.8, 2.6])


def test_branches_of_a_trunk_do_not_count_as_independent_runs():
    rng = np.random.default_rng(3)
    N, D = grid(10, 6)
    trunk = np.tile(np.arange(10), 6)  # one per size; branches are its token budgets
    y = loss(N, D) * np.exp(0.02 * rng.normal(size=10)[trunk] + 0.001 * rng.normal(size=60))
    asked = {"N": 1e10, "D": 1e12}
    alone = fitting.forecast({"N": N, "D": D}, y).predict(asked)
    together = fitting.forecast({"N": N, "D": D}, y, clusters=trunk)
    assert together.predict(asked).parts["resampling"] > 1.25 * alone.parts["resampling"]
    assert together.noise.between > 4 * together.noise.within


def test_repeats_give_the_noise_of_a_run():
    N, D = (np.concatenate([v, v]) for v in grid())
    noise = fitting.forecast({"N": N, "D": D}, noisy(N, D, 5, 0.02)).noise
    assert noise.source == "repeats" and 0.012 < noise.run < 0.03


def test_the_best_of_several_runs_is_raised_by_its_bias():
    N, D = grid(10, 10)
    draws = 0.02 * np.random.default_rng(7).normal(size=(4, 100))
    y = loss(N, D) * np.exp(draws.min(axis=0))
    plain, raised = (fitting.forecast({"N": N, "D": D}, y, n_tuned=n).predict({"N": N, "D": D}) for n in (1, 4))
    bias = [np.mean(np.log(p.value) - np.log(loss(N, D))) for p in (plain, raised)]
    assert bias[0] < -0.015 and abs(bias[1]) < 0.01


@pytest.mark.parametrize(("n", "dof"), [(2, 3), (4, 6), (12, 20)])
def test_the_luck_of_the_best_has_an_interval_of_exact_coverage(n, dof):
    rng = np.random.default_rng(n)
    below = -rng.normal(size=(40_000, n)).min(axis=1)
    estimate = np.sqrt(rng.chisquare(dof, 40_000) / dof)
    low, high = luck_of_best(n, dof, 0.9)
    assert np.mean(below < low * estimate) == pytest.approx(0.05, abs=0.005)
    assert np.mean(below > high * estimate) == pytest.approx(0.05, abs=0.005)


def test_the_luck_of_the_best_is_an_order_statistic_where_the_noise_is_known():
    np.testing.assert_allclose(luck_of_best(5, np.inf, 0.8), ndtri(np.array([0.1, 0.9]) ** (1 / 5)), rtol=1e-9)
    N, D = grid()
    notes = fitting.forecast({"N": N, "D": D}, noisy(N, D, 3), laws="kaplan", n_tuned=4).notes
    assert any("best of 4 by noise, which is" in note and "too low (90% of them)" in note for note in notes)


def test_many_rows_are_thinned_and_this_is_noted():
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(*np.log([1e7, 1e9]), 9000)), np.exp(rng.uniform(*np.log([1e9, 1e11]), 9000))
    forecast = fitting.forecast({"N": N, "D": D}, noisy(N, D, 0), laws=["chinchilla"])
    assert forecast.n == 9000 and "thinned to 4096" in forecast.notes[0]
    assert np.isclose(forecast.predict({"N": 1e8, "D": 1e10}).value, loss(1e8, 1e10), rtol=5e-3)


def test_doubtful_rows_are_noted_and_far_units_warn():
    N, D = grid()
    y = noisy(N, D, 0)
    forecast = fitting.forecast({"N": N / 1e6, "D": D}, y, C=6 * N * D, laws=["chinchilla"])
    assert "C is about 1e+06 times 6 N D" in forecast.notes[0] and len(forecast.notes) == 1
    with pytest.warns(fitting.FitWarning, match="decades beyond the data: are the inputs in the units of the data"):
        forecast.predict({"N": 1e10, "D": 1e12})
    twice = {"N": np.tile(N, 2), "D": np.tile(D, 2)}
    noise = np.random.default_rng(0).uniform(2, 3, len(N))
    notes = fitting.forecast(twice, np.tile(noise, 2), laws=["chinchilla"]).notes
    assert f"{len(N)} of {2 * len(N)} rows repeat" in notes[0] and "the laws explain only" in notes[1]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": -1}, "^seed=-1 must be a whole number"),
        ({"laws": 3}, "laws=3: give names or laws"),
        ({"laws": [("chinchilla", {"E": "a"})]}, "the fixed parameters of chinchilla are {'E': 'a'}"),
        ({"laws": [("chinchilla", 3)]}, "the fixed parameters of chinchilla are 3"),
        ({"laws": ["chinchilla", "chinchilla"]}, "laws names chinchilla twice"),
    ],
)
def test_bad_options_are_refused(options, message):
    N, D = grid()
    with pytest.raises(fitting.FitError, match=message):
        fitting.forecast({"N": N, "D": D}, loss(N, D), **options)
