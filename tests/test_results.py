"""Records are whole or not there, survive a power loss, and become one table."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from scaling_jax.errors import UserError
from scaling_jax.storage import paths
from scaling_jax.storage import records as records_module
from scaling_jax.storage.records import COLUMNS, TEXTS, Records, load_curves, load_table, save_table


def row(run_id, **values):
    numbers = {"flops": 1e9, "steps": 100, "tokens": 6400, "trunk_id": "t", "loss": 2.0}
    texts = dict.fromkeys(TEXTS & set(COLUMNS), "x")
    return dict.fromkeys(COLUMNS, 1) | texts | numbers | {"run_id": run_id, "status": "done"} | values


def point(first, last, loss=1.0):
    return {"first_step": first, "step": last, "loss": loss}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    paths.write_atomic(path, "old")
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:

            def fail(*args):
                raise OSError(28, "No space left on device")

            patch.setattr(os, call, fail)
            with pytest.raises(OSError, match="No space"):
                paths.write_atomic(path, "new")
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["a.json"]


def test_contents_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    path = tmp_path / "new" / "folder" / "a.json"
    paths.write_atomic(path, "x")
    temporary = calls[-3]
    assert paths.is_temporary(os.path.basename(temporary))
    assert os.path.dirname(temporary) == str(path.parent)
    # The folders that were made are on the disk, too, from the outermost inwards.
    assert [*calls[:-3], *calls[-2:]] == [str(tmp_path), str(path.parent.parent), "replace", str(path.parent)]


def test_a_run_is_finished_when_its_success_is_written(tmp_path, monkeypatch):
    records = Records(tmp_path)
    written = []
    write = paths.write_atomic

    def watched(path, content):
        assert "a" not in records.finished()
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(records_module, "write_atomic", watched)
    records.write_result(row("a"))
    assert written == ["result.json", "_SUCCESS"]
    assert records.finished() == {"a": row("a")}


@pytest.mark.parametrize(
    "damage",
    ["", "{half", None, "[]", {"loss": "2.0"}, {"loss": [2.0]}, {"tokens": 0}, {"steps": -1}, {"flops": float("inf")},
     {"scale": 3}, {"trunk_id": "../../outside"}, {"warmup_steps": {}}, {"run_id": "b"}, {"status": None}],
)  # fmt: skip
def test_a_damaged_result_counts_as_missing_and_is_said(tmp_path, damage, caplog):
    records = Records(tmp_path)
    records.write_result(row("a"))
    records.write_result(row("b"))
    path = tmp_path / "runs" / "a" / "result.json"
    content = json.dumps(row("a") | damage) if isinstance(damage, dict) else damage
    path.unlink() if content is None else path.write_text(content)
    assert set(records.finished()) == {"b"}
    assert "runs/a/result.json is unreadable" in caplog.text
    assert list(load_table(tmp_path)["run_id"]) == ["b"]


def test_points_of_a_later_attempt_replace_those_past_its_start(tmp_path):
    first, second, third = (Records(tmp_path, attempt) for attempt in (0, 1, 12))
    first.write_points("trunks", "t", [point(0, 20), point(20, 40)])
    first.write_points("trunks", "t", [point(40, 60), point(60, 80)])
    second.write_points("trunks", "t", [point(40, 60, 2.0)])
    third.write_points("trunks", "t", [point(60, 80, 3.0)])
    third.write_points("trunks", "t", [point(80, 100, 3.0)])
    third.write_points("trunks", "t", [])
    got = Records(tmp_path).points("trunks", "t")
    assert [(p["step"], p["loss"]) for p in got] == [(20, 1.0), (40, 1.0), (60, 2.0), (80, 3.0), (100, 3.0)]
    assert Records(tmp_path).points("runs", "never") == []


@pytest.mark.parametrize(
    "damage",
    ['{"first_step": 2', "[1]", '{"first_step": 20, "step": 40}', '{"first_step": 20, "step": 40, "loss": "x"}'],
)
def test_a_damaged_chunk_of_points_is_a_gap_and_said(tmp_path, damage, caplog):
    records = Records(tmp_path)
    for first in (0, 20, 40):
        records.write_points("runs", "r", [point(first, first + 20)])
    (tmp_path / "runs" / "r" / "metrics-0000-000001.jsonl").write_text(damage)
    assert [p["step"] for p in records.points("runs", "r")] == [20, 60]
    assert "metrics-0000-000001.jsonl is unreadable" in caplog.text


def test_curves_join_a_branch_to_the_part_of_the_trunk_it_left(tmp_path):
    records = Records(tmp_path)
    records.write_points("trunks", "t", [point(i, i + 20, 3.0) for i in range(0, 160, 20)])
    for run, steps in (("short", 100), ("long", 200)):
        fork = steps * 8 // 10
        records.write_points("runs", run, [point(i, i + 20, 2.0) for i in range(fork, steps, 20)])
        records.write_result(row(run, steps=steps, tokens=64 * steps, flops=1e6 * steps))
    curves = load_curves(tmp_path, load_table(tmp_path))
    short = curves[curves["run_id"] == "short"]
    assert list(short["step"]) == [20, 40, 60, 80, 100]
    assert list(short["phase"]) == ["trunk"] * 4 + ["branch"]
    np.testing.assert_allclose(short["tokens"], 64 * short["step"])
    np.testing.assert_allclose(short["flops"], 1e6 * short["step"])
    assert list(curves[curves["run_id"] == "long"]["step"]) == list(range(20, 220, 20))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_comes_back_as_it_was_saved(tmp_path, ending):
    records = Records(tmp_path)
    for run, flops in (("b", 1e9), ("a", 3e9), ("c", 1e9)):
        records.write_result(row(run, flops=flops, loss=1 / 3, accuracy=0.1 + 0.2))
    table = load_table(tmp_path)
    assert list(table.columns[: len(COLUMNS)]) == COLUMNS
    assert list(table["run_id"]) == ["b", "c", "a"]
    save_table(table, tmp_path / f"out.{ending}")
    read = pd.read_csv if ending == "csv" else pd.read_parquet
    pd.testing.assert_frame_equal(read(tmp_path / f"out.{ending}"), table, check_exact=True)
    assert not [name for name in os.listdir(tmp_path) if paths.is_temporary(name)]


def test_wrong_tables_are_said(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        load_table(tmp_path)
    with pytest.raises(UserError, match="do not exist"):
        load_table(tmp_path / "x.csv")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(UserError, match="not a workdir"):
        load_table(tmp_path / "x.txt")
    with pytest.raises(UserError, match="unknown ending"):
        save_table(pd.DataFrame(), tmp_path / "x.xlsx")
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"run_id": "r"}))
    (folder / "_SUCCESS").touch()
    with pytest.raises(UserError, match="lack the columns"):
        load_table(tmp_path)
