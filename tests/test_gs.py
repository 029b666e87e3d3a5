"""A workdir on gs://, against an emulator on loopback: trained, killed, locked, collected and reported as on a disk."""

import dataclasses
import importlib.util
import json
import os
import signal
import time

import gcs_emulator
import ladder
import pandas as pd
import pytest

from scaling_jax.errors import InUse, UserError
from scaling_jax.storage import lock
from scaling_jax.storage.paths import as_path, is_temporary, write_atomic
from scaling_jax.storage.records import COLUMNS, TEXTS, Records, load_table, save_table

# gcsfs reads its environment when it is imported, so nothing here may import it.
missing = [name for name in ("gcsfs", "gcp_storage_emulator") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing != [], reason=f"not installed: {', '.join(missing)}")]
OPTIONS = (
    "--num_cpu_devices=1",
    "--set=ladder.widths=8",
    "--set=budgets.tokens=(3840,19200)",
    "--set=execution.dispatch_seconds=0.02",
    "--set=execution.checkpoint_seconds=0.5",
)


@pytest.fixture(scope="module")
def bucket():
    """gs:// path of an empty bucket."""
    server, environ = gcs_emulator.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        yield f"gs://{gcs_emulator.BUCKET}"
    server.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_JAX_CACHE", str(folder / "cache"))
        ladder.write_study(folder)
        yield folder


@pytest.mark.slow
def test_trains_through_a_kill_and_ends_in_the_same_table(bucket, home):
    command = ladder.Cli(home / "log")
    args = ("run", f"--study={home / 'tiny.py'}", *OPTIONS)
    assert command.run(*args, f"--workdir={home / 'local'}") == 0, command.said()
    wanted = ladder.table(home / "local")
    workdir = f"{bucket}/runs/tiny"
    process = command.start(*args, f"--workdir={workdir}")
    checkpoints = as_path(workdir) / "checkpoints" / "w8-d1" / "trunk"
    while process.is_alive() and not (checkpoints.exists() and any(p.name.isdigit() for p in checkpoints.iterdir())):
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert command.run(*args, f"--workdir={workdir}") == 0, command.said()
    assert "taking over workdir" in command.said()
    assert len([p for p in (as_path(workdir) / "attempts").iterdir() if p.name.count(".") == 1]) == 2
    pd.testing.assert_frame_equal(ladder.table(workdir), wanted, check_exact=True)
    assert command.run(*args, f"--workdir={workdir}") == 0, command.said()
    assert "nothing to train" in command.said()
    assert not list((as_path(workdir) / "locks").glob("*.json"))
    # What is there is read from anywhere.
    code, out, err = ladder.run_here("collect", f"--workdir={workdir}", f"--out={home / 'out.parquet'}")
    assert (code, out) == (0, f"6 runs (6 done) -> {home / 'out.parquet'}\n"), err
    pd.testing.assert_frame_equal(pd.read_parquet(home / "out.parquet"), load_table(workdir))
    code, out, err = ladder.run_here("report", f"--workdir={workdir}")
    assert code == 0, err
    assert (as_path(workdir) / "report" / "index.html").exists()
    assert command.run(*args, f"--workdir={workdir}", "--set=optimizer.clip_norm=7") == 2, command.said()
    assert "holds another study" in command.said() and "optimizer.clip_norm" in command.said()


def test_records(bucket):
    root = as_path(f"{bucket}/records")
    records = Records(root, attempt=3)
    assert records.finished() == {}
    assert records.points("runs", "a") == []
    with pytest.raises(UserError, match="do not exist"):
        load_table(root)
    texts = dict.fromkeys(TEXTS & set(COLUMNS), "x")
    row = dict.fromkeys(COLUMNS, 1) | texts | {"run_id": "a", "trunk_id": "t", "steps": 2, "tokens": 2}
    records.write_points("runs", "a", [{"first_step": 0, "step": 2, "loss": 1.0}])
    records.write_result(row)
    assert Records(root).finished() == {"a": row}
    assert [p["step"] for p in Records(root).points("runs", "a")] == [2]
    save_table(load_table(root), root / "results.csv")
    assert "a" in (root / "results.csv").read_text().splitlines()[1].split(",")
    assert not [p for p in root.iterdir() if is_temporary(p.name)]


@pytest.mark.slow
def test_lock(bucket, monkeypatch):
    workdir = f"{bucket}/locked"
    quick = {"beat_seconds": 0.2, "stale_seconds": 2.0}
    with lock.Lock(workdir, ["a"], pytest.fail, **quick):
        with pytest.raises(InUse, match=f"pid {os.getpid()}"), lock.Lock(workdir, ["a"], pytest.fail, **quick):
            pass
        # Seen from another machine: its heartbeat moves.
        with monkeypatch.context() as patch:
            patch.setattr(lock, "_machine", lambda: "another")
            with pytest.raises(InUse), lock.Lock(workdir, ["a"], pytest.fail, **quick):
                pass
    assert lock.read(workdir, "a") is None
    with lock.Lock(workdir, ["a"], pytest.fail, **quick) as held:
        left = dataclasses.asdict(held._mine) | {"host": "elsewhere", "token": "left"}
    write_atomic(as_path(workdir) / "locks" / "a.json", json.dumps(left))
    with lock.Lock(workdir, ["a"], pytest.fail, **quick):
        assert lock.read(workdir, "a").token != "left"
