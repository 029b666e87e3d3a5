"""What runs take besides FLOPs: laws of time and memory, the best model of every kind of budget, and later plans."""

import json

import jax
import ladder
import numpy as np
import pandas as pd
import pytest
import simulated

from scaling_jax import analysis, fitting, report, study
from scaling_jax.analysis.resources import Resource
from scaling_jax.engines import estimate, speeds
from scaling_jax.report import tables
from scaling_jax.training import hardware

TIME, MEMORY = 0.6, 0.9  # exponents of seconds per token and of memory in N


def timed(noise=0.02, **options):
    """A ladder whose runs take s = 1e-8 N^.6 per token and 40 N^.9 bytes, on two devices."""
    table = simulated.ladder(noise=1e-4, rates=(0.02,), **options)
    N, scatter = table.params_matmul.astype(float), np.exp(np.random.default_rng(3).normal(0, noise, len(table)))
    return table.assign(
        wall_s=1e-8 * N**TIME * table.tokens * scatter, devices=2, memory_bytes=40 * N**MEMORY,
        checkpoint_bytes=16 * table.params_total, compile_s=3.0 * scatter,
    )  # fmt: skip


def found(table, **settings):
    return analysis.analyse(table, fit=study.Fit(bootstrap=40, **settings), name="timed")


@pytest.fixture(scope="module")
def here():
    return found(timed(), price=3.0, max_memory=2e6)


def test_laws_are_those_that_the_runs_follow(here):
    laws, of = here.resources
    for name, truth in (("step_s", TIME), ("tokens_per_s", -TIME), ("memory_bytes", MEMORY), ("compile_s", 0.0)):
        exponent, low, high = laws[name].exponent
        assert low <= exponent <= high and abs(exponent - truth) <= high - low + 1e-9 < 0.03, name
    N = here.frontier.N.iloc[-1]
    value, low, high = laws["memory_bytes"].at(N)
    assert low <= value <= high and value == pytest.approx(40 * N**MEMORY, rel=1e-6)
    assert "on cpu" in of


def test_an_interval_holds_one_more_scale():
    rng, inside = np.random.default_rng(0), 0
    N = np.geomspace(1e4, 1e6, 6)
    for _ in range(400):
        y = 3 * N**0.8 * np.exp(rng.normal(0, 0.1, 6))
        law = Resource("step_s", N[:5], y[:5], 0.9, fitting.power_law(N[:5], y[:5]))
        _, low, high = law.at(N[5])
        inside += low <= y[5] <= high
    assert 0.86 < inside / 400 < 0.94


def test_two_scales_tell_nothing():
    two = found(timed(widths=(16, 96)))
    law = two.resources[0]["step_s"]
    assert law.law is None and np.isnan(law.exponent[0]) and np.isnan(law.at(1e6)[1])
    assert str(law) == "time of a step: cannot tell from 2 scales, 3 are needed"
    assert "cannot tell" in two.budgets[1] and not two.budgets[0]
    assert found(timed().drop(columns=["wall_s"])).resources == ({}, "")


def test_runs_of_other_machines_are_left_out():
    table = timed()
    other = table.run_id.isin(table.run_id[::3])
    table.loc[other, ["device", "wall_s"]] = ["another", 1e-12]
    laws, of = found(table).resources
    assert "another are left out" in of and laws["step_s"].exponent[0] == pytest.approx(TIME, abs=0.05)


def test_the_same_budget_buys_another_model_in_every_unit(here):
    flops, hours, dollars, memory = here.budgets[0]
    assert here.budgets[1] == ""
    row = here.frontier[here.targets[0] == here.frontier.C].iloc[0]
    assert (flops.N, flops.D, flops.loss) == (row.N, row.D, row.loss)
    assert hours.hours == pytest.approx(flops.hours, rel=1e-6)
    assert (dollars.N, dollars.amount) == (hours.N, f"${tables.short(3 * hours.hours)}")
    # Time grows slower than FLOPs with N, so that hours buy a larger model: the best of a grid, by the law itself.
    N = np.geomspace(hours.N / 10, hours.N * 10, 4001)
    law = here.resources[0]["s_per_token"].law
    D = flops.hours * 3600 / law(N)
    best = N[np.argmin(here.fit.predict({"N": N, "D": D}))]
    assert pytest.approx(best, rel=5e-3) == hours.N and hours.N > 1.2 * flops.N and hours.loss < flops.loss
    assert memory.memory <= 2e6 * 1.0001 and memory.N < flops.N and memory.loss > flops.loss


def test_the_report_shows_them(here, tmp_path):
    text = report.write_report(here, tmp_path)
    page = (tmp_path / "index.html").read_text()
    for words in ("time of a step ~ N^0.6", "the same budget as device-hours", "dollars"):
        assert words in text, words
    for words in ("What runs take", "peak memory of a device", "The same budget, the best model"):
        assert words in page, words
    read = json.loads((tmp_path / "summary.json").read_text())
    assert read["resources"]["memory_bytes"]["exponent"] == pytest.approx(MEMORY, abs=1e-6)
    assert [b["kind"] for b in read["budgets"]] == ["FLOPs", "device-hours", "dollars", "FLOPs, 2.00MB a device"]
    panels = report.figures.catalog(here)["cost"]().panels
    assert panels[-1].title == "Time to compile" and len(panels) == 6
    for panel in (*panels[:2], *panels[3:]):  # the law goes through the points
        line = next(mark for mark in panel.marks if mark.kind == "line")
        first = next(mark for mark in panel.marks if mark.num_runs)
        assert np.median(first.y) == pytest.approx(line.y[0], rel=0.1), panel.title


@pytest.mark.parametrize("flags, said", [
    (["--cost=device_hours"], "no run has its wall_s"), (["--price=2"], "no run has its wall_s"),
    (["--max_memory=80GB"], "no run has its memory_bytes"), (["--cost=dollars"], "needs --price"),
    (["--price=0"], "dollars of a device-hour"), (["--max_memory=much"], "give bytes, e.g. 80GB"),
])  # fmt: skip
def test_what_runs_do_not_tell_is_refused(flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timed().drop(columns=["wall_s", "memory_bytes"]).to_csv("runs.csv")
    code, _, err = ladder.run_here("fit", "--results=runs.csv", "--resamples=20", *flags)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "fit.json").exists()


def test_fit_of_any_table_with_seconds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timed()[["params_matmul", "tokens", "loss", "wall_s"]].to_csv("runs.csv")
    code, out, err = ladder.run_here("fit", "--results=runs.csv", "--resamples=20", "--cost=dollars", "--price=2")
    assert code == 0, err
    assert "device-hours" in out and "dollars" in out


def test_a_later_plan_uses_the_speed_of_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path))
    table = pd.DataFrame(
        {
            "family": "transformer", "width": [16, 16, 64], "flops": [1e10, 2e10, 8e10], "wall_s": [5.0, 10.0, 20.0],
            "devices": [1, 1, 2], "compile_s": [4.0, 0.1, 9.0], "device": hardware.describe(),
        }
    )  # fmt: skip
    speeds.learn(table.assign(device="another"))
    speeds.learn(table.assign(wall_s=0.01))
    assert speeds.load() is None
    speeds.learn(table)
    at, source = estimate.speed("transformer")
    assert "earlier runs of transformer" in source
    assert at(16) == pytest.approx(2e9 * jax.device_count()) and at(64) == pytest.approx(2e9 * jax.device_count())
    assert speeds.compile_seconds(speeds.load(), 40, "transformer") == pytest.approx(6.5)
    speeds.learn(table.assign(compile_s=0.01))  # from a cache
    assert speeds.compile_seconds(speeds.load(), 40, "transformer") == pytest.approx(6.5)
    speeds.learn(table.assign(compile_s=[3.0, 0.1, 8.0]))
    assert speeds.compile_seconds(speeds.load(), 40, "transformer") == pytest.approx(5.5)
    assert "of peak" not in source and "% of" in estimate.speed("cnn")[1]
    speeds.save({"lanes": [{"width": 16, "flops_per_s": 1.0}]})  # of bench
    assert estimate.speed("transformer")[0](16) == at(16) and estimate.speed("cnn")[0](16) == 1.0
