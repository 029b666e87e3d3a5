"""From a results table to an Analysis: what enters a fit, what it predicts, and what it says about itself."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import simulated

from scaling_jax import analysis, study
from scaling_jax.analysis import checks, cost
from scaling_jax.analysis.runs import same_budget
from scaling_jax.errors import UserError


def analyse(table, **fit):
    """Without intervals, which take their time; the most expensive 60% of the largest run's FLOPs are held out."""
    settings = study.Fit(**{"bootstrap": 0, **fit})
    return analysis.analyse(table, fit=settings, hold_out=study.HoldOut(cut=0.4), name="simulated")


@pytest.fixture(scope="module")
def exact():
    """Analysis of a ladder without noise."""
    return analyse(simulated.ladder(noise=0.0))


def check(found, name):
    return checks.CHECKS[name](found)


def test_the_law_behind_the_table_comes_back(exact):
    for name, value in simulated.TRUTH.items():
        assert exact.fit.params[name] == pytest.approx(value, rel=1e-5)
    params = exact.params.set_index("name").value
    assert params["a"] == pytest.approx(0.34 / 0.66, rel=1e-5)
    assert exact.hold_out.rmsle < 1e-6


def test_the_frontier_is_the_cheapest_split_of_exact_flops(exact):
    """Against a search over real widths: tokens are what the budget buys at the width's own FLOPs per token."""
    width = np.geomspace(8, 4000, 200_001)
    size = simulated.matmul_params(width)
    for row in exact.frontier.itertuples():
        tokens = row.C / simulated.flops_per_token(width)
        losses = simulated.loss(size, tokens)
        best = losses.argmin()
        assert row.loss == pytest.approx(losses[best], rel=1e-3)
        assert pytest.approx(size[best], rel=0.06) == row.N
        assert pytest.approx(tokens[best], rel=0.06) == row.D
    largest = simulated.ladder().flops.max()
    np.testing.assert_allclose(exact.frontier.C.iloc[-3:], [largest, 10 * largest, 100 * largest])
    np.testing.assert_allclose(exact.frontier.beyond, exact.frontier.C / largest)


def test_cost_extrapolates_exact_flops():
    found = cost.flops_cost(analyse(simulated.ladder()).runs.chosen)
    for width in (*simulated.WIDTHS, 256, 512):
        n = simulated.matmul_params(width)
        assert found(n, 1e6) == pytest.approx(1e6 * simulated.flops_per_token(width), rel=0.02)


def test_cost_of_6nd_is_6nd_and_of_no_law_is_none():
    runs = pd.DataFrame({"N": [1e3, 1e4, 1e5], "D": [1e6, 2e6, 3e6]})
    assert cost.flops_cost(runs.assign(C=6 * runs.N * runs.D))(7.0, 11.0) == pytest.approx(462.0)
    assert cost.flops_cost(runs.assign(C=6 * runs.N * runs.D * [1.5, 0.5, 1.5])) is None


def test_the_best_rate_of_each_budget_is_fitted():
    table = simulated.ladder(seeds=(0, 1), rates=(0.005, 0.01, 0.02), noise=5e-3)
    chosen = analyse(table).runs.chosen
    means = table.groupby(["scale", "tokens", "lr"]).loss.apply(lambda y: np.log(y).mean()).reset_index()
    best = means.loc[means.groupby(["scale", "tokens"]).loss.idxmin()]
    expected = set(table.merge(best[["scale", "tokens", "lr"]]).run_id)
    assert set(chosen.run_id) == expected
    assert len(chosen) == 50


def test_noise_is_the_spread_over_seeds():
    sigma = 4e-3
    table = simulated.ladder(seeds=range(8), rates=(0.02,), noise=sigma)
    runs = analyse(table).runs
    by_budget = np.log(table.loss).groupby([table.scale, table.tokens])
    assert runs.noise == pytest.approx(np.sqrt(by_budget.var(ddof=1).mean()), rel=1e-9)
    assert runs.noise == pytest.approx(sigma, rel=0.2)
    assert analyse(simulated.ladder()).runs.noise is None


def test_hold_out_keeps_the_expensive_runs_out_and_scores_them():
    table = simulated.ladder(noise=3e-3)
    plain = analyse(table).hold_out
    cut = 0.4 * table.flops.max()
    assert set(plain.rows.run_id) == set(table[(table.flops >= cut) & (table.lr == 0.02)].run_id)
    # What is held out has no say in the fit that predicts it.
    table.loc[table.flops >= cut, "loss"] *= 1.05
    raised = analyse(table).hold_out
    assert raised.fitted.fit.params == plain.fitted.fit.params
    log_error = np.log(raised.rows.y / raised.rows.predicted)
    assert raised.rmsle == pytest.approx(np.sqrt((log_error**2).mean()), rel=1e-12)
    assert raised.bias == pytest.approx(plain.bias + np.log(1.05), rel=1e-9)
    assert abs(raised.worst) == (raised.rows.y / raised.rows.predicted - 1).abs().max()


def test_what_seeds_scatter_is_no_error_of_the_prediction():
    """Held-out runs of three seeds, of which two are 6% off to either side: the mean is predicted."""
    table = simulated.ladder(noise=0.0, seeds=(0, 1, 2), rates=(0.02,))
    largest = table.flops > 8e12
    table.loc[largest & (table.seed == 0), "loss"] *= 1.06
    table.loc[largest & (table.seed == 1), "loss"] /= 1.06
    found = analyse(table)
    assert found.hold_out.rmsle < 1e-6 and abs(found.hold_out.worst) < 1e-6
    assert found.hold_out.rows.error.abs().max() == pytest.approx(0.06, rel=1e-3)
    assert check(found, "predicts held-out runs").status == "pass"


def test_a_law_that_fails_on_the_largest_runs_fails_the_check():
    table = simulated.ladder()
    good = check(analyse(table), "predicts held-out runs")
    table.loc[table.flops > 8e12, "loss"] *= 1.05
    bad = check(analyse(table), "predicts held-out runs")
    assert (good.status, bad.status) == ("pass", "fail")
    assert "held-out runs, worst error +" in bad.detail


def test_diverged_and_failed_runs_stay_out_loudly():
    table = simulated.ladder()
    before = analyse(table[table.run_id != table.run_id[9]])
    table.loc[9, ["status", "loss"]] = ["diverged", 1e-3]
    after = analyse(table)
    assert after.fit.params == before.fit.params
    assert dict(after.runs.counts) == {"done": 49, "diverged": 1, "failed": 0}
    finished = check(after, "every run finished")
    assert finished.status == "pass" and finished.runs == (table.run_id[9],)  # another rate of that budget finished
    assert f"{table.scale[9]} rate {table.lr[9]:g}" in finished.detail


def test_a_budget_without_any_finished_run_is_a_hole():
    table = simulated.ladder(rates=(0.02,))
    table.loc[9, ["status", "loss"]] = ["failed", np.nan]
    finished = check(analyse(table), "every run finished")
    assert finished.status == "warn" and "1 budget of a scale without any finished run" in finished.detail


def test_rates_at_the_edge_are_said_and_a_diverged_rate_brackets():
    table = simulated.ladder(rates=(0.01, 0.02, 0.04))
    assert "0.04 is the highest of 3 rates" in check(analyse(table), "tuning is bracketed").detail
    table.loc[table.lr == 0.04, ["status", "loss"]] = ["diverged", np.nan]
    table.loc[table.lr == 0.02, "loss"] /= 1.02
    assert check(analyse(table), "tuning is bracketed").status == "pass"
    assert check(analyse(table[table.lr == 0.02]), "tuning is bracketed").status == "cannot tell"


def test_n_and_d_on_one_line_fail_the_check():
    line = [
        simulated.ladder(widths=(w,), flops=(), tokens=(20.0 * simulated.matmul_params(w),)) for w in range(40, 200, 8)
    ]
    table = pd.concat(line, ignore_index=True)
    found = check(analyse(table), "N and D vary apart")
    assert found.status == "fail" and found.decisive and "1.00" in found.detail
    assert check(analyse(simulated.ladder()), "N and D vary apart").status == "pass"


def test_bigger_is_better_only_where_it_saw_as_many_tokens():
    table = simulated.ladder(flops=(), tokens=(2e6, 8e6, 3e7))
    assert check(analyse(table), "bigger is better").status == "pass"
    worse = table.copy()
    worse.loc[(worse.width == 64) & (worse.tokens > 2e7), "loss"] *= 1.2
    found = check(analyse(worse), "bigger is better")
    assert found.status == "fail" and "w64-d2" in found.detail
    fewer = worse[(worse.width != 64) | (worse.tokens < 2e7)]
    assert check(analyse(fewer), "bigger is better").status == "cannot tell"


def test_isoflop_optima_are_near_the_law_and_need_shared_budgets(exact):
    found = exact.isoflop.found
    np.testing.assert_allclose(found.optima.C, simulated.FLOPS, rtol=0.01)
    best = [exact.fit.frontier([c], cost=exact.cost).N[0] for c in found.optima.C]
    np.testing.assert_allclose(found.optima.N, best, rtol=0.15)
    assert not exact.isoflop.interpolated
    alone = analyse(simulated.ladder(flops=(), tokens=(2e6, 7e6))).isoflop
    assert alone.found is None and "reach of 3 scales" in alone.why


def test_isoflop_curves_between_a_scales_own_budgets_lie_on_the_law():
    table = simulated.ladder(noise=0.0, flops=(), tokens=np.geomspace(5e5, 2e8, 9), rates=(0.02,))
    found = analyse(table).isoflop
    assert found.interpolated and found.points.groupby("budget").size().min() >= 3
    points = found.points
    np.testing.assert_allclose(points.y, simulated.loss(points.N, points.D), rtol=1e-3)
    width = points.scale.str.extract(r"w(\d+)")[0].astype(int)
    np.testing.assert_allclose(points.D * simulated.flops_per_token(width), points.budget, rtol=1e-6)


def test_budgets_join_what_rounding_parts():
    runs = pd.DataFrame({"C": [1.00e12, 1.01e12, 0.995e12, 3e12, 9e12, 9.05e12]})
    joined = same_budget(runs.C)
    assert joined.round(-6).nunique() == 3
    np.testing.assert_allclose(joined, runs.C, rtol=0.02)
    # A staircase of nearly equal costs is no budget.
    stairs = pd.DataFrame({"C": 1e12 * 1.02 ** np.arange(20)})
    np.testing.assert_allclose(same_budget(stairs.C), stairs.C)


@pytest.mark.slow
def test_intervals_hold_the_truth_and_shrink_with_the_noise():
    def interval(noise, seed):
        table = simulated.ladder(noise=noise, rates=(0.02,), rng_seed=seed)
        found = analyse(table, bootstrap=60)
        assert (found.params.low < found.params.value).all() and (found.params.value < found.params.high).all()
        assert (found.hold_out.rows.low < found.hold_out.rows.high).all()
        return found.frontier.iloc[-1]

    truth = analyse(simulated.ladder(noise=0.0)).frontier.N.iloc[-1]
    noisy, quiet = ([interval(noise, seed) for seed in range(4)] for noise in (4e-3, 1e-3))
    assert sum(row.N_low < truth < row.N_high for row in noisy + quiet) >= 6
    widths = [np.median([np.log(row.N_high / row.N_low) for row in rows]) for rows in (noisy, quiet)]
    assert widths[1] < 0.6 * widths[0]


@pytest.mark.parametrize(
    "change, settings, said",
    [
        (lambda t: t.drop(columns="loss"), {}, "no column 'loss'"),
        (lambda t: t.drop(columns="params_total"), {"params": "params_total"}, "no column 'params_total'"),
        (lambda t: t.assign(dataset_hash=["a"] + ["b"] * (len(t) - 1)), {}, "2 different corpora"),
        (lambda t: t.iloc[:0], {}, "has no run"),
        (lambda t: t.assign(status="fine"), {}, "whose status is not done: 50 fine"),
        (lambda t: t.assign(loss=-t.loss), {}, "its loss is -"),
        (lambda t: t.assign(loss=["high"] * len(t)), {}, "column loss, row 0: 'high' is not a number"),
        (lambda t: t.assign(tokens=-t.tokens), {}, "column tokens, row 0: -"),
        (lambda t: t, {"law": "chinchila"}, "chinchilla"),
        (lambda t: t, {"metric": "perplexity"}, "no column 'perplexity'"),
    ],
)
def test_bad_tables_and_settings_are_one_line(change, settings, said):
    with pytest.raises(UserError, match=said) as caught:
        analyse(change(simulated.ladder()), **settings)
    assert "\n" not in str(caught.value)


def test_too_few_runs_are_an_analysis_without_a_law():
    table = simulated.ladder(widths=(32, 64), flops=(1e12,), tokens=())
    found = analyse(table)
    assert found.fit is None and "2 finished runs" in found.no_fit
    assert found.frontier.empty and found.hold_out is None
    table["status"] = "diverged"
    assert analyse(table).fit is None


def test_any_metric_and_law_of_the_runs():
    table = simulated.ladder(noise=0.0)
    bits = analyse(table, metric="bits_per_byte")
    assert bits.fit.params["E"] == pytest.approx(simulated.TRUTH["E"] / np.log(2), rel=1e-5)
    table["accuracy"] = np.exp(-table.loss)
    found = analyse(table, metric="accuracy", law="power_offset")
    assert set(found.runs.chosen.lr) == {0.02}  # the highest accuracy is the best
    assert found.frontier.empty and found.unit == "samples"
    assert found.metric == "error" and found.y_label == "validation error (1 - accuracy)"
    np.testing.assert_allclose(found.runs.chosen.y, 1 - found.runs.chosen.accuracy)


def test_a_column_of_our_table_that_is_given_for_y_is_the_metric():
    table = simulated.ladder(noise=0.0)
    table["accuracy"] = np.exp(-table.loss)
    curves = pd.DataFrame(
        [(i, s, s, s, v, "trunk") for i, v in zip(table.run_id, table.loss) for s in range(1, 30)],
        columns=["run_id", "step", "tokens", "flops", "loss", "phase"],
    )

    def found(fit, columns):
        return analysis.analyse(table, curves, fit=study.Fit(bootstrap=0, law="power_offset", **fit), columns=columns)

    asked, given = found({"metric": "accuracy"}, None), found({"also": ("bits_per_byte",)}, {"y": "accuracy"})
    assert given.fit.params == asked.fit.params and given.metric == asked.metric == "error"
    assert given.checks == asked.checks
    assert given.also["bits_per_byte"].runs.names["y"] == "bits_per_byte"
    formula = found({"also": ("bits_per_byte",)}, {"y": "2 * loss"})
    assert formula.metric == "2 * loss" and formula.also["bits_per_byte"].runs.names["y"] == "bits_per_byte"
    (gap,) = (check for check in formula.checks if check.name == "no overfitting")
    assert gap.status == "cannot tell"  # its curves are of the loss


@pytest.mark.parametrize("metric, called", [("error", "error"), ("accuracy", "error"), ("macro_f1", "1 - macro F1")])
def test_further_metrics_get_a_law_of_their_own(metric, called):
    table = simulated.ladder(noise=0.0)
    E, lacks = 0.05, 0.05 + 3.0 / table.params_matmul**0.4 + 40.0 / table.tokens**0.45
    table = table.assign(error=lacks, accuracy=1 - lacks, macro_f1=1 - lacks)
    # The other rate is the better one by this metric: each metric chooses its own runs.
    table.loc[table.lr == 0.02, ["error", "accuracy", "macro_f1"]] = [0.9, 0.1, 0.1]
    alone = analyse(table)
    found = analyse(table, also=(metric,))
    assert found.fit.params == alone.fit.params and found.checks == alone.checks
    other = found.also[metric]
    assert other.metric == called and set(other.runs.chosen.lr) == {0.01}
    assert other.fit.params["E"] == pytest.approx(E, rel=1e-4)
    assert other.fit.params["beta"] == pytest.approx(0.45, rel=1e-4)
    assert other.hold_out.rmsle < 1e-6 and len(other.frontier) == len(found.frontier)


def test_a_further_metric_that_cannot_be_fitted_withholds_nothing():
    table = simulated.ladder().assign(error=0.0)
    found = analyse(table, also=("error", "f1"))
    assert found.fit is not None and not found.also
    assert found.notes[0].startswith("error is not fitted: run") and "not a positive number" in found.notes[0]
    assert "no column 'f1'" in found.notes[1]


REPEATS = "no repeated data"
UNIQUE = 4e6


def repeated(unique=UNIQUE, worth=3.0, **kwargs):
    """A ladder on so many unique tokens, where repeats are worth less than new ones (arXiv:2305.16264, eq. 5)."""
    table = simulated.ladder(noise=0.0, flops=(), tokens=np.geomspace(5e5, 6.4e7, 8), rates=(0.02,), **kwargs)
    new = np.minimum(table.tokens, unique)
    effective = new * (1 - worth * np.expm1(-np.maximum(table.tokens / unique - 1, 0) / worth))
    loss = simulated.loss(table.params_matmul, effective)
    return table.assign(loss=loss, unique_tokens=unique, epochs=table.tokens / unique)


def test_repeated_data_are_flagged():
    assert check(analyse(repeated(unique=1e9)), REPEATS).status == "pass"
    few = check(analyse(repeated(unique=2e7)), REPEATS)
    many = check(analyse(repeated()), REPEATS)
    assert (few.status, many.status) == ("cannot tell", "fail")
    assert "10 runs of 40 go through the data up to 3.2 times" in few.detail
    assert "up to 16 times" in many.detail and "fit.law=data_constrained" in many.detail


@pytest.mark.slow
def test_a_law_that_weighs_repeats_is_chosen_where_repeats_matter():
    found = analyse(repeated(), law="auto")
    assert found.fit.law.name == "data_constrained" and check(found, REPEATS).status == "pass"
    assert found.fit.params["R_D*"] == pytest.approx(3.0, rel=0.05)
    assert found.hold_out.rmsle < 2e-3
    # The frontier knows that there are no more than so many unique tokens.
    last = found.frontier.iloc[-1]
    inputs = {"N": np.array([last.N]), "D": np.array([last.D]), "U": np.array([UNIQUE])}
    assert last.loss == pytest.approx(found.fit.predict(inputs)[0], rel=1e-9)
    # Where it would say what a plainer law says, the plainer one is taken.
    assert analyse(repeated(unique=3e7, worth=1e6), law="auto").fit.law.name == "chinchilla"


def test_fine_tuned_runs_are_not_mixed_with_fresh_ones_but_by_their_law():
    """Every run enters beside the fresh one of its size and D, and the tokens that the start was worth come back."""
    fresh, k, alpha_T, beta_T = simulated.ladder(noise=0.0, rates=(0.02,)), 400.0, 0.4, 0.3
    worth = k * fresh.tokens**alpha_T * fresh.params_matmul**beta_T
    tuned = fresh.assign(
        run_id="t" + fresh.run_id, trunk_id="t" + fresh.trunk_id, pretrain_tokens=5e6,
        loss=simulated.loss(fresh.params_matmul, fresh.tokens + worth),
    )  # fmt: skip
    both = pd.concat([fresh.assign(pretrain_tokens=0.0), tuned], ignore_index=True)
    with pytest.raises(UserError, match="fit one kind at a time with --where='pretrain_tokens > 0'"):
        analyse(both)
    found = analyse(both, law="transfer", inputs={"S": "D+5e6"})
    assert found.used == len(both) and found.forecast is None
    for name, value in (*simulated.TRUTH.items(), ("k", k), ("alpha_T", alpha_T), ("beta_T", beta_T)):
        assert found.fit.params[name] == pytest.approx(value, rel=1e-4), name
    assert "w16-d2 from 5.00M" in set(found.runs.scales.scale) and len(found.runs.scales) == 2 * len(simulated.WIDTHS)
    alone = analysis.analyse(both, fit=study.Fit(bootstrap=0), columns=analysis.Columns(where=("pretrain_tokens > 0",)))
    assert alone.used == len(tuned)
    assert f"{len(tuned)} runs start from models of 5.00M tokens, which D and C do not count" in alone.notes


@pytest.mark.slow
def test_no_training_library_is_imported():
    code = (
        "import sys, scaling_jax.analysis, scaling_jax.report; print(*sorted(m.partition('.')[0] for m in sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "tensorflow"} & set(loaded)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "chinchilla"}, "fit='chinchilla': give scaling_jax.study.Fit"),
        ({"hold_out": 3}, "hold_out=3: give scaling_jax.study.HoldOut"),
        ({"columns": "N=params"}, "columns='N=params': give a dict"),
        ({"columns": {"N": 1}}, "columns={'N': 1}: give a dict of names"),
    ],
)
def test_settings_of_another_kind_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        analysis.analyse(pd.DataFrame({"N": [1e7], "D": [1e9], "loss": [3.0]}), **settings)
