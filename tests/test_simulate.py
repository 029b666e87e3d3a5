"""Studies whose losses are drawn from a law: found again by the fit, and marked everywhere."""

import pathlib

import numpy as np
import pytest
from ladder import run_here

import scaling_jax as sj
from scaling_jax import fitting
from scaling_jax.charts import figure_of
from scaling_jax.report import figures, html, text

EXPERIMENT = pathlib.Path(__file__).parents[1] / "experiments" / "simulated.py"
GRID, QUIET = "budgets.tokens=(1e10,1e11,1e12)", ("simulation.trunk_noise=0", "simulation.run_noise=0")
SMALL = ("ladder.widths=(512,1024,2048,4096)", "budgets.flops=(1e20,1e22,1e24)", "fit.bootstrap=0")


def study(*changes: str) -> sj.Study:
    return sj.load_study(EXPERIMENT, [*SMALL, *changes], need_source=False)


def simulate(folder, *changes: str, **settings) -> sj.Results:
    return sj.run(study(*changes), folder, engine="simulate", verbose=False, **settings)


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Figures take longer than everything else here; one test draws them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling_jax.api.write_report", lambda path: "")
        yield patch


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A ladder without noise."""
    return simulate(tmp_path_factory.mktemp("exact") / "w", GRID, *QUIET)


def test_losses_are_those_of_the_law(exact):
    table, law = exact.table, fitting.published["besiroglu2024"]
    expected = law.predict({"N": table.params_matmul, "D": table.tokens})
    np.testing.assert_allclose(table.loss, expected, rtol=1e-12)
    fit = exact.analysis.fit
    for name, value in law.params.items():
        assert fit.params[name] == pytest.approx(value, rel=1e-3), name


def test_curves_end_at_the_budget_on_the_law(exact):
    curves = exact.curves
    for run in exact.table.itertuples():
        curve = curves[curves.run_id == run.run_id]
        assert curve.step.iloc[-1] == run.steps and curve.step.is_monotonic_increasing
        assert set(curve.phase) == {"trunk", "branch"}
        assert curve.loss.iloc[-1] == pytest.approx(run.loss, rel=0.02)
        assert curve.loss[curve.phase == "trunk"].iloc[-1] > run.loss * 1.01


def test_marked_everywhere(exact):
    assert set(exact.table.simulated) == {"besiroglu2024"} and set(exact.table.device) == {"simulated"}
    assert exact.table.dataset_hash.str.startswith("simulated-").all()
    assert exact.analysis.name == "simulated (SIMULATED from besiroglu2024)"
    few = sj.analyse(exact.table.head(4))  # too few for a law: one figure and a short page
    drawn = figures.charts(few)
    assert {chart.note for chart in drawn.values()} == {"SIMULATED from besiroglu2024"}
    assert figure_of(drawn["frontier"]).get_suptitle() == "SIMULATED from besiroglu2024"
    assert "<h1>runs (SIMULATED from besiroglu2024)</h1>" in html.page(few, {})
    assert "SIMULATED from besiroglu2024" in text.summary(few)


def test_seeds_share_their_trunk_s_noise_and_nothing_else(tmp_path):
    noise = ("simulation.trunk_noise=0.01", "simulation.run_noise=0.001")
    table = simulate(tmp_path / "w", GRID, "seeds=(0,1,2,3,4,5)", *noise).table
    law = fitting.published["besiroglu2024"]
    table["error"] = np.log(table.loss / law.predict({"N": table.params_matmul, "D": table.tokens}))
    trunks = table.groupby("trunk_id").error
    within, between = np.sqrt(trunks.var().mean()), trunks.mean().std()
    assert 0.0006 < within < 0.0015
    assert 0.006 < between < 0.014


def test_grows_and_repeats(tmp_path):
    """A study that grows keeps its losses; the same study in another workdir has the same ones."""
    small = simulate(tmp_path / "w").table.set_index("run_id").loss
    grown = simulate(tmp_path / "w", "seeds=(0,1,2)").table.set_index("run_id").loss
    again = simulate(tmp_path / "other", "seeds=(0,1,2)").table.set_index("run_id").loss
    assert len(grown) == 1.5 * len(small)
    assert small.equals(grown[small.index]) and grown.sort_index().equals(again.sort_index())


def test_rates_faults_and_coefficients(tmp_path):
    changed = ("simulation.params.E=1.0", "simulation.faults=('diverged','scale')", *QUIET)
    table = simulate(tmp_path / "w", "optimizer.learning_rates=(0.001,0.002,0.004)", *changed).table
    law = fitting.Fit.from_params("chinchilla", {**fitting.published["besiroglu2024"].params, "E": 1.0})
    best = table[table.lr == 0.002]
    ratio = best.loss / law.predict({"N": best.params_matmul, "D": best.tokens})
    middle = best.params_matmul == sorted(set(table.params_matmul))[table.params_matmul.nunique() // 2]
    np.testing.assert_allclose(ratio, np.where(middle, 1.05, 1.0))
    off = table[(table.lr == 0.001) & (table.scale == best.scale.iloc[0])].loss.iloc[0] / best.loss.iloc[0]
    assert off == pytest.approx(1 + 0.01 * np.log(2) ** 2)
    lost = table[table.status == "diverged"]
    assert set(lost.params_matmul) == {table.params_matmul.max()} and set(lost.lr) == {0.004} and lost.loss.isna().all()
    assert set(table.simulated) == {"besiroglu2024 E=1 with faults diverged, scale"}


def test_says_which_metrics_are_left_out(tmp_path):
    flags = [f"--set={c}" for c in (*SMALL, "fit.also=('bits_per_byte',)")]
    code, _, err = run_here("run", "--engine=simulate", f"--study={EXPERIMENT}", f"--workdir={tmp_path / 'w'}", *flags)
    assert code == 0 and "only the loss is simulated; left out: fit.also\n" in err, err


def test_trained_and_simulated_runs_never_meet(tmp_path):
    simulate(tmp_path / "w")
    with pytest.raises(sj.UserError, match="simulation.law: besiroglu2024 -> hoffmann2022|data of .* has changed"):
        simulate(tmp_path / "w", "simulation.law=hoffmann2022")
    with pytest.raises(sj.UserError, match="simulation"):
        sj.run(study("data.source=python_sources"), tmp_path / "w", verbose=False, force=True)


@pytest.mark.parametrize(
    "change, said",
    [
        ("simulation.law=nope", "no law 'nope'"),
        ("simulation.law=chinchilla", "lacks E, A, B, alpha, beta"),
        ("simulation.params.zeta=3", "zeta"),
        ("simulation.law=sigmoid", "simulation"),
        ("simulation.law=muennighoff2023", "unique_tokens"),
        ("simulation.faults=('meteor',)", "no fault 'meteor'; known: scale"),
        ("fit.metric=bits_per_byte", "only the loss is simulated"),
        ("data.tokenizer=bpe:3", "bpe:VOCAB"),
    ],
)
def test_bad_input(tmp_path, change, said):
    flags = [f"--set={c}" for c in (*SMALL, change)]
    code, _, err = run_here("run", "--engine=simulate", f"--study={EXPERIMENT}", f"--workdir={tmp_path / 'w'}", *flags)
    assert code == 2 and err.count("\n") == 1 and said in err, err
    assert not (tmp_path / "w").exists()
