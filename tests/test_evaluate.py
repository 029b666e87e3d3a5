"""Scores of finished runs on other data, compressed and averaged: right, resumed, fitted, refused."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

import bad_inputs
import httpx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ladder import TRANSFORMER, Cli, run_here, write_study
from test_bad_input import problems, snapshot

import scaling_jax as sj
from scaling_jax import results
from scaling_jax.models import CNN, Spec, Transformer
from scaling_jax.settings import ValidationSet
from scaling_jax.storage.records import Records
from scaling_jax.trained import Models, evaluate
from scaling_jax.trained.compress import prune, quantize, treatments
from scaling_jax.trained.scores import dataset_of
from scaling_jax.trained.scoring import Scorer


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A trained ladder of one scale with two seeds, whose study names a further set; the report is left out."""
    folder = tmp_path_factory.mktemp("evaluate")
    study = sj.load_study(write_study(folder, TRANSFORMER))
    (folder / "other.txt").write_text("".join(f"{k} models and {k + 1} laws\n" for k in range(4000)))
    small = [
        "seeds=(0,1)", "optimizer.learning_rates=0.02", "ladder.widths=16", "budgets.tokens=(3840,7680)",
        f"evaluation.sets=[{{'name': 'other', 'source': {str(folder / 'other.txt')!r}}}]",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling_jax.api.write_report", lambda path: "")
        patch.setenv("SCALING_JAX_CACHE", str(folder / "cache"))
        sj.run(sj.override(study, small), folder / "w", verbose=False)
        yield folder


def without_sets(home):
    """The results when the study, which is done, names no further set any more."""
    study = sj.override(sj.load(home / "w").study, ["evaluation.sets=()"])
    return sj.run(study, home / "w", verbose=False).table


def test_restored_models_have_their_loss(home):
    models = Models(home / "w")
    row = models.best("w16-d1")
    assert row["loss"] == min(r["loss"] for r in models.rows.values() if r["tokens"] == 7680)
    model = models.load()
    (found,) = Scorer(model.model, dataset_of(models, None), model.study).each([model.params])
    for name in ("loss", "bits_per_byte", "token_accuracy", "unigram_normalized"):
        assert found[name] == pytest.approx(row[name], rel=1e-5), name


def test_the_study_s_sets_are_columns_and_no_part_of_the_runs_identity(home):
    table = sj.load(home / "w").table
    assert table.loss_other.notna().all() and (table.loss_other > table.loss).all()
    np.testing.assert_allclose(table.bits_per_byte_other, table.loss_other / np.log(2))  # tokens are bytes
    assert list(without_sets(home).run_id) == list(table.run_id)


def test_a_set_by_hand(home):
    """Against a loop over the validation windows of the other text."""
    models = Models(home / "w")
    model, dataset = models.load(), dataset_of(models, ValidationSet(name="other", source=str(home / "other.txt")))
    tokens = np.asarray(dataset.validation, np.int32)
    inputs = Scorer(model.model, dataset, model.study).inputs_NxB
    nats, right = [], []
    for start in np.asarray(inputs).ravel():
        window = tokens[start * 16 : start * 16 + 17]
        log_p = jax.nn.log_softmax(model.logits(window[None, :-1])[0])
        nats += (-log_p[np.arange(16), window[1:]]).tolist()
        right += (jnp.argmax(log_p, -1) == window[1:]).tolist()
    row = sj.load(home / "w").table.set_index("run_id").loc[model.row["run_id"]]
    assert row.loss_other == pytest.approx(np.mean(nats), rel=1e-5)
    assert row.token_accuracy_other == pytest.approx(np.mean(right), abs=1e-9)


@pytest.mark.slow
def test_ensembles_and_compression_are_columns_that_can_be_fitted(home):
    columns = evaluate(home / "w", treatments=treatments(["int8", "int4"], ["0.5"], True))
    table = sj.load(home / "w").table
    assert set(columns) <= set(table)
    change = {name: (table[f"loss_{name}"] - table.loss).abs().max() for name in ("int8", "int4", "pruned50")}
    assert 0 < change["int8"] < change["int4"] < change["pruned50"]
    by_budget = table.groupby("tokens")
    assert (by_budget.loss_ensemble.count() == 1).all(), "a value for the first seed only"
    assert (by_budget.loss_ensemble.max() < by_budget.loss.mean()).all()

    models = Models(home / "w")
    rows = [row for row in models.rows.values() if row["tokens"] == 7680]
    params = models.params(rows)
    model, dataset = models.load(), dataset_of(models, None)
    scorer = Scorer(model.model, dataset, model.study)
    window = np.asarray(dataset.validation[:17], np.int32)
    p = np.mean([jax.nn.softmax(model.model.logits(params[r["run_id"]], window[None, :-1])[0]) for r in rows], axis=0)
    expected = -np.log(p[np.arange(16), window[1:]]).mean()
    scorer.inputs_NxB = jnp.zeros((1, 1), jnp.int32)
    assert scorer.ensemble(list(params.values()))["loss"] == pytest.approx(expected, rel=1e-5)
    analysis = sj.analyse(sj.load(home / "w"), fit=sj.study.Fit(metric="token_accuracy_int8", bootstrap=0))
    assert analysis.metric == "token error int8" and analysis.used == 4


def die_at_the_third_score() -> None:
    """Ends this process by SIGKILL where it is about to write its third score."""
    write, written = Records.write_score, []

    def write_or_die(self, name, ident, content):
        if len(written) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, name, ident, content)
        written.extend([ident] if ident != "set" else [])

    Records.write_score = write_or_die


@pytest.mark.slow
def test_a_killed_evaluate_scores_only_the_rest(home, tmp_path, monkeypatch):
    """The table is bit by bit that of an undisturbed run, and nothing that was written is written again."""
    for name in ("whole", "killed"):
        shutil.copytree(home / "w", tmp_path / name, ignore=shutil.ignore_patterns("scores"))
    cli = Cli(tmp_path / "log")
    flags = ("--prune=0.75,0.9", "--num_cpu_devices=2")
    assert cli.run("evaluate", f"--workdir={tmp_path / 'whole'}", *flags) == 0, cli.said()
    assert "w16-d1: 8 scores" in cli.said()

    command = ("evaluate", f"--workdir={tmp_path / 'killed'}", *flags)
    assert cli.run(*command, before=die_at_the_third_score) == -signal.SIGKILL
    left = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "scores").rglob("*.json")}
    assert sum(path.stem != "set" for path in left) == 2
    assert cli.run(*command) == 0 and "w16-d1: 6 scores" in cli.said()
    assert all(path.stat().st_mtime_ns == before for path, before in left.items())
    for file in (
        "results.csv",
        *(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob("scores/*/*")),
    ):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file

    monkeypatch.setattr("scaling_jax.trained.scores.dataset_of", None)
    evaluate(tmp_path / "killed", treatments=treatments(pruned=["0.75", "0.9"]))  # nothing is missing: no data is read


def test_quantize_by_hand():
    w = np.array([[1.0, -0.2], [0.52, 0.11], [-0.31, 0.16]], np.float32)
    out = quantize({"w": w, "gain": w[:, 0]}, {"w": True, "gain": False}, 4)
    np.testing.assert_allclose(out["w"][:, 0], np.round(w[:, 0] * 7) / 7, rtol=1e-6)
    np.testing.assert_allclose(out["w"][:, 1], np.round(w[:, 1] / 0.2 * 7) / 7 * 0.2, rtol=1e-6)
    assert (out["gain"] == w[:, 0]).all()
    stacked = quantize({"w": np.stack([w, 100 * w])}, {"w": True}, 8)["w"]
    np.testing.assert_allclose(stacked[1], 100 * stacked[0], rtol=1e-5)
    error = np.abs(stacked[0] - w) / np.abs(w).max(0)
    assert 0 < error.max() <= 0.5 / 127 + 1e-6


@pytest.mark.parametrize("shape", [(30, 40), (3, 20, 20), (3, 3, 8, 16), (2, 3, 3, 8, 16)])
def test_prune_zeroes_the_smallest_of_every_layer(shape):
    w = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    out = np.asarray(prune({"w": w}, {"w": True}, 0.3)["w"])
    layers = list(zip(w, out)) if len(shape) in (3, 5) else [(w, out)]
    for before, after in layers:
        assert (after == 0).sum() == int(0.3 * before.size)
        assert np.abs(before[after == 0]).max() <= np.abs(after[after != 0]).min()
        assert (after[after != 0] == before[after != 0]).all()


@pytest.mark.parametrize("family, width", [(CNN(stages=2), 8), (Transformer(head_dim=8), 16)])
def test_every_matrix_of_our_families_is_compressed(family, width):
    from scaling_jax.models import Scaling
    from scaling_jax.study import Execution

    spec = Spec("images", 10, 1, (8, 8, 1)) if family.inputs == "images" else Spec("tokens", 32, 8)
    execution = Execution(compute_dtype="float32", scan_layers=True, remat=False, attention="xla")
    model = family.build(width, 3, spec, Scaling("standard", width, width), execution)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    out = quantize(params, model.decay_mask, 4)
    for (path, before), after, matrix in zip(
        jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(out), jax.tree.leaves(model.decay_mask)
    ):
        after, layer = np.asarray(after), np.asarray(after)[0] if before.ndim in (3, 5) else np.asarray(after)
        channels = layer.reshape(-1, layer.shape[-1])
        values = max(len(np.unique(channels[:, c])) for c in range(channels.shape[1]))
        assert values <= 15 or not matrix, jax.tree_util.keystr(path)
        assert matrix or (before == after).all()


@pytest.mark.parametrize(
    "flags, said",
    [
        ((), "nothing to evaluate"),
        (("--quantize=int3",), "int8 or int4"),
        (("--prune=1.5",), "--prune=1.5"),
        (("--prune=0",), "--prune=0"),
        (("--source=nowhere.txt",), "does not exist"),
        (("--name=x",), "--name is of a --source"),
        (("--source=digits",), "images, vocabulary 10"),
        (("--source=OTHER", "--name=9"), "beginning with a letter"),
        (("--source=TEXT", "--name=other"), "'other' is taken by scores on other data"),
        (("stray",), "stray"),
    ],
)
def test_bad_input(home, flags, said):
    names = {"OTHER": str(home / "other.txt"), "TEXT": str(home / "text.txt")}
    flags = [flag.replace("OTHER", names["OTHER"]).replace("TEXT", names["TEXT"]) for flag in flags]
    if not flags:
        without_sets(home)
    code, _, err = run_here("evaluate", f"--workdir={home / 'w'}", *flags)
    assert code == 2 and err.count("\n") == 1 and said in err, err


def test_workdirs_without_models(home, tmp_path):
    code, _, err = run_here("evaluate", f"--workdir={tmp_path}", "--quantize=int8")
    assert code == 2 and "not a workdir" in err
    assert run_here("evaluate")[0] == 2
    (home / "w" / "checkpoints" / "w16-d1").rename(home / "away")
    code, _, err = run_here("evaluate", f"--workdir={home / 'w'}", "--prune=0.26")
    (home / "away").rename(home / "w" / "checkpoints" / "w16-d1")
    assert code == 2 and "has no checkpoint" in err and err.count("\n") == 1
    assert not (home / "w" / "scores" / "pruned26").exists()


def test_scores_are_not_written_through_a_link(home, tmp_path):
    link = home / "w" / "scores" / "pruned27"
    link.symlink_to(tmp_path)
    code, _, err = run_here("evaluate", f"--workdir={home / 'w'}", "--prune=0.27")
    link.unlink()
    assert code == 2 and "link out of the workdir" in err and not list(tmp_path.iterdir())


def test_two_sets_of_one_name(home):
    study = sj.load(home / "w").study
    one = ValidationSet(name="a", source=str(home / "other.txt"))
    with pytest.raises(sj.UserError, match="two sets are called 'a'"):
        sj.plan(sj.override(study, [f"evaluation.sets=[{vars(one)!r}, {vars(one)!r}]"]))


def test_sample_and_export_from_the_command_line(home, monkeypatch):
    """Down the ladder, reproducibly; what is exported has the tokenizer of bytes; paths are relative."""
    monkeypatch.chdir(home)
    flags = ("--prompt=the law", "--max_tokens=5", "--temperature=0.5", "--seed=3")
    code, out, err = run_here("sample", "--workdir=w", "--all_scales", *flags)
    assert code == 0 and out.startswith("--- w16-d1  loss ") and "the law" in out and "tokens/s" in err
    code, again, err = run_here("sample", "--workdir=w", "--all_scales", "--save", *flags)
    assert code == 0 and again == out and "scaling-jax report shows them" in err
    (saved,) = Records(home / "w").samples()
    assert (saved["scale"], saved["prompt"], saved["settings"]) == ("w16-d1", "the law", "temperature 0.5, seed 3")
    assert f"the law{saved['text']}\n" in out and results.about(home / "w")["samples"] == [saved]
    for damage in ([{}], [saved | {"loss": "low"}], [saved | {"text": None}], {"a": 1}):
        (home / "w" / "samples.json").write_text(json.dumps(damage))
        assert Records(home / "w").samples() == []
    code, out, _ = run_here("export", "--workdir=w", "--scale=w16-d1", "--out=exported")
    assert code == 0 and (home / "exported" / "transformers" / "tokenizer.json").exists() and "loss" in out


def test_the_page_s_python(home, capsys):
    page = (pathlib.Path(__file__).parents[1] / "docs" / "after_training.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code.replace("runs/text_quickstart", str(home / "w")).replace("w64-d2", "w16-d1"), {})
    assert len(capsys.readouterr().out.splitlines()) > 3


@pytest.mark.parametrize(
    "command, flags, said",
    [
        ("sample", ("--scale=w7-d7",), "there are w16-d1"),
        ("sample", ("--run_id=none",), "no finished run of that id"),
        ("sample", ("--prompt=" + "x" * 40,), "contexts of 16"),
        ("sample", ("--temperature=-1",), "temperature"),
        ("sample", ("--save",), "give --all_scales"),
        ("sample", ("--max_tokens=100",), "at most 15"),
        ("classify", (), "read text: use scaling-jax sample"),
        ("classify", ("--out=x.txt",), "is a .png"),
        ("export", ("--scale=w7-d7", "--out=new"), "there are w16-d1"),
        ("serve", ("--scale=w7-d7",), "there are w16-d1"),
        ("serve", ("--port=99999",), "port"),
        ("serve", ("--host=256.1.1.1",), "cannot listen"),
    ],
)
def test_bad_input_of_the_other_commands(home, command, flags, said):
    code, _, err = run_here(command, f"--workdir={home / 'w'}", *flags)
    assert code == 2 and err.strip().count("\n") == 0 and said in err, err


@pytest.mark.parametrize("command", bad_inputs.TRAINED)
def test_flags_and_arguments_of(home, tmp_path, monkeypatch, command):
    (tmp_path / "trained").symlink_to(home / "w")
    for name in ("text.txt", "tiny.py"):
        (tmp_path / name).write_text((home / name).read_text())
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    monkeypatch.chdir(tmp_path)
    before = snapshot(home / "w")
    cases = [(command, "--workdir=trained", *shlex.split(row)) for row in bad_inputs.TRAINED[command]]
    assert problems(tmp_path, cases) == []
    assert snapshot(home / "w") == before


@pytest.mark.slow
def test_serves_until_it_is_told_to_stop(home):
    command = [sys.executable, "-m", "scaling_jax", "serve", f"--workdir={home / 'w'}", "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        address = re.search(r"on (http://127\.0\.0\.1:\d+); Ctrl-C stops", line)[1]
        answer = httpx.post(f"{address}/v1/completions", json={"prompt": "the", "max_tokens": 3}, timeout=60)
        assert answer.json()["usage"]["total_tokens"] >= 5
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 0 and "stopped after 1 requests" in rest, rest
