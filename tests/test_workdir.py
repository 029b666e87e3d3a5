"""A workdir belongs to one study; each of its packs to one process at a time, until that is dead."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zlib

import jax
import jax.numpy as jnp
import ladder
import numpy as np
import pytest

from scaling_jax.api import plan
from scaling_jax.engines import compile_cache
from scaling_jax.errors import InUse, UserError
from scaling_jax.identity import PackRecord
from scaling_jax.models.family import Spec
from scaling_jax.planning import frame
from scaling_jax.storage import lock
from scaling_jax.storage.lock import Lock
from scaling_jax.storage.workdir import FORMAT, Stored, Workdir
from scaling_jax.study_file import load_study, override

QUICK = {"beat_seconds": 0.05, "stale_seconds": 0.5}
HASH = "d" * 16


def nobody_expected(holder):
    pytest.fail(f"lost to {holder}")


def hold(folder, names=("a",), on_lost=nobody_expected, **options):
    return Lock(folder, names, on_lost, **QUICK | options)


def leave(folder, **changes):
    """A lock on pack a as this process would leave it behind if it were killed, with some fields changed."""
    with hold(folder):
        left = json.loads((folder / "locks" / "a.json").read_text())
    (folder / "locks" / "a.json").write_text(json.dumps(left | {"token": "left"} | changes))


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_second_is_told_who_holds_it(tmp_path):
    with hold(tmp_path, ["a", "b"]):
        said = f"pack b is trained by pid {os.getpid()} on {socket.gethostname()} since 2"
        with pytest.raises(InUse, match=said), hold(tmp_path, ["b", "c"]):
            pass
        assert issubclass(InUse, UserError)  # exit code 2
        with pytest.raises(InUse, match="pack a"):
            lock.check(tmp_path, ["a"])
        with hold(tmp_path, ["c"]):  # other packs are free
            lock.check(tmp_path, ["d"])
    lock.check(tmp_path, ["a", "b", "c"])
    assert {path.name for path in (tmp_path / "locks").iterdir()} <= {lock.GUARD}


@pytest.mark.parametrize("changes", [{"pid": None}, {"started": "1"}], ids=["dead pid", "pid used again"])
def test_a_dead_holder_is_taken_over_at_once(tmp_path, capsys, changes):
    leave(tmp_path, **{k: v or dead_pid() for k, v in changes.items()})
    lock.check(tmp_path, ["a"])
    with hold(tmp_path, stale_seconds=1e6):
        pass
    assert "taking over workdir" in capsys.readouterr().err


def test_a_zombie_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # has ended, and nobody has asked for its exit code
    holder = lock.Holder("x", process.pid, socket.gethostname(), "", lock._machine(), 0.0, 0)
    assert lock._started(process.pid) == ""
    assert not dataclasses.replace(holder, started="7").alive()
    process.wait()


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"machine": "rebooted"}])
def test_a_holder_elsewhere_is_dead_when_its_heartbeat_rests(tmp_path, capsys, changes):
    leave(tmp_path, **changes)
    lock.check(tmp_path, ["a"])  # cannot be known without watching
    begin = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - begin >= QUICK["stale_seconds"]
    err = capsys.readouterr().err
    assert "watching its heartbeat" in err
    assert "taking over" in err


def test_a_holder_elsewhere_is_alive_while_its_heartbeat_moves(tmp_path, monkeypatch):
    with hold(tmp_path):
        monkeypatch.setattr(lock, "_machine", lambda: "another machine")
        with pytest.raises(InUse, match="is trained by"), hold(tmp_path, stale_seconds=1e6):
            pass


def test_whoever_loses_a_lock_is_told_by_whom(tmp_path):
    lost = []
    with hold(tmp_path, on_lost=lost.append):
        leave_other = json.loads((tmp_path / "locks" / "a.json").read_text()) | {"token": "thief", "pid": 7}
        (tmp_path / "locks" / "a.json").write_text(json.dumps(leave_other))
        deadline = time.monotonic() + 30
        while not lost and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [holder.token for holder in lost] == ["thief"]
    assert (tmp_path / "locks" / "a.json").exists()  # it is the thief's


def test_one_of_many_takes_a_stale_lock(tmp_path):
    leave(tmp_path, pid=dead_pid())
    taken, refused, release = [], [], threading.Event()

    def attempt():
        try:
            with hold(tmp_path):
                taken.append(1)
                release.wait()
        except InUse:
            refused.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(taken) + len(refused) < len(threads):
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (1, 7)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": 1}'])
def test_an_unreadable_lock_is_stale(tmp_path, content):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "a.json").write_text(content)
    with hold(tmp_path):
        pass


def test_a_heartbeat_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    with hold(tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(lock, "write_atomic", full)
            deadline = time.monotonic() + 30
            while "No space left" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
        lock_file = tmp_path / "locks" / "a.json"
        before = json.loads(lock_file.read_text())["beat"]
        while json.loads(lock_file.read_text())["beat"] == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads(lock_file.read_text())["beat"] > before
    assert "No space left" in caplog.text


SPEC = Spec("tokens", 256, 16)
PACK = {"a": PackRecord("a", ("lane0", "lane1"), (48, 96))}


def stored(study, **changes):
    content = {
        "dataset_hash": HASH,
        "compute_dtype": "float32",
        "code_version": "1",
        "device": "cpu x1",
        "runs": ("r",),
    }
    return Stored(study.to_dict(), dataclasses.asdict(SPEC), frame(study, SPEC), **content | changes)


def changed(study, *settings):
    return stored(override(study, settings))


@pytest.fixture
def study(tmp_path):
    return load_study(ladder.write_study(tmp_path, ladder.TRANSFORMER))


def test_a_workdir_keeps_its_family_its_recipe_and_its_data(tmp_path, study):
    workdir = Workdir(tmp_path / "deep" / "work")
    assert workdir.stored() is None
    with workdir.claim(stored(study), PACK) as attempt:
        assert attempt == 0
        with pytest.raises(InUse):
            workdir.check(frame(study, SPEC), ["a"])
    assert workdir.stored() == stored(study)
    assert workdir.packs() == PACK
    for settings, match in (
        (["schedule.final_fraction=0.5"], "holds another study .schedule.final_fraction: 0.0 -> 0.5.: only widths"),
        (["family.head_dim=16", "optimizer.b1=0.8"], "family.head_dim: 8 -> 16; optimizer.b1: 0.9 -> 0.8"),
        (["evaluation.examples=32"], "evaluation.examples: 64 -> 32"),
    ):
        with pytest.raises(UserError, match=match):
            workdir.check(changed(study, *settings).frame, ["a"])
    with pytest.raises(UserError, match=r"data of workdir .* has changed .* give another --workdir"):
        workdir.check(frame(study, SPEC), ["a"], "e" * 16)
    with pytest.raises(UserError, match="has changed"), workdir.claim(stored(study, dataset_hash="e" * 16), PACK):
        pass
    # What changes no loss may change, and so may what a study grows by.
    for settings in (
        ["name=other", "execution.layout=vmap", "fit.bootstrap=7", "data.source=/elsewhere", "optimizer.momentum=0.5"],
        ["ladder.widths=(8,16,32)", "budgets.tokens=1e6", "seeds=(0,1)"],
        ["optimizer.learning_rates=0.5", "optimizer.weight_decays=0.1", "optimizer.batch_size=8"],
    ):
        with workdir.claim(changed(study, *settings), PACK):
            pass


def test_what_changed_since_the_last_start_is_said_in_a_line_each(tmp_path, study, capsys):
    workdir = Workdir(tmp_path / "work")
    with workdir.claim(stored(study, runs=("a", "b", "c")), PACK):
        pass
    assert capsys.readouterr().err == ""
    now = stored(study, code_version="2", device="cpu x2", compute_dtype="bfloat16", runs=("c", "d"))
    with workdir.claim(now, PACK):
        pass
    code, devices, dtype, runs = capsys.readouterr().err.splitlines()
    assert "the code has changed since the last start (1 -> 2)" in code
    assert "(cpu x1 -> cpu x2)" in devices
    assert "compute_dtype was float32 and is bfloat16" in dtype
    assert runs.startswith("scaling-jax: 2 runs of the last start are not part of this study")


def test_other_training_semantics_are_refused(tmp_path, study):
    workdir = Workdir(tmp_path / "work")
    with workdir.claim(stored(study, training_semantics=0), PACK):
        pass
    with pytest.raises(UserError, match="version 0 of the training semantics and this code has version"):
        workdir.check(frame(study, SPEC), ["a"])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"study": {}, "hash": "x", "dataset_hash": "y"}', "written by an older version"),
        ('{"format": 2, "study": {}}', "is damaged"),
        ("[]", "cannot be read .*dictionary"),
        ("null", "cannot be read .*dictionary"),
        ("7", "cannot be read .*dictionary"),
        ('{"format": 2, "study": {}, "spec": {}, "frame": []}', "frame: .*dictionary"),
    ],
)
def test_a_broken_study_file_is_refused_in_one_line(tmp_path, study, content, match):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(UserError, match=match) as error:
        Workdir(tmp_path).check(frame(study, SPEC), ["a"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"vocab_size": "<b>"}, {"vocab_size": None}, {"image_shape": [8]}, {"kind": 3}])
def test_a_broken_description_of_the_data_is_refused_in_one_line(tmp_path, study, change):
    broken = dataclasses.replace(stored(study), spec=dataclasses.asdict(SPEC) | change)
    (tmp_path / "study.json").write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(broken)}))
    with pytest.raises(UserError, match="description of the data in study.json is damaged") as error:
        plan(study, tmp_path)
    assert "\n" not in str(error.value)


def test_the_records_of_packs_grow_together(tmp_path, study):
    workdir = Workdir(tmp_path / "work")
    with workdir.claim(stored(study), PACK):
        pass
    more = {"a": PackRecord("a", ("lane1",), (192,)), "a-2": PackRecord("a", ("lane2",), (48,))}
    with workdir.claim(stored(study), more):
        pass
    assert workdir.packs() == {"a": PackRecord("a", ("lane0", "lane1"), (48, 96, 192)), "a-2": more["a-2"]}
    moved = {"a": PackRecord("a", ("lane2",), (48,))}
    with pytest.raises(InUse, match="changed by another process"), workdir.claim(stored(study), moved):
        pass
    (workdir.path / "checkpoints" / "b.pack.json").write_text('{"scale": 3}')
    assert set(workdir.packs()) == {"a", "a-2"}


def test_a_link_out_of_the_workdir_is_refused(tmp_path, study):
    workdir, outside = Workdir(tmp_path / "work"), tmp_path / "outside"
    outside.mkdir()
    with workdir.claim(stored(study), PACK):
        pass
    for name in ("report", "checkpoints/w8-d1"):
        os.symlink(outside, workdir.path / name)
        with pytest.raises(UserError, match=f"{name}' is a link out of the workdir"):
            workdir.check(frame(study, SPEC), ["a"])
        (workdir.path / name).unlink()
    os.symlink(workdir.path / "runs", workdir.path / "report")  # one inside is the user's own business
    workdir.check(frame(study, SPEC), ["a"])


def test_attempts_are_numbered_past_every_earlier_one(tmp_path, study):
    workdir = Workdir(tmp_path / "work")
    for expected in range(3):
        with workdir.claim(stored(study), PACK) as attempt:
            assert attempt == expected
    attempts = tmp_path / "work" / "attempts"
    (attempts / ".0009-7.json.0123abcd.tmp").touch()
    next(attempts.glob("0000-*")).unlink()
    with workdir.claim(stored(study), PACK) as attempt:
        assert attempt == 3


def test_killed_before_the_study_was_written(tmp_path, study):
    folder = tmp_path / "work"
    (folder / "locks").mkdir(parents=True)
    (folder / ".study.json.0123abcd.tmp").write_text("{half")
    with Workdir(folder).claim(stored(study), PACK):
        pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty"), Workdir(tmp_path / "mine").claim(stored(study), PACK):
        pass
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


@pytest.mark.slow
def test_claim_clears_what_was_left_half_written_but_not_what_is_being_written(tmp_path, study):
    workdir = Workdir(tmp_path / "work")
    with workdir.claim(stored(study), PACK):
        pass
    run = tmp_path / "work" / "runs" / "r"
    run.mkdir(parents=True)
    old, young = run / ".result.json.00000000.tmp", run / ".result.json.00000001.tmp"
    old.touch(), young.touch()
    os.utime(old, (1, 1))
    code = (
        f"from test_workdir import hold; hold({str(workdir.path)!r}, ['b']).__enter__(); print(1, flush=True); input()"
    )
    env = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    other.stdout.readline()  # it holds another pack
    with workdir.claim(stored(study), PACK):
        assert (old.exists(), young.exists()) == (False, True)
    other.kill(), other.wait()
    with workdir.claim(stored(study), PACK):  # nobody is left who could be writing
        assert not young.exists()


def test_what_one_device_compiled_is_loaded_for_the_others():
    compile_cache.share_between_devices()
    hits, seed = [], int.from_bytes(os.urandom(3))  # in no cache yet
    jax.monitoring.register_event_listener(lambda event, **_: event.endswith("cache_hits") and hits.append(event))
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        found = []
        for devices in (jax.devices()[:2], jax.devices()[2:], jax.devices()[1:3]):
            sharding = jax.NamedSharding(jax.make_mesh((2,), ("run",), devices=devices), jax.P("run"))
            x = jax.device_put(np.arange(8, dtype=np.float32), sharding)
            found.append(jax.jit(lambda x: jnp.sin(x) + seed, out_shardings=sharding).lower(x).compile()(x))
            assert found[-1].devices() == set(devices)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
    assert len(hits) == 2
    assert all(np.array_equal(found[0], other) for other in found)


def test_torn_entries_of_the_compilation_cache_go_and_whole_ones_stay(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    program = os.urandom(1000)
    whole = {"zlib-cache": zlib.compress(program), "zstd-cache": zstandard.ZstdCompressor().compress(program)}
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / f"torn-{name}").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty-cache").touch()
    (tmp_path / "unrelated").write_text("kept")
    compile_cache.remove_torn(tmp_path)
    assert set(os.listdir(tmp_path)) == {*whole, "unrelated", ".checked"}
    (tmp_path / "later-cache").write_bytes(whole["zlib-cache"][:50])
    (tmp_path / "seen-cache").touch()
    os.utime(tmp_path / "seen-cache", (1, 1))  # long before the last look: not read again
    compile_cache.remove_torn(tmp_path)
    assert set(os.listdir(tmp_path)) == {*whole, "unrelated", "seen-cache", ".checked"}
    compile_cache.remove_torn(tmp_path / "missing")
