"""A study while it trains: the table, the record that `watch` reads, the live page, and experiment trackers."""

import dataclasses
import glob
import io
import json
import math
import os
import pathlib
import pty
import struct
import time

import ladder
import pytest

from scaling_jax import live, trackers
from scaling_jax.errors import UserError
from scaling_jax.report import live_page

ROWS = (
    live.Row("w8-d1", live.DONE, 3, 120, 120, 1.5, 1e5, 0.3, 0.0),
    live.Row("w16-d1", live.TRUNK, 3, 40, 120, 2.25, 5.25e4, 0.2, 75.0),
    live.Row("w32-d1", live.WAITING, 3, 0, 120),
)
SNAPSHOT = live.Snapshot("<b>tiny[red]", ROWS, 0.25, 30.0, 90.0, 4.2, 1e9)


def rendered(snapshot, height=40, now=None):
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=140).print(live.table(snapshot, height, now))
    return out.getvalue()


def test_the_table_says_where_every_pack_is():
    text = rendered(SNAPSHOT)
    assert "<b>tiny[red]: 25% after 0:30, time left 1:30; compiling took 4 s" in text
    lines = {line.split()[0]: line.split() for line in text.splitlines()[2:]}
    assert lines["w16-d1"][1:] == ["trunk", "3", "40/120", "2.250", "52.5k", "20", "1:15"]
    assert lines["w8-d1"][1:4] == ["done", "3", "120/120"] and lines["w32-d1"][1:] == ["waiting", "3", "0/120"]
    assert "no news for 3:20" in rendered(SNAPSHOT, now=1e9 + 200)


def test_of_many_packs_those_that_train_are_shown():
    many = [dataclasses.replace(ROWS[0], pack=f"done{i}") for i in range(60)] + [ROWS[1]]
    text = rendered(dataclasses.replace(SNAPSHOT, rows=tuple(many)), height=12)
    assert "w16-d1" in text and "and 54 packs more" in text and len(text.splitlines()) <= 12


def test_a_snapshot_is_read_back_whatever_is_unknown(tmp_path):
    SNAPSHOT.save(tmp_path / "attempts" / f"0000-1{live.SUFFIX}")
    newer = dataclasses.replace(SNAPSHOT, rows=(dataclasses.replace(ROWS[1], step=80),), time=2e9)
    newer.save(tmp_path / "attempts" / f"0001-2{live.SUFFIX}")
    (tmp_path / "attempts" / f"0002-3{live.SUFFIX}").write_text('{"rows": 3}')  # damaged: left out
    for number, damage in enumerate(({"time": "now"}, {"share": []}, {"seconds": "x"}, {"rows": [{"pack": None}]}), 3):
        content = json.loads((tmp_path / "attempts" / f"0001-2{live.SUFFIX}").read_text()) | damage
        (tmp_path / "attempts" / f"{number:04d}-3{live.SUFFIX}").write_text(json.dumps(content))
    found = live.latest(tmp_path)
    assert [row.step for row in found.rows] == [120, 80, 0] and math.isnan(found.rows[2].loss)
    assert found.time == 2e9 and live.latest(tmp_path / "nothing") is None


def test_the_live_page_escapes_and_renews_itself():
    text = live_page.page(SNAPSHOT, every=5.0)
    assert '<meta http-equiv="refresh" content="5">' in text and "<script" not in text
    assert "&lt;b&gt;tiny" in text and "<b>tiny" not in text and "40/120" in text
    assert "http-equiv" not in live_page.page(SNAPSHOT)


def test_on_a_terminal_the_table_stays_and_chatter_goes_above(monkeypatch):
    master, slave = pty.openpty()
    import fcntl
    import termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 110, 0, 0))
    saved = os.dup(2)
    monkeypatch.setenv("TERM", "xterm")
    try:
        os.dup2(slave, 2)
        shown = live.Screen()
        shown.show(SNAPSHOT)
        os.write(2, b"W1126 10:00:00.000000 1 pjrt.cc:99] chatter of XLA\nsomething to know\n")
        time.sleep(0.3)
        shown.show(dataclasses.replace(SNAPSHOT, share=0.5))
        shown.close()
    finally:
        os.dup2(saved, 2)
        os.close(saved), os.close(slave)
    os.set_blocking(master, False)
    text = b""
    while True:
        try:
            block = os.read(master, 65536)
        except (BlockingIOError, OSError):
            break
        if not block:
            break
        text += block
    os.close(master)
    text = text.decode()
    assert "something to know" in text and "chatter" not in text
    assert "\x1b[1A" in text  # the cursor moved up: the table was redrawn in its place
    assert text.rindex("50% after") > text.index("something to know") > text.index("25% after")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(workdir, what it printed, folder of event files) of a study that trained with a tracker."""
    folder = tmp_path_factory.mktemp("live")
    study, workdir, logs = ladder.write_study(folder), folder / "w", folder / "logs"
    small = ["--set=ladder.widths=(8,)", "--set=optimizer.learning_rates=(0.01,0.02)"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling_jax.api.write_report", lambda path: "")
        code, _, err = ladder.run_here(
            "run", f"--study={study}", f"--workdir={workdir}", f"--track=tensorboard:{logs}", *small
        )
    assert code == 0, err
    return workdir, err, logs


def test_run_leaves_its_progress_and_watch_shows_it(trained, tmp_path):
    workdir, said, _ = trained
    assert "tokens/s" in said and "ETA" in said  # plain lines where there is no terminal
    found = live.latest(workdir)
    assert found.done and found.share == pytest.approx(1.0) and found.study == "tiny"
    code, out, _ = ladder.run_here("watch", f"--workdir={workdir}", f"--page={tmp_path}/live.html")
    assert code == 0 and "tiny: 100%" in out and "w8-d1" in out
    assert "w8-d1" in (tmp_path / "live.html").read_text()
    for flags, message in (
        ((f"--workdir={tmp_path}",), "is not a workdir"), ((), "watch needs --workdir=W"),
        ((f"--workdir={workdir}", "--every=0"), "every"),
    ):  # fmt: skip
        code, _, err = ladder.run_here("watch", *flags)
        assert code == 2 and message in err and err.count("\n") == 1


def test_tensorboard_gets_every_lane_and_result(trained):
    workdir, _, logs = trained
    table = ladder.load_table(workdir)
    folders = {os.path.relpath(os.path.dirname(path), logs) for path in glob.glob(f"{logs}/**/events*", recursive=True)}
    lanes = {f"w8-d1/lr{row.lr:g}-seed0" for row in table.itertuples()}
    branches = {f"w8-d1/lr{row.lr:g}-seed0/branch-{row.run_id[:8]}" for row in table.itertuples()}
    assert folders == lanes | branches
    content = b"".join(
        pathlib.Path(path).read_bytes() for path in glob.glob(f"{logs}/**/branch*/events*", recursive=True)
    )
    assert content.count(b"result/loss") == len(table) and b"training/loss" in content


TRAIN = {
    "kind": "train", "run_id": None, "trunk_id": "t", "scale": "w8-d1", "phase": "trunk", "lr": 0.01, "seed": 0,
    "step": 20, "tokens": 1280, "loss": 2.0, "tokens_per_s": 1e4,
}  # fmt: skip


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb (pip install 'scaling_jax[wandb]')")
    with trackers.WandB("test", mode="offline", dir=str(tmp_path)) as tracker:
        tracker(TRAIN)
        tracker({**TRAIN, "kind": "result", "run_id": "r" * 16, "loss": 1.5, "steps": 20})
    assert glob.glob(f"{tmp_path}/wandb/offline-run-*/*.wandb")


def test_mlflow_without_a_server(tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow (pip install 'scaling_jax[mlflow]')")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with trackers.MLflow("test", name="one", uri=uri) as tracker:
        tracker(TRAIN)
        tracker({**TRAIN, "lr": 1e-5, "loss": float("nan")})
        tracker({**TRAIN, "kind": "result", "run_id": "r" * 16, "loss": 1.5, "steps": 20})
    (run,) = mlflow.MlflowClient(uri).search_runs(
        [mlflow.MlflowClient(uri).get_experiment_by_name("test").experiment_id]
    )
    assert run.info.status == "FINISHED" and run.data.metrics["w8-d1/lr0.01-seed0/loss"] == 2.0
    assert "w8-d1/lr1e-05-seed0/loss" not in run.data.metrics


def test_an_unknown_tracker_is_refused_before_anything_trains(tmp_path):
    study = ladder.write_study(tmp_path)
    code, _, err = ladder.run_here("run", f"--study={study}", f"--workdir={tmp_path}/w", "--track=neptune")
    assert code == 2 and "--track=neptune: give tensorboard, wandb or mlflow" in err and not (tmp_path / "w").exists()
    with pytest.raises(UserError, match="give tensorboard, wandb or mlflow"):
        trackers.make("", "study", tmp_path)
