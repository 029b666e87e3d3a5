"""`scaling-jax bench` in miniature: its numbers are those of real programs, and plans use them."""

import dataclasses
import json

import ladder
import pytest

from scaling_jax.engines import bench, estimate, speeds
from scaling_jax.training import hardware

pytestmark = pytest.mark.slow

SMALL = dataclasses.replace(
    bench.QUICK, seconds=1e6, case_seconds=0.01, single_widths=(2048,), lane_widths=(8,), matmul=128
)


@pytest.fixture(scope="module")
def report():
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "LAYOUTS", ("vmap",))
        found = bench.measure(SMALL, said.append)
    assert "width 8, 2 lanes, vmap" in said
    return found


def test_it_measures_what_a_training_takes(report):
    assert report["device"] == hardware.describe()
    assert set(report["matmul"]) == {"float32", "bfloat16", "float16"}
    assert [(row["lanes"], row["layout"]) for row in report["lanes"]] == [(1, "map"), (2, "vmap")]
    assert not report["single"] and any("width 2048" in line for line in report["skipped"])  # seconds a step
    for row in report["lanes"]:
        assert row["share"] > 0  # on a busy machine also beyond 1: the peak was measured before
        assert row["flops_per_s"] == pytest.approx(row["share"] * report["matmul"]["float32"], rel=1e-2)
    assert {row["kernel"] for row in report["attention"]} == {"xla", "blocked"}
    printed = bench.report_text(report)
    assert "recommended lanes" in printed and "width 2048" in printed


def test_the_recommendation_is_the_fewest_lanes_that_reach_the_best():
    def row(lanes, layout, speed):
        return {"width": 32, "lanes": lanes, "layout": layout, "tokens_per_s": speed}

    lanes = [row(1, "map", 100), row(2, "vmap", 190), row(4, "vmap", 300), row(4, "map", 150), row(8, "vmap", 310)]
    assert bench.recommended(lanes) == [{"width": 32, "lanes": 4, "layout": "vmap", "gain": 3.0}]


def test_the_time_is_kept(monkeypatch):
    found = bench.measure(dataclasses.replace(SMALL, seconds=0.0), lambda line: None)
    assert not found["lanes"] and not found["single"]
    assert len(found["skipped"]) > 3 and "no time left" in found["skipped"][0]
    printed = bench.report_text(found)
    assert "left out" in printed and "ms forward" not in printed  # nor a table without rows


def test_a_plan_uses_what_was_measured(report, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path))
    assert speeds.load() is None
    assumed, _ = estimate.speed()
    assert assumed(16) == assumed(64)
    speeds.save(report | {"lanes": [row | {"width": w} for w in (16, 64) for row in report["lanes"][:1]]})
    at, source = estimate.speed()
    assert "bench" in source
    assert at(8) == at(16) == pytest.approx(report["lanes"][0]["flops_per_s"])
    two = [{"width": 16, "flops_per_s": 1e9}, {"width": 64, "flops_per_s": 4e9}, {"width": 64, "flops_per_s": 3e9}]
    assert speeds.flops_at({"lanes": two}, 32) == pytest.approx(2e9)
    speeds.path().write_text("{")
    assert speeds.load() is None


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench, "QUICK", dataclasses.replace(SMALL, seconds=0.0))
    code, out, _ = ladder.run_here("bench", "--quick", f"--out={tmp_path / 'bench.json'}")
    assert code == 0 and "matmul" in out
    assert json.loads((tmp_path / "bench.json").read_text())["num_devices"] == 4
    assert not speeds.path().exists()  # a miniature says nothing about plans
    for wrong in (f"--out={tmp_path / 'x.csv'}", "--seconds=0", "extra"):
        code, _, err = ladder.run_here("bench", "--quick", wrong)
        assert code == 2 and len(err.strip().splitlines()) == 1, wrong
