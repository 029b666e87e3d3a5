"""Wrong input to the command line: one line on stderr that says what and the way out, exit 2, nothing written."""

import json
import re
import subprocess
import sys

import ladder
import pandas as pd
import pytest

from scaling_jax.storage.records import COLUMNS


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a study, in which the command runs; its data cache is elsewhere."""
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "home"
    folder.mkdir()
    ladder.write_study(folder)
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
        ("optimizer.batch_size=four", "integer.*'four'"),
        ("optimizer.batch_size=4.5", "integer"),
        ("optimizer.batch_size=-1", "greater than 0"),
        ("optimizer.batch_size.x=1", "'batch_size' is a value"),
        ("optimizer=adam", "'optimizer' is a group"),
        (
            "optimizer.name=adam",
            "optimizer.name='adam' is not registered; did you mean 'adamw'.* known: adamw, lion, muon, ",
        ),
        ("schedule.cooldown_fraction=1.5", "less than 1"),
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


def test_workdir_of_another_study(home):
    workdir = home / "work"
    workdir.mkdir()
    other = {"study": {"optimizer": {"batch_size": 64}}, "hash": "f" * 16, "dataset_hash": "0" * 16}
    (workdir / "study.json").write_text(json.dumps(other))
    err = complaint(home, "run", "--study=tiny.py", f"--workdir={workdir}")
    assert "belongs to another study" in err
    assert "optimizer.batch_size" in err
    (workdir / "study.json").write_text("{half")
    assert "damaged" in complaint(home, "run", "--study=tiny.py", f"--workdir={workdir}")
    (workdir / "study.json").unlink()
    (workdir / "thesis.tex").write_text("years of work")
    assert "not empty" in complaint(home, "run", "--study=tiny.py", f"--workdir={workdir}")
    assert "is a file" in complaint(home, "run", "--study=tiny.py", f"--workdir={workdir / 'thesis.tex'}")
    assert "is a file" in complaint(home, "run", "--study=tiny.py", f"--workdir={workdir / 'thesis.tex' / 'deeper'}")


def test_collect_and_report(home):
    assert "do not exist" in complaint(home, "collect", "--workdir=nowhere", "--out=a.csv")
    assert "needs --workdir" in complaint(home, "collect", "--out=a.csv")
    assert "needs --workdir" in complaint(home, "collect", "--workdir=nowhere")
    assert "no study.json" in complaint(home, "report", "--workdir=nowhere")
    assert "needs --workdir" in complaint(home, "report")
    empty = home / "empty"
    empty.mkdir()
    (empty / "study.json").write_text(json.dumps({"study": {}, "hash": "", "dataset_hash": ""}))
    assert "no finished run" in complaint(home, "collect", "--workdir=empty", "--out=a.csv")
    assert "no finished run" in complaint(home, "report", "--workdir=empty")
    run = empty / "runs" / "r"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps({"run_id": "r", "flops": 1.0}))
    (run / "_SUCCESS").touch()
    assert "lack the columns" in complaint(home, "collect", "--workdir=empty", "--out=a.csv")
    (run / "result.json").write_text(json.dumps(dict.fromkeys(COLUMNS, 1)))
    assert "unknown ending" in complaint(home, "collect", "--workdir=empty", "--out=a.txt")


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


def test_a_real_process_says_the_same(home):
    command = [sys.executable, "-m", "scaling_jax", "run", "--study=missing.py", "--workdir=new"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "scaling-jax: study 'missing.py' is not a file; give --study=FILE.py with a get_study() function\n"
    )
    assert not (home / "new").exists()
