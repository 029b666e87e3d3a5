"""The verdict: ladders with a known fault are never trusted and the fault is named; sound ones are trusted."""

import re

import faulty_ladders
import numpy as np
import pandas as pd
import pytest
import simulated

from scaling_jax import analysis, study
from scaling_jax.analysis.checks import CHECKS, Check, verdict
from scaling_jax.analysis.shifts import seed_components

QUICK = study.Fit(bootstrap=0)
WITH_FORECAST = {"noise only", "optimum outside", "too much noise"}  # their fault shows in the interval


@pytest.mark.slow
@pytest.mark.parametrize("name", faulty_ladders.FAULTY)
def test_a_faulty_ladder_is_not_trusted_and_its_fault_is_named(name):
    make, words = faulty_ladders.FAULTY[name]
    fit = study.Fit(bootstrap=20) if name in WITH_FORECAST else QUICK
    columns = analysis.Columns(best="rate" in name or "edge" in name)
    found = analysis.analyse(make(np.random.default_rng(0)), fit=fit, columns=columns)
    assert found.verdict != "trust"
    assert re.search(words, " | ".join(found.reasons), re.I), found.reasons


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_ladder_is_trusted(seed):
    found = analysis.analyse(faulty_ladders.clean(seed), fit=study.Fit(bootstrap=20))
    assert (found.verdict, found.reasons) == ("trust", [])
    row = found.frontier.iloc[-2]
    grid = np.geomspace(row.N / 30, row.N * 30, 4001)
    truth = grid[np.argmin(faulty_ladders.law(grid, row.C / (6 * grid)))]
    assert row.N_low < truth < row.N_high


def test_the_verdict_is_the_worst_that_the_checks_leave():
    good, unknown = Check("a", "pass", "fine"), Check("b", "cannot tell", "no data")
    warn, fail = Check("c", "warn", "close"), Check("d", "fail", "off")
    assert verdict([good, unknown]) == ("trust", [])
    assert verdict([good, warn]) == ("caution", ["Close"])
    assert verdict([fail, warn]) == ("caution", ["Off", "Close"])
    assert verdict([Check("d", "fail", "off", decisive=True), warn]) == ("no answer", ["Off", "Close"])


def test_failures_come_first_and_every_check_is_there_once():
    found = analysis.analyse(faulty_ladders.FAULTY["one scale high, one seed"][0](np.random.default_rng(1)), fit=QUICK)
    order = [{"fail": 0, "warn": 1, "cannot tell": 2, "pass": 3}[c.status] for c in found.checks]
    assert order == sorted(order)
    assert {c.name for c in found.checks} == set(CHECKS)
    bad = [c for c in found.checks if c.status in ("warn", "fail")]
    assert [r.lower() for r in found.reasons] == [c.detail.lower() for c in bad]


def test_components_of_the_noise_come_back():
    """Variances between and within trunks against the ones that were put in."""
    table = simulated.ladder(noise=0.002, seeds=range(20), rates=(0.02,))
    rng = np.random.default_rng(0)
    shared = {trunk: rng.normal(0, 0.006) for trunk in table.trunk_id.unique()}
    table["loss"] *= np.exp(table.trunk_id.map(shared))
    runs = analysis.analyse(table, fit=QUICK).runs.chosen
    found = seed_components(np.log(runs.y.to_numpy()) - np.log(simulated.loss(runs.N, runs.D)).to_numpy(), runs)
    assert np.sqrt(found.trunk) == pytest.approx(0.006, rel=0.2)
    assert np.sqrt(found.run) == pytest.approx(0.002, rel=0.2)


def test_noise_along_trunks_is_counted_in_ladders_of_any_size():
    """Against generalized least squares with the whole covariance."""
    table = simulated.ladder(noise=0.002, seeds=range(12), rates=(0.02,))
    shared = {trunk: np.random.default_rng(i).normal(0, 0.006) for i, trunk in enumerate(table.trunk_id.unique())}
    table["loss"] *= np.exp(table.trunk_id.map(shared))
    linear = analysis.analyse(table, fit=QUICK).linearized
    trunk, own = linear.chosen.trunk.to_numpy(), linear.noise
    inverse = np.linalg.inv(own.trunk * (trunk[:, None] == trunk) + own.run * np.eye(len(trunk)))
    members = (linear.chosen.scale == "w48-d2").to_numpy(float)
    X = np.column_stack([linear.jacobian, members])
    expected = np.linalg.solve(X.T @ inverse @ X, X.T @ inverse @ linear.residuals)[-1]
    assert own.trunk > own.run and linear.shift(members).size == pytest.approx(expected, rel=1e-6)


def test_the_error_of_an_extrapolation_counts_the_noise_of_the_fit():
    """Against fits of drawn noise in the linearized law."""
    table = simulated.ladder(noise=0.002, seeds=(0, 1, 2), rates=(0.02,))
    shared = {trunk: np.random.default_rng(i).normal(0, 0.006) for i, trunk in enumerate(table.trunk_id.unique())}
    table["loss"] *= np.exp(table.trunk_id.map(shared))
    linear = analysis.analyse(table, fit=QUICK).linearized
    spent = (linear.chosen.N * linear.chosen.D).to_numpy()
    held = spent > 0.25 * spent.max()
    rng, (codes, trunks) = np.random.default_rng(0), pd.factorize(linear.chosen.trunk)
    noise = rng.normal(0, np.sqrt(linear.noise.run), (4000, len(held)))
    noise += rng.normal(0, np.sqrt(linear.noise.trunk), (4000, len(trunks)))[:, codes]
    solved = np.linalg.lstsq(linear.jacobian[~held], noise[:, ~held].T, rcond=1e-6)[0]
    errors = (noise[:, held] - (linear.jacobian[held] @ solved).T).mean(axis=1)
    assert linear.extrapolation(held) == pytest.approx(errors.std(), rel=0.05)
    assert linear.extrapolation(held) > 1.2 * linear.shift(held).stderr
    assert linear.extrapolation(np.ones(len(held), bool)) == np.inf


def test_noisy_ladders_do_not_fail_for_what_noise_explains():
    statuses, quarter = [], study.HoldOut(cut=0.25)
    for seed in range(4):
        table = faulty_ladders.ladder(np.random.default_rng(seed), trunk=0.015, run=0.015)
        found = CHECKS["predicts held-out runs"](analysis.analyse(table, fit=QUICK, hold_out=quarter))
        statuses.append(found.status)
        assert "is expected" in found.detail
    assert "fail" not in statuses and statuses.count("pass") >= 2
    far = faulty_ladders.ladder(np.random.default_rng(0), trunk=0.015, run=0.015)
    largest = far.flops >= 0.25 * far.flops.max()
    far.loc[largest, "loss"] *= 1.06
    found = CHECKS["predicts held-out runs"](analysis.analyse(far, fit=QUICK, hold_out=quarter))
    assert found.status in ("warn", "fail"), found


def test_a_law_that_misses_the_runs_is_not_said_to_be_noise():
    table = simulated.ladder(noise=1e-3, seeds=(0, 1), rates=(0.02,))
    found = CHECKS["the law explains more than noise"]
    assert found(analysis.analyse(table, fit=QUICK)).status == "pass"
    table["loss"] = np.where(table.width.isin([32, 64]), 2.3, 2.0) * np.exp(
        1e-3 * np.random.default_rng(0).normal(size=len(table))
    )
    missed = found(analysis.analyse(table, fit=QUICK))
    assert missed.status == "fail" and "runs miss it by" in missed.detail, missed
    table["loss"] = 2.0 * np.exp(0.01 * np.random.default_rng(0).normal(size=len(table)))
    assert "beyond noise" in found(analysis.analyse(table, fit=QUICK)).detail


def test_the_shift_of_a_scale_is_measured():
    table = simulated.ladder(noise=0.001, seeds=(0, 1), rates=(0.02,))
    table.loc[table.width == 48, "loss"] *= 1.03
    found = analysis.analyse(table, fit=QUICK)
    shift = found.linearized.shift((found.runs.chosen.scale == "w48-d2").to_numpy())
    assert shift.size == pytest.approx(np.log(1.03), abs=0.004) and shift.p < 1e-4
    assert "scale w48-d2 is" in CHECKS["every scale fits the others"](found).detail


def test_a_largest_scale_that_two_others_cannot_predict_is_not_called_a_miss():
    """Of two sizes E, A and alpha are open: a sound third size may be anywhere, and did miss by 5% and more."""
    sizes = (2e4, 1e5, 5e5)
    tokens = faulty_ladders.best_ratio() * sizes[1] * np.geomspace(0.6, 1.6, 4)
    table = faulty_ladders.ladder(np.random.default_rng(4), sizes=sizes, tokens=tokens)
    held = study.HoldOut(cut=0.3)
    found = analysis.analyse(table, fit=QUICK, hold_out=held)
    assert set(found.hold_out.rows.N) == {sizes[-1]} and abs(found.hold_out.bias) > 0.02
    check = CHECKS["predicts held-out runs"](found)
    assert check.status == "cannot tell" and "leave the law open" in check.detail
    fixed = analysis.analyse(table, fit=study.Fit(bootstrap=0, fixed={"alpha": faulty_ladders.ALPHA}), hold_out=held)
    assert CHECKS["predicts held-out runs"](fixed).status == "pass"


def test_scatter_without_seeds_is_not_called_noise():
    """A law of the wrong shape: its misfit is all that its scatter is known by."""
    sizes = np.geomspace(1e6, 1e9, 8)
    table = pd.DataFrame({"tokens": sizes, "loss": 2.2 + 60 * sizes**-0.3})
    found = analysis.analyse(table, fit=study.Fit(law="power", bootstrap=0))
    check = CHECKS["predicts held-out runs"](found)
    assert check.status == "warn" and "scatter about the law may explain it" in check.detail


def test_losses_that_are_not_finite_are_not_passed_over():
    table = faulty_ladders.clean(0)
    assert CHECKS["every run finished"](analysis.analyse(table, fit=QUICK)).status == "pass"
    table.loc[table.index % 6 == 0, "loss"] = np.inf
    found = analysis.analyse(table, fit=QUICK)
    assert found.verdict == "caution" and any("diverged" in reason for reason in found.reasons)


def spiked(curves, run_id):
    rows = curves.index[curves.run_id == run_id]
    curves.loc[rows[-8:-4], "loss"] *= 1.5
    return curves


def test_learning_curves_are_looked_at():
    table = simulated.ladder(rates=(0.02,), seeds=(0, 1))
    curves, odd = simulated.curves(table), table.run_id[20]
    sound = analysis.analyse(table, curves, fit=QUICK)
    for name in ("learning curves collapse", "no spikes", "no overfitting"):
        assert CHECKS[name](sound).status == "pass"
    found = CHECKS["no spikes"](analysis.analyse(table, spiked(curves.copy(), odd), fit=QUICK))
    assert (found.status, found.runs) == ("warn", (odd,))
    odd_batch = curves.copy()
    odd_batch.loc[odd_batch.index[odd_batch.run_id == odd][-6], "loss"] *= 1.5
    assert CHECKS["no spikes"](analysis.analyse(table, odd_batch, fit=QUICK)).status == "pass", "back at once"
    late = curves.copy()
    early = (late.run_id == odd) & (late.step < 0.75 * late.step[late.run_id == odd].max())
    late.loc[early, "loss"] *= 1.25
    found = CHECKS["learning curves collapse"](analysis.analyse(table, late, fit=QUICK))
    assert (found.status, found.runs) == ("warn", (odd,))
    memorized = curves.assign(loss=curves.loss * 0.8)
    assert CHECKS["no overfitting"](analysis.analyse(table, memorized, fit=QUICK)).status == "warn"
