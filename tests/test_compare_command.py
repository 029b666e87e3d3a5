"""`scaling-jax compare`: recipes from tables to one answer, one table and one picture; refusals in one line."""

import importlib

import numpy as np
import pandas as pd
import pytest
import simulated

from scaling_jax.fitting.inference import posterior

pytest.importorskip("scaling_jax.cli.results_source")
cli = importlib.import_module("scaling_jax.cli.main")
C = np.geomspace(1e18, 1e21, 6)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(posterior, "BURN_IN", 150)  # test_fitting_compare looks at what is sampled
    monkeypatch.setattr(posterior, "STEPS", 200)
    rng = np.random.default_rng(0)
    rows = [
        {"optimizer": name, "model_flops": c, "bpb": (0.6 + 20 * (m * c) ** -0.1) * np.exp(noise)}
        for name, m in (("adam", 1.0), ("muon", 1.4))
        for c, noise in zip(C, 1e-3 * rng.standard_normal(6))
    ]
    pd.DataFrame(rows).to_csv("ladders.csv", index=False)
    for i, corpus in enumerate(("d" * 16, "d" * 16, "e" * 16)):
        table = simulated.ladder(noise=1e-3, rng_seed=i)
        table.assign(
            loss=table.loss * (1 - 0.01 * (i == 1)), accuracy=1 / (1 + table.loss), dataset_hash=corpus
        ).to_csv(f"W{i}.csv", index=False)
    return tmp_path


def run(*args):
    return cli.main(["scaling-jax", "compare", *args])


def test_one_table_with_a_column_of_recipes(folder, capsys):
    assert run("ladders.csv", "--by=optimizer", "--target_flops=1e20", "--out=new/muon.csv") == 0
    text = capsys.readouterr().out
    assert text.startswith("bpb: muon is better (floor: shared)") and "by floor: shared" in text
    assert "1.00e+20" in text and "at equal compute the bpb of muon is lower" in text
    assert max(map(len, text.splitlines())) <= 100 and "muon.html in the new folder new\n" in text
    table = pd.read_csv(folder / "new" / "muon.csv")
    assert list(table.recipe) == ["muon"] and table.metric[0] == "bpb" and table.C[0] == 1e20
    assert table.low[0] < 1.4 < table.high[0] and table.high[0] / table.low[0] < 1.3
    assert (folder / "new" / "muon.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "new" / "muon.html").read_text()
    assert "bpb: muon is better" in page and '"name":"compare"' in page and "extrapolated" not in page


@pytest.mark.slow
def test_two_tables_of_ours_metric_by_metric(folder, capsys):
    assert run("W0.csv", "better=W1.csv", "--metric=loss", "--metric=accuracy") == 0
    text = capsys.readouterr().out
    assert "loss: better is better" in text and "\naccuracy: " in text
    table = pd.read_csv(folder / "compare.csv")
    assert set(table.metric) == {"loss", "accuracy"} and set(table.recipe) == {"better"}


def test_baseline_turns_it_around(folder, capsys):
    assert run("ladders.csv", "--by=optimizer", "--baseline=muon", "--target_flops=1e20") == 0
    assert "muon is better" in capsys.readouterr().out
    assert pd.read_csv(folder / "compare.csv").multiplier[0] == pytest.approx(1 / 1.4, rel=0.1)


@pytest.mark.parametrize(
    "args, message",
    [
        (["W0.csv"], "compare needs two recipes or more"),
        (["W0.csv", "W2.csv"], "trained on different corpora"),
        (["W0.csv", "none.csv"], "'none.csv' do"),
        (["W0.csv", "W0.csv"], "two recipes are called 'W0'"),
        (["ladders.csv", "--by=nothing"], "--by=nothing: no such column"),
        (["W0.csv", "W1.csv", "--by=scale"], "--by=scale splits one table"),
        (["W0.csv", "W1.csv", "--baseline=x"], "--baseline=x: no such recipe"),
        (["W0.csv", "W1.csv", "--floor=low"], "--floor=low: give shared, free, or a number"),
        (["W0.csv", "W1.csv", "--floor=50"], "floor=50 is not below the lowest loss"),
        (["W0.csv", "W1.csv", "--metric=f1"], "f1"),
        (["W0.csv", "W1.csv", "--out=x.txt"], "written as .csv"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(folder, capsys, args, message):
    before = sorted(folder.rglob("*"))
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_other_data_on_request(folder, capsys):
    assert run("W0.csv", "W2.csv", "--other_data") == 0
    assert "W2" in capsys.readouterr().out
