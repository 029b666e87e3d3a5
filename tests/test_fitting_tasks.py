"""Accuracy of a task: the direct law, the chain through the loss, and the noise of a task."""

import numpy as np
import pytest
from fitting_truth import FORMULA, TRUTH, design

from scaling_jax import fitting

DATA = design("chinchilla")
TRUE_LOSS = fitting.laws["chinchilla"](TRUTH["chinchilla"], DATA)
TASK = {"floor": 0.25, "gain": 0.6, "k": 4.0, "L0": 2.5}


def accuracy(loss):
    return TASK["floor"] + TASK["gain"] / (1 + np.exp(TASK["k"] * (loss - TASK["L0"])))


def runs(noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    loss = TRUE_LOSS * np.exp(noise * rng.standard_normal(len(TRUE_LOSS)))
    return loss, accuracy(loss) + noise * rng.standard_normal(len(loss))


@pytest.mark.parametrize("name", ["downstream", "downstream_scaled"])
@pytest.mark.parametrize("fixed", [None, {"chance": 0.25}])
def test_direct_law_recovers_the_truth(name, fixed):
    y = np.array([FORMULA[name](TRUTH[name], *row) for row in zip(*DATA.values())])
    fit = fitting.fit(name, DATA, y, fitting.LeastSquares(), fixed=fixed)
    assert fit.converged
    for k, v in TRUTH[name].items():
        assert fit.params[k] == pytest.approx(v, rel=1e-4)
    best = fit.frontier(1e21, maximize=True)
    assert best.loss > fit.predict({"N": 2 * best.N, "D": best.D / 2})
    assert best.loss > fit.predict({"N": best.N / 2, "D": 2 * best.D})


def test_chain_gives_the_composed_truth():
    found = fitting.chain(DATA, *runs(), resamples=20)
    at = {"N": np.array([1e10, 5e10]), "D": np.array([1e12, 2e12])}
    loss = fitting.laws["chinchilla"](TRUTH["chinchilla"], at)
    answer = found.predict(at)
    np.testing.assert_allclose(answer.loss, loss, rtol=1e-6)
    np.testing.assert_allclose(answer.value, accuracy(loss), rtol=1e-6)
    np.testing.assert_allclose([answer.low, answer.high], [answer.value] * 2, rtol=1e-5)


def test_chain_intervals_are_joint_and_cover_a_run():
    loss, score = runs(0.01, 1)
    found = fitting.chain(DATA, loss, score, resamples=200, fixed={"floor": 0.25})
    mean, run = found.predict(DATA), found.predict(DATA, new_run=True)
    truth = accuracy(TRUE_LOSS)
    assert 0.75 <= np.mean((mean.low <= truth) & (truth <= mean.high)) <= 1
    fresh = runs(0.01, 2)[1]
    covered = np.mean((run.low <= fresh) & (fresh <= run.high))
    assert 0.8 <= covered <= 0.97 and np.all(run.high - run.low > mean.high - mean.low)


def test_runs_without_an_accuracy_still_inform_the_loss():
    loss, score = runs(0.005, 3)
    score[::2] = np.nan
    found = fitting.chain(DATA, loss, score, resamples=30)
    assert found.first.n == len(loss) and len(found.residuals) == np.isfinite(score).sum()
    assert found.predict({"N": 1e10, "D": 1e12}).value == pytest.approx(accuracy(2.0), abs=0.1)


def test_noise_ceiling_of_known_noise_and_signal():
    rng = np.random.default_rng(0)
    models = np.repeat(np.arange(200), 6)
    scores = 0.5 + 0.04 * rng.standard_normal(200)[models] + 0.02 * rng.standard_normal(1200)
    scores += 0.01 * np.tile(np.arange(6), 200)  # still rising: a trend is not noise
    found = fitting.noise_ceiling(scores, models, last=6)
    assert found.noise == pytest.approx(0.02, rel=0.06) and found.signal == pytest.approx(0.04, rel=0.12)
    assert found.ratio == pytest.approx(2.0, rel=0.15) and found.explainable == pytest.approx(0.8, abs=0.04)
    exceeded = np.abs(0.02 * np.sqrt(2) * rng.standard_normal(10000)) > found.smallest_difference
    assert exceeded.mean() == pytest.approx(0.1, abs=0.03)


def test_pure_noise_has_no_signal():
    rng = np.random.default_rng(1)
    found = fitting.noise_ceiling(rng.standard_normal(500), np.repeat(np.arange(100), 5))
    assert found.ratio < 0.4 and found.explainable < 0.15


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: fitting.chain(DATA, TRUE_LOSS, TRUE_LOSS[:3]), "accuracy has 3 values but loss has 81"),
        (lambda: fitting.chain(DATA, TRUE_LOSS, np.full(81, np.nan)), "accuracy is NaN for every run"),
        (lambda: fitting.chain(DATA, *runs(), laws=("chinchilla", "power")), "must be a law of the loss"),
        (lambda: fitting.noise_ceiling([1.0, 2.0], ["a"]), r"models has shape \(1,\); give one label per row, 2"),
        (lambda: fitting.noise_ceiling([1.0, 2.0, 3.0], ["a"] * 3), "1 models have three checkpoints or more"),
        (lambda: fitting.noise_ceiling([1.0] * 6, [1, 1, 1, 2, 2, 2], last=2), "last=2 must be a whole number"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(fitting.FitError, match=message):
        call()


def test_intervals_of_an_accuracy_end_at_one():
    rng = np.random.default_rng(2)
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e8, 1e10, 6)))
    loss = (1.8 + 400 / N**0.34 + 900 / D**0.3) * np.exp(0.003 * rng.standard_normal(36))
    accuracy = 0.25 + 0.7 / (1 + np.exp((loss - 3.3) / 0.25)) + 0.004 * rng.standard_normal(36)
    found = fitting.chain({"N": N, "D": D}, loss, accuracy, resamples=200).predict({"N": 1e11, "D": 1e12})
    assert 0.8 < found.low < found.value < found.high <= 1.0
