"""The law of a loss curve under any schedule: against a plain loop over steps, and on a descent that breaks it."""

import numpy as np
import pandas as pd
import pytest

from scaling_jax import fitting

TRUTH = {"L0": 2.6, "A": 0.6, "alpha": 0.5, "B": 250.0, "C": 1.5, "beta": 0.5, "gamma": 0.5}
STEPS, WARMUP, PEAK = 1200, 60, 3e-3
T = np.arange(1, STEPS + 1.0)
UP = np.minimum(T / WARMUP, 1)
CONSTANT = PEAK * UP
COSINE = PEAK * UP * (0.55 + 0.45 * np.cos(np.pi * np.clip((T - WARMUP) / (STEPS - WARMUP), 0, 1)))
BRANCH = PEAK * UP * np.clip((STEPS - T) / (0.2 * STEPS), 0, 1)
STAGES = PEAK * UP * np.where(T < 700, 1.0, 0.2)


def printed(p, rate):
    """The law as the paper prints it, step by step; NaN during warmup."""
    total, loss = np.cumsum(rate), np.full(len(rate), np.nan)
    for t in range(WARMUP, len(rate)):
        gain = 0.0
        for k in range(WARMUP, t + 1):
            since = total[t] - total[k - 1]
            if rate[k] != rate[k - 1]:
                gain += (rate[k - 1] - rate[k]) * (
                    1 - (1 + p["C"] * max(rate[k], 1e-9) ** -p["gamma"] * since) ** -p["beta"]
                )
        loss[t] = p["L0"] + p["A"] * total[t] ** -p["alpha"] - p["B"] * gain
    return loss


def law(params=TRUTH):
    return fitting.CurveFit(params, 0.0, 0.0, 0, (PEAK, PEAK), (STEPS, STEPS))


def curve(rate, noise=0.0, seed=0):
    loss = law().predict(T, rate)
    return {"step": T, "rate": rate, "loss": loss * np.exp(noise * np.random.default_rng(seed).standard_normal(STEPS))}


@pytest.mark.parametrize("rate", [COSINE, BRANCH, STAGES], ids=["cosine", "branch", "stages"])
def test_predictions_match_the_paper(rate):
    found, expected = law().predict(T, rate), printed(TRUTH, rate)
    np.testing.assert_allclose(found[WARMUP + 1 :], expected[WARMUP + 1 :], rtol=2e-4)


def test_sparse_logs_of_a_smooth_schedule_are_enough():
    index = np.append(np.arange(0, STEPS, 20), STEPS - 1)
    whole = law().predict(T, COSINE)[index]
    np.testing.assert_allclose(law().predict(T[index], COSINE[index])[5:], whole[5:], rtol=2e-3)


def test_cosine_and_constant_predict_a_branch():
    fit = fitting.fit_curves([curve(COSINE), curve(CONSTANT)])
    for k, v in TRUTH.items():
        assert fit.params[k] == pytest.approx(v, rel=2e-2)
    assert fit.predict(T, BRANCH)[-1] == pytest.approx(law().predict(T, BRANCH)[-1], rel=1e-3)
    assert fit.worst < 1e-3 and fit.warnings == () and "rms" in str(fit)


def test_noisy_curves_predict_the_end_of_a_branch_within_a_percent():
    for seed in range(3):
        fit = fitting.fit_curves([curve(COSINE, 0.003, seed), curve(CONSTANT, 0.003, seed + 10)])
        assert fit.predict(T, BRANCH)[-1] == pytest.approx(law().predict(T, BRANCH)[-1], rel=1e-2)


def test_spikes_do_not_move_the_fit():
    spiked = curve(CONSTANT, 0.001)
    spiked["loss"] = np.where(np.arange(STEPS) % 100 == 99, 2.0 * spiked["loss"], spiked["loss"])
    fit = fitting.fit_curves([curve(COSINE, 0.001), spiked])
    assert fit.predict(T, BRANCH)[-1] == pytest.approx(law().predict(T, BRANCH)[-1], rel=1e-2)


def descent(rate, size=200, noise=0.4):
    """Expected loss of stochastic gradient descent on a quadratic with a power-law spectrum: not the law."""
    curvature = np.arange(1, size + 1.0) ** -1.2
    second_moment, losses = 4.0 * np.arange(1, size + 1.0) ** -0.3, []
    for eta in rate:
        second_moment = (1 - eta * curvature) ** 2 * second_moment + eta**2 * noise * curvature
        losses.append(1.5 + 0.5 * np.sum(curvature * second_moment))
    return np.array(losses)


def test_descent_on_a_quadratic():
    scale = 0.5 / PEAK
    fit = fitting.fit_curves([{"step": T, "rate": r, "loss": descent(scale * r)} for r in (COSINE, CONSTANT)])
    end, trunk = descent(scale * BRANCH)[-1], descent(scale * CONSTANT)[-1]
    assert abs(trunk / end - 1) > 0.03  # the decay matters
    assert fit.predict(T, BRANCH)[-1] == pytest.approx(end, rel=1e-2)


def test_tables_and_missing_losses_are_accepted():
    frame = pd.DataFrame(curve(COSINE))
    frame.loc[frame.index % 10 != 9, "loss"] = np.nan
    fit = fitting.fit_curves(frame)
    assert fit.predict(T, COSINE)[-1] == pytest.approx(frame.loss.iloc[-1], rel=1e-3)


def test_a_constant_trunk_with_the_decay_parameters_of_another_model():
    decay = {k: TRUTH[k] for k in ("B", "C", "beta", "gamma")}
    fit = fitting.fit_curves(curve(CONSTANT), fixed=decay)
    assert {k: fit.params[k] for k in decay} == decay
    assert fit.predict(T, BRANCH)[-1] == pytest.approx(law().predict(T, BRANCH)[-1], rel=2e-3)


@pytest.mark.parametrize(
    "curves, options, message",
    [
        (curve(CONSTANT), {}, "the rate of no curve decays"),
        ([], {}, "curves is empty"),
        ({"step": T, "loss": T}, {}, 'curve 0 must have the columns "step", "rate" and "loss"'),
        ({**curve(COSINE), "rate": [0.1]}, {}, "rate of curve 0 has 1 values but step has 1200"),
        ({**curve(COSINE), "step": T[::-1]}, {}, "step must have two or more increasing numbers"),
        ({**curve(COSINE), "rate": -COSINE}, {}, "rate must be finite, zero or more"),
        ({**curve(COSINE), "loss": -T}, {}, "losses must be positive"),
        ({k: v[:64] for k, v in curve(COSINE).items()}, {}, "losses after warmup for 7 parameters|no curve decays"),
        (curve(COSINE), {"fixed": {"E": 1.0}}, "has no parameter 'E'"),
        (curve(COSINE), {"fixed": {"B": -1.0}}, r"fixed\['B'\] = -1.0 must be positive"),
        (curve(COSINE), {"fixed": ["B"]}, "must be a dict"),
        (curve(COSINE), {"delta": np.nan}, "delta=nan must be a positive number"),
        (None, {}, "curves=None: give one or more"),
        (
            {**curve(COSINE), "loss": np.where(T == 400, np.inf, T)},
            {},
            "loss of curve 0 = inf at row 399",
        ),
        ([curve(CONSTANT), {**curve(COSINE), "loss": np.full(STEPS, np.nan)}], {}, "loss of curve 1 is NaN throughout"),
    ],
)
def test_bad_input(curves, options, message):
    with pytest.raises(fitting.FitError, match=message):
        fitting.fit_curves(curves, **options)


def test_curves_of_two_models_and_other_peak_rates_warn():
    double = {**curve(CONSTANT), "loss": 2 * curve(CONSTANT)["loss"]}
    assert "misses these curves by" in fitting.fit_curves([curve(COSINE), double]).warnings[0]
    with pytest.warns(fitting.FitWarning, match="far from the 0.003 to 0.003 of the fitted curves"):
        found = law().predict(T, 300 * BRANCH)
    assert not (found <= 0).any()
