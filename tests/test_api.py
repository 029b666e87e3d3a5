"""A notebook without the command line: plan, train, load, analyse, plot."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import ladder
import matplotlib
import numpy as np
import pandas as pd
import pytest
from bigram import Bigram

import scaling_jax as sj
from scaling_jax.planning import make_plan

matplotlib.use("agg")
BATCH = 4 * 16


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A ladder of three scales and three budgets that trains in seconds."""
    folder = tmp_path_factory.mktemp("text")
    ladder.write_study(folder)
    return sj.Study(
        name="notebook",
        family=Bigram(),
        ladder=sj.Ladder(widths=(8, 16, 24), depths=(1,)),
        budgets=sj.Budgets(tokens=(60 * BATCH, 120 * BATCH, 240 * BATCH), min_steps=10),
        optimizer=sj.Optimizer(learning_rates=(0.02,), batch_size=4),
        schedule=sj.Schedule(warmup_steps=10),
        data=sj.Data(source=str(folder / "text.txt"), context=16),
        evaluation=sj.Evaluation(examples=64, batch_size=32),
        execution=sj.Execution(layout="map"),
        fit=sj.study.Fit(bootstrap=20),
    )


@pytest.fixture(scope="module")
def trained(study, tmp_path_factory):
    """(results, workdir, what on_metrics was called with)."""
    home = tmp_path_factory.mktemp("home")
    metrics: list[dict] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_JAX_CACHE", str(home / "cache"))
        results = sj.run(study, home / "work", on_metrics=metrics.append, verbose=False)
        yield results, home / "work", metrics


def test_plan(study):
    plan = sj.plan(study)
    table = plan.table()
    assert [pack.scale for pack in plan.packs] == ["w8-d1", "w16-d1", "w24-d1"]
    assert len(plan.runs) == table["runs"].sum() == 9
    assert list(table["tokens"]) == [60 * BATCH, 120 * BATCH, 240 * BATCH] * 3
    assert (table[["params", "flops", "memory_bytes", "seconds"]] > 0).all().all()
    # The cool-downs alone train again: 20% of each budget, beside one trunk to 80% of the longest.
    assert np.isclose(plan.table()["flops"].sum(), sum(run.flops for run in plan.runs))
    assert any("one seed" in warning for warning in plan.warnings)
    assert "params_matmul" in str(plan) and "w24-d1" in str(plan)


def test_warnings_of_a_plan_are_about_the_plan(study, tmp_path):
    """Each warning goes away with what it complains of."""

    def warned(*changes: str) -> str:
        return " ".join(sj.plan(sj.override(study, changes)).warnings)

    assert "one seed" not in warned("seeds=(0,1)")
    assert "at least 3 scales" in warned("ladder.widths=(8,16)")
    assert "at least 3 scales" not in warned()
    few = warned("budgets.tokens=(3840,)")
    assert "3 points (N, D) for the 5 parameters of law 'chinchilla'" in few
    assert "points (N, D)" not in warned()
    assert "points (N, D)" not in warned("budgets.tokens=(3840,)", "fit.law=power")


def test_run_trains_and_reports(trained, study):
    results, workdir, metrics = trained
    assert len(results.table) == 9 and set(results.table.status) == {"done"}
    assert (workdir / "report" / "index.html").exists() and (workdir / "_SUCCESS").exists()
    kinds = [metric["kind"] for metric in metrics]
    assert kinds.count("result") == 9 and "train" in kinds
    losses = {metric["run_id"]: metric["loss"] for metric in metrics if metric["kind"] == "result"}
    assert losses == dict(zip(results.table.run_id, results.table.loss))
    json.dumps(metrics)  # plain Python, nothing of JAX


def test_run_again_trains_nothing(trained, study, capsys):
    _, workdir, _ = trained
    before = ladder.files(workdir)
    metrics: list[dict] = []
    again = sj.run(study, workdir, on_metrics=metrics.append)
    shown = capsys.readouterr()
    assert metrics == [] and "nothing to train" in shown.err and shown.out.strip()
    assert {name for name in ladder.files(workdir) - before if not name.startswith("attempts")} == set()
    assert again.path == trained[0].path


def test_the_command_line_agrees(trained, study, monkeypatch, tmp_path):
    """`scaling-jax collect` of the workdir is the table that `sj.load` gives."""
    _, workdir, _ = trained
    code, _, err = ladder.run_here("collect", f"--workdir={workdir}", f"--out={tmp_path / 'table.parquet'}")
    assert code == 0, err
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), sj.load(workdir).table)


@pytest.mark.slow
def test_load_analyse_plot(trained, tmp_path):
    _, workdir, _ = trained
    results = sj.load(workdir)
    assert set(results.curves.run_id) == set(results.table.run_id)
    analysis = results.analysis
    assert analysis.fit is not None and (analysis.frontier.C > 0).all()
    from_table = sj.analyse(results.table, fit=sj.study.Fit(bootstrap=20))
    assert from_table.fit.params == analysis.fit.params
    other = sj.analyse(results, fit=sj.study.Fit(law="power", bootstrap=20))
    assert set(other.fit.params) == set(sj.fitting.laws["power"].params)
    results.report(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "index.html").exists()
    assert results.plot.frontier().axes
    assert analysis.verdict in ("trust", "caution", "no answer") and len(analysis.checks) > 3


def test_the_study_comes_back(trained, study):
    results, workdir, _ = trained
    assert results.study == sj.load(workdir).study == study


@pytest.mark.slow
def test_several_workdirs(trained, study, tmp_path, monkeypatch):
    """Runs of two workdirs are one table, each run once; corpora do not mix."""
    _, workdir, _ = trained
    monkeypatch.setattr("scaling_jax.api.write_report", lambda path: "")
    other = tmp_path / "other"
    small = sj.override(study, ["ladder.widths=(8,32)", "budgets.tokens=(3840,)"])
    sj.run(small, other, verbose=False)
    both = sj.load(workdir, other)
    assert len(both.table) == 10 and both.table.run_id.is_unique
    assert set(both.curves.run_id) == set(both.table.run_id)
    assert both.study == study and both.analysis.fit is not None
    third = tmp_path / "third"
    text = tmp_path / "text.txt"
    text.write_text("another text, of other words\n" * 3000)
    sj.run(sj.override(small, [f"data.source={text}"]), third, verbose=False)
    with pytest.raises(sj.UserError, match="different corpora"):
        sj.load(workdir, third)


def test_wrong_calls_are_user_errors(study, tmp_path):
    with pytest.raises(sj.UserError, match="no metric 'accuracy'.*loss"):
        sj.plan(sj.override(study, ["fit.metric=accuracy"]))
    for wrong in ("fit.fixed={'foo': 1}", "fit.fixed={'E': -1}", "fit.inputs={'U': '1e9'}", "fit.inputs={'N': '1'}"):
        with pytest.raises(sj.UserError, match=wrong.split("=")[0]):
            sj.plan(sj.override(study, [wrong]))
    with pytest.raises(sj.UserError, match="fit.law"):
        sj.plan(sj.override(study, ["fit.law=chinchila"]))
    with pytest.raises(sj.UserError, match="not dict"):
        sj.plan({"name": "x"})
    with pytest.raises(sj.UserError, match="no pack 'w9-d9'"):
        sj.run(study, tmp_path / "work", only_packs=["w9-d9"])
    with pytest.raises(sj.UserError, match="study.json"):
        sj.load(tmp_path)
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_planning_starts_no_jax_backend(study):
    """Several processes must find each other before JAX has devices, and a plan of them is checked before that."""
    code = (
        "import pickle, sys, jax, scaling_jax as sj\n"
        "study = pickle.load(sys.stdin.buffer)\n"
        "sj.plan(sj.override(study, ['fit.metric=bits_per_byte']))\n"
        "from jax._src import xla_bridge\n"
        "print(xla_bridge.backends_are_initialized())"
    )
    study = dataclasses.replace(study, family=sj.models.Transformer(head_dim=8))  # which the new process can import
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(study), capture_output=True, check=False, env={**os.environ}
    )
    assert done.stdout.decode().strip() == "False", done.stderr.decode()


def test_plan_ids_are_those_that_train(trained, study):
    results, _, _ = trained
    (hash_,) = set(results.table.dataset_hash)
    packs = make_plan(study, sj.plan(study).spec, hash_)
    assert {run.run_id for pack in packs for run in pack.runs} == set(results.table.run_id)
