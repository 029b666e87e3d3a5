"""Wrong input to the command line: one line on stderr that says what and the way out, exit 2, nothing written."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator

import bad_inputs
import ladder
import pandas as pd
import pytest

import scaling_jax as sj
from scaling_jax import signals
from scaling_jax.engines import local
from scaling_jax.planning import frame
from scaling_jax.storage.records import COLUMNS, TEXTS
from scaling_jax.storage.workdir import FORMAT, Stored
from scaling_jax.study_file import load_study


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a study, in which the command runs; its data cache is elsewhere."""
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "home"
    folder.mkdir()
    ladder.write_study(folder, ladder.TRANSFORMER)
    monkeypatch.chdir(folder)
    return folder


def complaint(home, *args, said_before=""):
    """The one line that a command ends with, which must have written nothing; `said_before` matches what came first."""
    before = {name: (home / name).stat().st_mtime_ns for name in ladder.files(home)}
    code, out, err = ladder.run_here(*args)
    assert code == 2, err
    assert out == ""
    assert re.fullmatch(rf"{said_before}scaling-jax: [^\n]+\n", err), err
    assert "Traceback" not in err
    assert {name: (home / name).stat().st_mtime_ns for name in ladder.files(home)} == before
    return err


def both(home, *args, match):
    """`plan` and `run` refuse alike."""
    for command in ("plan", "run"):
        extra = ["--workdir=new/folder"] if command == "run" else []
        err = complaint(home, command, *args, *extra)
        assert re.search(match, err), err


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (None, "not a file.*get_study"),
        ("x = 1", r"no function get_study\(\)"),
        ("def get_study():\n    raise RuntimeError('two\\nlines')", "raised RuntimeError: two lines"),
        ("def get_study(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError.*nothing_of_that_name"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("def get_study():\n    return {'name': 'x'}", "returned dict"),
        ("get_study = 3", r"no function get_study\(\)"),
        (
            "from scaling_jax.study import Ladder\ndef get_study():\n    return Ladder(widths=(0,))",
            "widths.*greater than 0",
        ),
    ],
)
def test_study_file(home, source, match):
    if source is not None:
        (home / "wrong.py").write_text(source)
    both(home, "--study=wrong.py", match=match)


@pytest.mark.parametrize("args", [[], ["--study="], ["--study=tiny.txt"], ["--study=."], ["tiny.py"]])
def test_no_study(home, args):
    (home / "tiny.txt").write_text("def get_study(): pass")
    both(home, *args, match="study|argument")


@pytest.mark.parametrize(
    ("assignment", "match"),
    [
        ("optimizer.learning_rate=0.1", "no field 'learning_rate'; nearest: learning_rates"),
        ("optimiser.batch_size=4", "no field 'optimiser'; nearest: optimizer"),
        ("optimizer.batch_size=four", "'four' is not a rule of batch_size: give a number"),
        ("optimizer.batch_size=4.5", "4.5 is not a whole number"),
        ("optimizer.batch_size=-1", r"-1 is not in \[1, 1e"),
        ("optimizer.batch_size.x=1", "'batch_size' is a value"),
        ("optimizer=adam", "'optimizer' is a group"),
        (
            "optimizer.name=adam",
            "optimizer.name='adam' is not registered; did you mean 'adamw'.* known: adamw, .*lion, muon, ",
        ),
        ("schedule.cooldown_fraction=1.5", r"1.5 is not in \(0, 1\)"),
        ("budgets.tokens=nan", "tokens"),
        ("budgets.tokens=lots", "tokens"),
        ("seeds=[0, 0]", "twice"),
        ("ladder.widths=[8, 8]", "twice"),
        ("ladder.depths=[1, 2, 3]", "one depth per width"),
        ("ladder.widths=()", "at least 1"),
        ("family.head_dims=8", "no field 'head_dims'"),
        ("batch_size", "field.path=value"),
        ("data.source=no_such_source", "no_such_source"),
        ("ladder.widths=12", r"12.*head_dim|head_dim.*12"),
        ("budgets.tokens=0", "greater than 0"),
        ("budgets.tokens=-1e6", "greater than 0"),
        ("budgets.flops=-1e6", "greater than 0"),
        ("budgets.tokens=30", "less than one batch"),
        ("budgets.tokens=128", "min_steps"),
        ("budgets.tokens=()", "give at least one of budgets"),
        ("schedule.warmup_steps=1000", "no step is left after"),
        ("fit.law=chinchila", "fit.law: No law named 'chinchila'. Nearest: chinchilla"),
    ],
)
def test_override(home, assignment, match):
    both(home, "--study=tiny.py", f"--set={assignment}", match=match)


def test_override_in_two_words_and_unknown_flags(home):
    both(home, "--study=tiny.py", "--set", "a.b=1", match="no field 'a'")
    both(home, "--study=tiny.py", "--sett=a", match="sett")
    both(home, "--study=tiny.py", "stray", match="unexpected argument 'stray'")
    both(home, "--study=tiny.py", "--num_cpu_devices=0", match="num_cpu_devices")
    assert "unknown command 'rum'" in complaint(home, "rum")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, "no text files"),
        ({"a.txt": b""}, "no text files"),
        ({"only.bin": bytes(range(256)) * 40}, "no text files"),
        (bytes(range(256)) * 400, "binary|not UTF-8"),
        ("é".encode("latin-1") * 100_000, "not UTF-8"),
        (b"", "empty"),
    ],
    ids=["empty folder", "empty file in folder", "binary file in folder", "binary file", "latin-1 file", "empty file"],
)
def test_text(home, content, match):
    path = home / "data"
    if isinstance(content, dict):
        path.mkdir()
        for name, data in content.items():
            (path / name).write_bytes(data)
    else:
        path.write_bytes(content)
    for command, extra in (("plan", []), ("run", ["--workdir=new"])):
        if command == "plan" and match == "not UTF-8":
            continue  # a plan does not read the text
        args = (command, "--study=tiny.py", f"--set=data.source={path}", *extra)
        # That a file is no text may show only while it is read, after a line that says what begins.
        progress = "(study '[^\n]+\n)?" if match == "not UTF-8" else ""
        assert re.search(match, complaint(home, *args, said_before=progress))


def study_json(home, *overrides):
    """study.json of a workdir of tiny.py with these overrides."""
    study = load_study(home / "tiny.py", overrides)
    spec = sj.plan(study).spec
    stored = Stored(study.to_dict(), dataclasses.asdict(spec), frame(study, spec), "0" * 16, "float32", "", "", ("r",))
    return json.dumps({"format": FORMAT, **dataclasses.asdict(stored)})


def test_workdir_of_another_study(home):
    workdir = home / "work"
    workdir.mkdir()
    (workdir / "study.json").write_text(study_json(home, "optimizer.clip_norm=7"))
    err = complaint(home, "run", "--study=tiny.py", f"--workdir={workdir}")
    assert "holds another study" in err
    assert "optimizer.clip_norm" in err
    (workdir / "study.json").write_text("{half")
    assert "cannot be read" in complaint(home, "run", "--study=tiny.py", f"--workdir={workdir}")
    (workdir / "study.json").unlink()
    (workdir / "thesis.tex").write_text("years of work")
    assert "not empty" in complaint(home, "run", "--study=tiny.py", f"--workdir={workdir}")
    assert "is a file" in complaint(home, "run", "--study=tiny.py", f"--workdir={workdir / 'thesis.tex'}")
    assert "is a file" in complaint(home, "run", "--study=tiny.py", f"--workdir={workdir / 'thesis.tex' / 'deeper'}")


def test_collect_and_report(home):
    assert "do not exist" in complaint(home, "collect", "--workdir=nowhere", "--out=a.csv")
    assert "needs --workdir" in complaint(home, "collect", "--out=a.csv")
    assert "needs --workdir" in complaint(home, "collect", "--workdir=nowhere")
    assert "'nowhere' do not exist" in complaint(home, "report", "--workdir=nowhere")
    assert "needs --workdir" in complaint(home, "report")
    empty = home / "empty"
    empty.mkdir()
    (empty / "study.json").write_text(study_json(home))
    assert "no finished run" in complaint(home, "collect", "--workdir=empty", "--out=a.csv")
    assert "no finished run" in complaint(home, "report", "--workdir=empty")
    run = empty / "runs" / "r"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps({"run_id": "r", "flops": 1.0}))
    (run / "_SUCCESS").touch()
    assert "lack the columns" in complaint(home, "collect", "--workdir=empty", "--out=a.csv")
    row = dict.fromkeys(COLUMNS, 1) | dict.fromkeys(TEXTS & set(COLUMNS), "x") | {"run_id": "r"}
    (run / "result.json").write_text(json.dumps(row))
    assert "unknown ending" in complaint(home, "collect", "--workdir=empty", "--out=a.txt")
    assert "lack the columns trunk_id" in complaint(home, "report", "--workdir=empty")
    (home / "outside").mkdir()
    (empty / "report").symlink_to(home / "outside")
    assert "link out of the workdir" in complaint(home, "report", "--workdir=empty")


def test_fit(home):
    pytest.importorskip("scaling_jax.cli.fit")
    table = pd.DataFrame({"params_matmul": [1e3, 1e4], "tokens": [1e5, 1e6], "loss": [3.0, 2.5]})
    table.to_csv(home / "few.csv", index=False)
    table.drop(columns="loss").to_csv(home / "lossless.csv", index=False)
    (home / "text.csv").write_text("this is\nno,table,at,all\n1,2,3,4,5,6\n")
    assert re.search("5 .*parameters|parameters.* 5", complaint(home, "fit", "--results=few.csv", "--law=chinchilla"))
    assert "loss" in complaint(home, "fit", "--results=lossless.csv", "--law=chinchilla")
    assert "cannot be read" in complaint(home, "fit", "--results=text.csv")
    assert "do not exist" in complaint(home, "fit", "--results=nowhere.csv")
    assert "chinchila" in complaint(home, "fit", "--results=few.csv", "--law=chinchila")


@pytest.mark.slow
def test_a_real_process_says_the_same(home):
    command = [sys.executable, "-m", "scaling_jax", "run", "--study=missing.py", "--workdir=new"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "scaling-jax: study 'missing.py' is not a file; give --study=FILE.py with a get_study() function\n"
    )
    assert not (home / "new").exists()


# Every list of bad_inputs, in one process: what is asserted of each is the same.


@contextlib.contextmanager
def patience(seconds: int):
    """Raises TimeoutError in what takes far too long, so that a hang is a failure and not the end of the tests."""

    def stop(number, frame):
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def snapshot(folder: pathlib.Path) -> dict[str, int]:
    """Everything below a folder with the time of its last change."""
    return {
        os.path.join(place, name): os.lstat(os.path.join(place, name)).st_mtime_ns
        for place, folders, names in os.walk(folder)
        for name in (*folders, *names)
    }


def problem(home: pathlib.Path, args: tuple[str, ...]) -> str | None:
    """How a command fails to refuse its input as it should: exit 2, one line, nothing on stdout, nothing written."""
    before = snapshot(home)
    try:
        with patience(60):
            code, out, err = ladder.run_here(*args)
    except BaseException as error:
        return f"raised {type(error).__name__}: {str(error)[:200]}"
    lines = err.splitlines()
    if code != 2:
        return f"exit {code}: {(lines or [out])[-1][:300]}"
    if len(lines) != 1 or not lines[0].startswith("scaling-jax: ") or len(lines[0]) < 20:
        return f"not one line: {err[:300]!r}"
    if out:
        return f"wrote on stdout: {out[:100]!r}"
    if (after := snapshot(home)) != before:
        return f"wrote {sorted(set(after) ^ set(before))[:3] or 'into a file'}"
    return None


def problems(home: pathlib.Path, cases: Iterable[tuple[str, ...]]) -> list[str]:
    found = []
    for args in cases:
        if wrong := problem(home, args):
            found.append(f"{' '.join(arg if len(arg) < 90 else arg[:80] + '...' for arg in args)!r}: {wrong}")
    return found


@pytest.fixture
def crowded(home, monkeypatch):
    """The home with everything in it that the lists name."""
    (home / "loop").symlink_to("loop")
    (home / "dangling").symlink_to("nowhere")
    os.mkfifo(home / "fifo")  # reading it would wait for ever
    (home / "folder.py").mkdir()
    (home / "folder").mkdir()
    (home / "tiny.txt").write_text("def get_study(): pass")
    (home / "binary.py").write_bytes(bytes(range(256)))
    (home / "full").mkdir()
    (home / "full" / "thesis.tex").write_text("years of work")
    (home / "unreadable.py").write_text("x = 1")
    (home / "unreadable.py").chmod(0)
    rows = [(n, d, 1.7 + 400 / n**0.34 + 410 / d**0.28) for n in (1e6, 1e7, 1e8) for d in (1e8, 1e9, 1e10, 1e11)]
    pd.DataFrame(rows, columns=["params", "tokens", "loss"]).assign(name="x").to_csv(home / "runs.csv", index=False)
    (home / "work").mkdir()
    (home / "work" / "study.json").write_text(study_json(home))
    monkeypatch.setattr(signal, "getsignal", lambda number: signals._stop)  # as on the command line
    monkeypatch.setattr(local, "check_devices", lambda *args, **kwargs: pytest.fail("the input was accepted"))
    return home


def filled(reader: str, place: str) -> tuple[str, ...]:
    """A command with a place in it that may hold blanks."""
    return tuple(word.replace("{}", place) for word in reader.split())


def commands(assignments: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Overrides given to `plan` and `run` in turn: both read them with the same function."""
    for index, assignment in enumerate(assignments):
        command = ("plan",) if index % 2 else ("run", "--workdir=new/folder")
        yield (*command, "--study=tiny.py", f"--set={assignment}")


@pytest.mark.slow
def test_every_number_and_choice_of_a_study(crowded):
    assert problems(crowded, commands(f"{path}={value}" for path, value in bad_inputs.field_values())) == []


def test_overrides_that_cannot_be(crowded):
    assert problems(crowded, commands(bad_inputs.OVERRIDES)) == []


@pytest.mark.parametrize("kernel, backend", [("splash", "TPU"), ("cudnn", "GPU")])
def test_a_kernel_of_another_backend_is_refused_before_anything_is_written(home, kernel, backend):
    err = complaint(home, "run", "--study=tiny.py", f"--set=execution.attention={kernel}", "--workdir=new")
    assert f"runs on {backend} only, and this is CPU" in err


def test_broken_study_files(crowded):
    sources = dict(bad_inputs.STUDIES)
    sources |= {f"family{i}": bad_inputs.FAMILY.format(family=f) for i, f in enumerate(bad_inputs.FAMILIES)}
    for name, source in sources.items():
        (crowded / f"{name}.py").write_text(source)
    studies = (*(f"{name}.py" for name in sources), *bad_inputs.PATHS)
    cases = [("plan", f"--study={study}") for study in studies]
    assert problems(crowded, [*cases, *(("run", *case[1:], "--workdir=new") for case in cases)]) == []


def test_workdirs_that_cannot_be(crowded):
    for name, content in bad_inputs.JSONS.items():
        (crowded / "broken" / name).mkdir(parents=True)
        (crowded / "broken" / name / "study.json").write_text(content)
    places = [*bad_inputs.WORKDIRS, *(f"broken/{name}" for name in bad_inputs.JSONS)]
    readers = [(r, p) for r in bad_inputs.WORKDIR_READERS for p in places]
    readers += [(r, p) for r in bad_inputs.TABLE_READERS for p in places if p != "text.txt"]
    assert problems(crowded, [filled(reader, place) for reader, place in readers]) == []


def test_tables_that_cannot_be(crowded):
    for name, content in bad_inputs.TABLES.items():
        (crowded / name).write_text(content)
    cases = [filled(reader, name) for reader in bad_inputs.TABLE_READERS for name in bad_inputs.TABLES]
    assert problems(crowded, cases) == []


@pytest.mark.parametrize("command", bad_inputs.COMMANDS)
def test_flags_and_arguments_of(crowded, command):
    cases = [(command, *shlex.split(row)) for row in bad_inputs.COMMANDS[command]]
    assert problems(crowded, cases) == []


def test_flags_of_fit_that_cannot_be(crowded):
    cases = [("fit", "--results=runs.csv", "--resamples=20", flag) for flag in bad_inputs.FIT_FLAGS]
    assert problems(crowded, cases) == []


def test_there_are_many():
    """The number that is aimed at, so that a list that becomes empty is noticed."""
    places = len(bad_inputs.WORKDIRS) + len(bad_inputs.JSONS)
    readers = len(bad_inputs.WORKDIR_READERS) + len(bad_inputs.TABLE_READERS)
    count = len(list(bad_inputs.field_values())) + len(bad_inputs.OVERRIDES) + len(bad_inputs.FIT_FLAGS)
    count += 2 * (len(bad_inputs.STUDIES) + len(bad_inputs.FAMILIES) + len(bad_inputs.PATHS)) + places * readers
    count += len(bad_inputs.TABLE_READERS) * len(bad_inputs.TABLES) + sum(map(len, bad_inputs.COMMANDS.values()))
    count += sum(map(len, bad_inputs.TRAINED.values()))
    assert count > 1600
