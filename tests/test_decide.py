"""From results to decisions: recommend, suggest, reach and run_until on simulated ladders whose law is known."""

import contextlib
import dataclasses
import io
import pathlib
import re
import warnings

import numpy as np
import pytest
from ladder import run_here, write_study

import scaling_jax as sj
from scaling_jax import decide, decisions, fitting
from scaling_jax.decide.shapes import Path
from scaling_jax.decide.source import study_source
from scaling_jax.models.family import Spec
from scaling_jax.study_file import load_study

LAW = fitting.published["besiroglu2024"]
PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "decisions.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", PAGE, re.DOTALL)  # code, what it prints


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Figures take longer than everything else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling_jax.api.write_report", lambda path: "")
        yield


def simulate(folder: pathlib.Path, study: sj.Study) -> sj.Results:
    return sj.run(study, folder, engine="simulate", verbose=False)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The names of docs/decisions.md, and what each block of its code prints."""
    names, said = {}, []
    with contextlib.chdir(tmp_path_factory.mktemp("decide")):
        for code, _ in BLOCKS:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, "docs/decisions.md", "exec"), names)
            said.append(out.getvalue())
    return names, said


@pytest.fixture(scope="module")
def results(page):
    """40 runs up to 9e19 FLOPs of the law of Besiroglu et al. 2024."""
    return page[0]["results"]


def test_the_page_prints_what_it_says(page):
    """Up to numbers, which differ in the last digits between machines."""
    for (_, expected), found in zip(BLOCKS, page[1]):
        assert [re.split(r"\d", line)[0] for line in found.split("\n")] == [
            re.split(r"\d", line)[0] for line in expected.split("\n")
        ]


@pytest.fixture(scope="module")
def big(results):
    """The recommendation at 1e24 FLOPs."""
    return sj.recommend(results, 1e24, inference_tokens=1e13, chip=decide.find_chip("H100", price=2.0))


def test_the_recommendation_holds_the_truth(big):
    best, truth = big.optimum, LAW.frontier(1e24)
    assert best.N_interval[0] < float(truth.N) < best.N_interval[1]
    assert best.run_interval[0] < float(LAW.predict({"N": best.N, "D": best.D})) < best.run_interval[1]
    for factor, rise in big.flatness.items():
        n = best.N * factor
        true = float(LAW.predict({"N": n, "D": 1e24 / 6 / n}) / LAW.predict({"N": best.N, "D": best.D})) - 1
        assert rise == pytest.approx(true, abs=2e-3) and rise > 0
    assert big.chip.hours(1e24) == pytest.approx(1e24 / (0.4 * 989e12 * 3600))
    assert "702k H100-hours at 40% of peak, $1.40M" in big.text() and "2x off in N" in big.text()


def test_headline_frontier_and_recommendation_are_one(results):
    """N*, D*, the loss and every interval, whoever shows them."""
    for C in results.analysis.targets:
        row = results.analysis.frontier[results.analysis.frontier.C == C].iloc[0]
        best = sj.recommend(results, C).optimum
        assert (best.N, best.D, best.loss) == pytest.approx((row.N, row.D, row.loss), rel=1e-9)
        assert best.N_interval == pytest.approx((row.N_low, row.N_high), rel=1e-9)
        assert best.run_interval == pytest.approx((row.loss_low, row.loss_high), rel=1e-9)
        there = results.analysis.forecast.predict({"N": row.N, "D": row.D})
        ends = (float(there.value), float(there.low), float(there.high))
        assert (row.loss, row.loss_low, row.loss_high) == pytest.approx(ends, rel=1e-9)
        law = float(results.analysis.fit.predict({"N": row.N, "D": row.D}))
        assert row.law_loss == pytest.approx(law, rel=1e-9)  # what the runs are held against
        assert f"{best.loss:.4f}" in sj.recommend(results, C).text()


def test_the_study_it_writes_is_planned_as_recommended(big, tmp_path):
    path = tmp_path / "big.py"
    path.write_text(study_source(big.study, "One run."))
    study = load_study(path)
    assert study == big.study
    plan = sj.plan(study)
    (pack,) = plan.packs
    assert "One scale and one budget" in str(plan)
    assert all("distinct tokens" in warning for warning in plan.warnings)  # what a ladder lacks, a run does not
    (run,) = pack.runs
    assert run.flops == pytest.approx(1e24, rel=1e-3)
    assert pack.counts.params_matmul == pytest.approx(big.optimum.N, rel=0.05) and pack.width % 128 == 0
    assert pack.depth == pytest.approx(pack.width / 64, abs=1)
    # Far beyond the ladder the batch grows as D^.571 in powers of two, and the rate as its square root.
    grown = run.tokens / 6.4e10
    assert pack.batch_size == 128 * 2 ** round(np.log2(grown**0.571)) > 128
    assert pack.lanes[0].learning_rate == pytest.approx(0.004 * np.sqrt(pack.batch_size / 128), rel=1e-3)
    assert study.schedule.warmup_steps == pytest.approx(0.01 * run.steps, abs=1)


def test_a_run_near_the_ladder_keeps_its_recipe(results):
    made = sj.recommend(results, 3e20).study
    assert made.optimizer == results.study.optimizer and made.schedule == results.study.schedule


def test_inference_costs_least_on_the_contour_of_the_loss(big):
    """Against a minimum over a fine grid of the true law: the same tokens per parameter to 15%, and its first order."""
    found = big.inference
    surface = decide.Surface.published("besiroglu2024")
    exact = decide.recommend(surface, 1e24, inference_tokens=1e13).inference
    assert abs(np.log(found.N / exact.N)) < 0.3 and found.flops == pytest.approx(exact.flops, rel=0.1)
    goal = float(LAW.frontier(1e24).loss)
    assert float(LAW.predict({"N": exact.N, "D": exact.D})) == pytest.approx(goal, rel=1e-6)
    totals = []
    for factor in (0.9, 1.0, 1.1):
        p, n = LAW.params, exact.N * factor
        d = ((goal - p["E"] - p["A"] / n ** p["alpha"]) / p["B"]) ** (-1 / p["beta"])
        totals.append(6 * n * d + 2 * n * 1e13)
    assert totals[1] < totals[0] and totals[1] < totals[2] and exact.flops < exact.flops_at_optimum
    capped = decide.recommend(surface, 1e24, inference_tokens=1e13, max_params=8e9)
    assert "no smaller model of the same loss costs less" in " ".join(capped.text().split())


def test_caps(results):
    capped = sj.recommend(results, 1e24, max_params=1e10)
    assert 0.999e10 < capped.optimum.N < 1.001e10 and capped.shape.N <= 1.001e10
    assert capped.optimum.loss > sj.recommend(results, 1e24).optimum.loss
    small = sj.recommend(results, 1e24, max_memory=80e9).shape.N
    assert 5e8 < small < 5e9  # 16 bytes a parameter, and activations of 128 x 1024 tokens
    with pytest.raises(sj.UserError, match="do not hold even the smallest scale"):
        sj.recommend(results, 1e24, max_memory=1e6)
    none = sj.recommend(results, 1e24, max_params=1e4)
    assert none.shape is None and "no model: the study's family has no scale of at most 10.0k parameters" in none.text()


def test_the_model_s_own_run_has_its_loss(results):
    found = sj.recommend(results, 1e24)
    low, high = found.run_interval
    assert low < found.run_loss < high and f"loss {found.run_loss:.4f}  [{low:.4f}, {high:.4f}]" in found.text()


def test_what_is_asked_far_out_is_answered_without_warnings(results):
    with warnings.catch_warnings():
        warnings.simplefilter("error", fitting.FitWarning)
        found = sj.recommend(results, 1e25, inference_tokens=1e13)
        assert ",000 times the largest run" in found.text()
        assert sj.reach(results, 2.0).optimum is not None


def test_a_metric_that_rises_is_reached_as_its_shortfall_on_every_validation_set(results):
    table = results.table.assign(accuracy_news=lambda t: 1 - t.loss / 10)
    analysis = sj.analyse(table, fit=dataclasses.replace(results.study.fit, metric="accuracy_news"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decisions, "metric_analysis", lambda *_: analysis)
        found = sj.reach(results, 0.75, metric="accuracy_news")
    assert found.goal == 0.25 and found.optimum.loss == pytest.approx(0.25, rel=1e-3)
    with pytest.raises(sj.UserError, match="no column 'losses'; did you mean loss"):
        sj.reach(results, 1.0, metric="losses")


def test_the_plan_s_estimate_takes_a_study_with_seeds_by_scale(results):
    spec = decisions._spec(results)
    seeds = dataclasses.replace(results.study.ladder, seeds=(2, 2, 1, 1, 1))
    study = dataclasses.replace(results.study, ladder=seeds)
    surface = decide.Surface.of(results.analysis)
    found = decide.recommend(surface, 1e24, analysis=results.analysis, study=study, spec=spec, max_memory=80e9)
    assert found.shape.N == sj.recommend(results, 1e24, max_memory=80e9).shape.N


def test_memory_is_capped_by_the_law_of_the_runs_where_they_have_one(results):
    """Report and recommendation name one model; without a law the plan's estimate answers, and both say which it is."""
    found, table = results.analysis, results.analysis.runs.table
    measured = dataclasses.replace(
        found,
        runs=dataclasses.replace(found.runs, table=table.assign(wall_s=1.0, memory_bytes=30.0 * table.N)),
        settings=dataclasses.replace(found.settings, max_memory=12e9),
    )
    measured.__dict__["forecast"] = found.forecast
    options = {"study": results.study, "spec": decisions._spec(results), "max_memory": 12e9}
    (target, *_), surface = found.targets, decide.Surface.of(measured)
    best = decide.recommend(surface, target, analysis=measured, **options)
    assert pytest.approx(4e8, rel=0.02) == best.optimum.N == measured.budgets[0][-1].N
    assert "by the memory that runs took" in best.text() and "times the most of any run" not in best.text()
    far = decide.recommend(surface, target, analysis=measured, **(options | {"max_memory": 1e12}))
    assert "1.00TB hold" in far.text() and "times the most of any run" in " ".join(far.text().split())
    farther = dataclasses.replace(measured, settings=dataclasses.replace(found.settings, max_memory=1e12))
    farther.__dict__["forecast"] = found.forecast
    farther = decide.planned(farther, results.study, options["spec"])
    farther.__dict__["forecast"] = found.forecast
    assert farther.budgets[0][-1].N == far.optimum.N < 30e9 and "plan's estimate" in farther.budgets[0][-1].kind
    single = dataclasses.replace(results.study, optimizer=sj.Optimizer(learning_rates=(0.004,), batch_size=1))
    more = decide.recommend(surface, 1e24, analysis=found, **(options | {"study": single}))
    assert more.optimum.N >= decide.recommend(surface, 1e24, analysis=found, **options).optimum.N
    planned = decide.recommend(surface, target, analysis=found, **options)
    assert "by the plan's estimate" in planned.text() and planned.optimum.N != best.optimum.N


def test_reach_inverts_recommend(results, big):
    there = sj.reach(results, sj.recommend(results, 1e21).optimum.loss, chip=big.chip)
    assert 0.98e21 < there.optimum.C < 1.02e21 and there.C_interval[0] < 1e21 < there.C_interval[1]
    assert "to be sure" in there.text()
    never = sj.reach(results, 1.0)
    assert never.optimum is None and "below the floor of every law" in never.text()
    assert "every law (1.817)," in decide.reach(decide.Surface.published("besiroglu2024"), 1.0).text()
    published = decide.reach(decide.Surface.published("besiroglu2024"), 2.0)
    assert float(LAW.frontier(published.optimum.C).loss) == pytest.approx(2.0, abs=1e-4)


def test_with_no_answer_it_names_no_model(results, tmp_path):
    """All runs on D = 20 N."""
    line = dataclasses.replace(results.study, budgets=sj.Budgets(tokens_per_param=(20.0,)), seeds=(0, 1))
    found = sj.recommend(simulate(tmp_path / "w", line), 1e22)
    assert not found.answer and found.study is None and found.shape is None
    assert found.text().startswith("no answer for 1e+22 FLOPs") and "instead: " in found.text()
    assert "D*" not in found.text() and "width" not in found.text()
    back = sj.reach(sj.load(tmp_path / "w"), 2.0).text()
    assert back.startswith("verdict: no answer; no run is known to reach loss 2") and "instead: " in back
    few = dataclasses.replace(
        results.study, ladder=sj.Ladder(widths=(256, 384), depths=(4,)), budgets=sj.Budgets(tokens=(1e9,))
    )
    unfitted = sj.reach(simulate(tmp_path / "few", few), 2.0).text()
    assert unfitted.startswith("verdict: no answer; no run is known") and "instead: run at least 3 scales" in unfitted
    with pytest.raises(sj.UserError, match="run at least 3 scales with 3 budgets each first"):
        sj.suggest(sj.load(tmp_path / "few"), 1e19)


def test_shapes_follow_the_ladder_and_the_family(results):
    deep = dataclasses.replace(results.study, ladder=sj.Ladder(widths=(256, 1024), depths=(4, 8)))
    path = Path.of(deep, Spec("tokens", 256, 1024))
    assert path.slope == pytest.approx(0.5) and path.shape(4096).depth == 16
    flat = Path.of(dataclasses.replace(results.study, ladder=sj.Ladder(widths=(256, 512), depths=(2,))), path.spec)
    assert {flat.shape(w).depth for w in (128, 512, 4096)} == {2} and flat.shape(100) is None
    for N in (1e7, 1e9, 1e11):
        assert abs(np.log(path.nearest(N).N / N)) < 0.25


@pytest.fixture(scope="module")
def next_runs(results):
    return sj.suggest(results, 2e20, target_flops=1e22)


def test_suggested_runs_are_trainable_and_within_the_budget(results, next_runs, tmp_path):
    found = next_runs.suggestion
    assert not found.stop and found.cost <= 2e20 and found.after < 0.9 * found.before
    path = tmp_path / "grown.py"
    path.write_text(study_source(next_runs.study, "Grown."))
    before, grown = sj.plan(results.study), sj.plan(load_study(path))
    new = {(run.scale, run.tokens) for run in grown.runs} - {(run.scale, run.tokens) for run in before.runs}
    assert new == {(f"w{w}-d{d}", int(t)) for w, d, t in next_runs.points}
    cost = sum(p.trained_flops for p in grown.packs) - sum(p.trained_flops for p in before.packs)
    assert cost == pytest.approx(found.cost, rel=0.02)  # what branches off a trunk costs its extension
    assert next_runs.flag in f"--set 'budgets.extra={grown.study.budgets.extra!r}'"


def test_the_grown_study_runs_in_the_same_workdir_until_the_interval(results, tmp_path):
    place = tmp_path / "w"
    first = simulate(place, results.study)
    half = sj.suggest(first, 2e20, target_flops=1e22).suggestion.before
    options = {"target_flops": 1e22, "engine": "simulate", "verbose": False}
    grown = sj.run_until(results.study, place, 0.85 * half, 1e22, **options)
    assert set(first.table.run_id) < set(grown.table.run_id)
    after = sj.suggest(grown, 1e22, target_flops=1e22).suggestion
    assert after.before < half and (after.before <= 0.85 * half or after.stop)
    again = sj.run_until(results.study, place, 0.99, 1e22, **options)  # known well enough: what was grown stays
    assert set(again.table.run_id) == set(grown.table.run_id)


def test_a_family_of_the_study_file_itself_cannot_be_written(next_runs):
    @dataclasses.dataclass(frozen=True)
    class Mine(sj.models.Transformer):
        pass

    with pytest.raises(sj.UserError, match=r"Mine is defined in .* cannot import"):
        study_source(dataclasses.replace(next_runs.study, family=Mine()), "")


def test_commands(results, tmp_path):
    flags = ("--budget_flops=2e20", "--target_flops=1e22", f"--apply={tmp_path}/new/g.py")
    code, out, err = run_here("suggest", f"--workdir={results.path}", *flags)
    assert (code, err) == (0, "") and f"--study={tmp_path}/new/g.py" in out and "then +-" in out
    assert f"wrote {tmp_path}/new/g.py in the new folder {tmp_path}/new; next: " in out
    flags = ("--budget_flops=1e13", "--target_flops=1e22", f"--apply={tmp_path}/none/g.py")
    code, out, _ = run_here("suggest", f"--workdir={results.path}", *flags)
    assert code == 2 or "none/g.py was not written" in out
    assert not (tmp_path / "none").exists()
    code, out, _ = run_here("recommend", f"--workdir={results.path}", "--target_flops=1e22", f"--out={tmp_path}/r.py")
    assert code == 0 and "N* " in out and load_study(tmp_path / "r.py").budgets.tokens
    code, out, _ = run_here("recommend", f"--workdir={results.path}", "--target_metric=bits_per_byte=2")
    assert code == 2  # a simulated study has no such column
    code, out, _ = run_here("recommend", "--published=besiroglu2024", "--device_hours=1e6", "--chip=v5p")
    assert code == 0 and "1.00M TPU v5p-hours" in out
    code, out, _ = run_here("recommend", "--published=besiroglu2024", "--target_loss=1.5")
    assert code == 0 and "no run is known to reach loss 1.5" in out


@pytest.mark.slow
def test_a_trained_run_ends_in_its_predicted_interval(tmp_path):
    """A ladder of tiny models, the recommended run at twice its compute, and its loss."""
    tiny = load_study(write_study(tmp_path))
    ladder = dataclasses.replace(
        tiny,
        ladder=sj.Ladder(widths=(8, 16, 24), depths=(1,)),
        budgets=dataclasses.replace(tiny.budgets, tokens=tuple(64.0 * s for s in (120, 240, 480, 960))),
        optimizer=dataclasses.replace(tiny.optimizer, learning_rates=(0.02,)),
        fit=sj.study.Fit(bootstrap=20, law="chinchilla"),
    )
    results = sj.run(ladder, tmp_path / "w", verbose=False)
    surface = decide.Surface.of(results.analysis)
    C = 2 * surface.largest
    # Tiny models have no verdict to trust; the run is asked for all the same.
    found = decide.recommend(surface, C, study=ladder, spec=decisions._spec(results), analysis=_trusting(results))
    assert found.study is not None, found.text()
    (run,) = sj.run(found.study, tmp_path / "big", verbose=False).table.itertuples()
    low, high = found.run_interval
    assert low <= run.loss <= high and run.flops == pytest.approx(C, rel=0.02)


def _trusting(results):
    """The analysis without its verdict."""
    found = dataclasses.replace(results.analysis)
    found.__dict__["_verdict"] = ("trust", [])
    return found


def test_a_loop_that_runs_out_says_where_it_stands(results, tmp_path, monkeypatch):
    """After the first round what is left buys nothing: the interval at the target stands before the reason."""
    real, said = decisions.suggest, []

    def suggest(found, budget, **options):
        if said:
            raise sj.UserError("what is left buys no run")
        return real(found, budget, **options)

    monkeypatch.setattr(decisions, "suggest", suggest)
    monkeypatch.setattr(decisions, "say", said.append)
    sj.run_until(results.study, tmp_path, 0.001, 2e20, target_flops=1e22, engine="simulate", verbose=False)
    assert re.fullmatch(
        r"stop: the interval at the target is \+-\d\.\d\d%, and \S+ of 2e\+20 FLOPs are left: what is left buys no run",
        said[-1],
    )
