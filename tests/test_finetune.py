"""Studies that start from the trained models of another: their parameters, identity, columns, resumption, refusals."""

import dataclasses
import random
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from ladder import TRANSFORMER, WORDS, run_here, table, write_study

import scaling_jax as sj
from scaling_jax import data
from scaling_jax.engines import estimate
from scaling_jax.planning import make_plan
from scaling_jax.trained import Models, starts
from scaling_jax.training.piece import PieceTrainer

pytestmark = pytest.mark.slow

SMALL = ("seeds=(0,1)", "optimizer.learning_rates=0.02", "ladder.widths=16", "budgets.tokens=(3840,7680)")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Trained models in `w`, those that start from them in `tuned`, and a study; reports are left out."""
    folder = tmp_path_factory.mktemp("finetune")
    study = sj.override(sj.load_study(write_study(folder, TRANSFORMER)), SMALL)
    rng = random.Random(1)
    lines = (" ".join(rng.choices(WORDS.split(), k=9)) + "\n" for _ in range(4000))
    (folder / "other.txt").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scaling_jax.api.write_report", lambda path: "")
        patch.setenv("SCALING_JAX_CACHE", str(folder / "cache"))
        sj.run(study, folder / "w", verbose=False)
        sj.run(tuned(folder), folder / "tuned", verbose=False)
        yield folder


def tuned(home, *changes, source="w"):
    """A study on the other text that starts from the workdir."""
    study = sj.override(sj.load_study(home / "tiny.py"), SMALL)
    settings = (f"data.source={str(home / 'other.txt')!r}", f"init.from_workdir={str(home / source)!r}")
    return sj.override(study, (*settings, "budgets.tokens=3840", *changes))


def plan_text(planned):
    return estimate.plan_text(planned.study, planned.packs, planned.spec)


def test_it_begins_with_the_trained_parameters(home):
    """Those of the largest budget and the lane's own seed, else of the best run of any."""
    models, planned = Models(home / "w"), sj.plan(tuned(home, "seeds=(0,1,5)"))
    assert "start from 2 trained runs of 7.68k tokens" in plan_text(planned)
    (pack,) = planned.packs
    rows = {row["seed"]: row for row in models.rows.values() if row["tokens"] == 7680}
    best = min(rows.values(), key=lambda row: row["loss"])
    assert [lane.start.run_id for lane in pack.lanes] == [row["run_id"] for row in (rows[0], rows[1], best)]
    params = starts.parameters(planned.study, planned.spec)(pack)
    jax.tree.map(np.testing.assert_array_equal, params[1], models.load(run_id=rows[1]["run_id"]).params)
    short = sj.plan(tuned(home, "init.tokens=3850")).packs[0].lanes[0].start
    assert models.rows[short.run_id]["tokens"] == 3840


def test_what_is_counted_and_what_it_gains(home):
    found, source = sj.load(home / "tuned").table, sj.load(home / "w").table
    fresh = sj.plan(dataclasses.replace(tuned(home), init=sj.Init())).packs[0]
    assert "pretrain_tokens" not in source and (found.pretrain_tokens == 7680).all()
    assert set(found.start_run_id) == set(source.run_id[source.tokens == 7680])
    for column, value in fresh.columns(fresh.runs[0]).items():
        if column in ("tokens", "flops", "flops_6nd", "params_matmul", "batch_size"):
            assert set(found[column]) == {value}, column
    assert found.loss.max() < 0.9 * source.loss[source.tokens == 3840].min(), "words that are known help"
    chain = sj.plan(tuned(home, source="tuned")).study.init
    assert {start.tokens for start in chain.starts} == {7680 + 3840}


def test_identity_is_content(home):
    """Another path, the same runs: the same identities; another source run: others; and none without a start."""
    shutil.copytree(home / "w", home / "moved", dirs_exist_ok=True)

    def ids(*changes, source="w"):
        planned = sj.plan(tuned(home, *changes, source=source))
        packs = make_plan(planned.study, planned.spec, "d" * 16, "float32")
        return [run.run_id for pack in packs for run in pack.runs]

    assert ids() == ids(source="moved") and not set(ids()) & set(ids("init.tokens=3840"))
    stored = sj.Study.from_json(sj.plan(tuned(home)).study.to_json())
    assert stored == sj.plan(tuned(home)).study
    packs = make_plan(stored, data.describe(stored.data), "d" * 16, "float32")
    assert [run.run_id for pack in packs for run in pack.runs] == ids(), "the workdir's own record says it all"


def test_a_stopped_run_resumes_bit_by_bit(home, monkeypatch):
    """Stopped before its first checkpoint, then within the trunk: the losses are those of an undisturbed run."""
    study = tuned(home, "execution.checkpoint_seconds=0.001", "execution.dispatch_seconds=0.001")
    save, calls = PieceTrainer.save, []

    def die(self, state):
        calls.append(self.piece.kind)
        if len(calls) == 1:
            raise KeyboardInterrupt
        save(self, state)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(PieceTrainer, "save", die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            sj.run(study, home / "stopped", verbose=False)
    assert not list((home / "stopped").glob("runs/*/_SUCCESS"))
    sj.run(study, home / "stopped", verbose=False)
    assert table(home / "stopped").equals(table(home / "tuned"))


def test_no_device_is_asked_for_before_several_processes_have_met(home):
    code = (
        "from jax._src import xla_bridge\nimport scaling_jax as sj\nfrom scaling_jax import data\n"
        f"from scaling_jax.trained import starts\nstudy = sj.load_study({str(home / 'tiny.py')!r}, {[*SMALL]!r} + "
        f"['init.from_workdir={home / 'w'}'])\n"
        "assert len(starts.found(study, data.describe(study.data)).init.starts) == 2\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_vocabulary_makes_its_arrays_anew(home):
    """BPE in place of bytes: embedding and head are as a fresh start would make them, the rest is trained."""
    planned = sj.plan(tuned(home, "data.tokenizer='bpe:300'"))
    start = planned.packs[0].lanes[1].start
    assert len(start.fresh) == 2 and f"made anew: {', '.join(start.fresh)}" in plan_text(planned)
    params = starts.parameters(planned.study, planned.spec)(planned.packs[0])[1]
    trained = starts._named(Models(home / "w").load(run_id=start.run_id).params)
    model = starts._model(planned.study, planned.spec, 16, 1)
    fresh = starts._named(model.init(jax.random.key(1)))
    for name, array in starts._named(params).items():
        np.testing.assert_allclose(array, (fresh if name in start.fresh else trained)[name], rtol=1e-6, err_msg=name)
    row = sj.run(planned.study, home / "bpe", verbose=False).table.iloc[0]
    assert row.status == "done" and row.loss < np.log(300)

    # As many tokens that mean another thing, and the source's own tokenizer, which the workdir keeps.
    other = sj.plan(tuned(home, "data.tokenizer='bpe:300'", f"data.source={str(home / 'text.txt')!r}", source="bpe"))
    assert other.packs[0].lanes[0].start.fresh == start.fresh
    sj.trained.scores.dataset_of(Models(home / "bpe"), None)
    kept = f"data.tokenizer={str(home / 'bpe' / 'tokenizer.json')!r}"
    own = sj.plan(tuned(home, kept, f"data.source={str(home / 'text.txt')!r}", source="bpe"))
    assert own.packs[0].lanes[0].start.fresh == ()


@pytest.mark.parametrize(
    "changes, said",
    [
        (("init.from_workdir='nowhere'",), "'nowhere' is not a workdir"),
        (("ladder.widths=(8,16)",), "no finished run of scale w8-d1; there are w16-d1"),
        (("init.tokens=1e6",), "has runs of 3840, 7680 tokens"),
        (("family.head_dim=16",), "of another family (family.head_dim: 8 -> 16)"),
        (("optimizer.init_scales=2.0",), "trained parameters are not scaled"),
        (("parametrization.name='completep'", "parametrization.base_depth=2"), "built differently there (parametriz"),
        (("execution.scan_layers=true",), "built differently there (execution.scan_layers)"),
    ],
)
def test_bad_input(home, changes, said):
    flags = [f"--set={change}" for change in (*SMALL, f"init.from_workdir={str(home / 'w')!r}", *changes)]
    code, _, err = run_here("run", f"--study={home / 'tiny.py'}", f"--workdir={home / 'no'}", "--force", *flags)
    assert code == 2 and err.count("\n") == 1 and said in err and not (home / "no").exists(), err


def test_a_workdir_without_its_checkpoints(home, tmp_path):
    """Refused before training; a study that is done needs neither them nor the workdir."""
    shutil.copytree(home / "w", tmp_path / "w")
    assert run_here("clean", f"--workdir={tmp_path / 'w'}", "--models")[0] == 0
    study = sj.override(tuned(home), [f"init.from_workdir={str(tmp_path / 'w')!r}"])
    with pytest.raises(sj.UserError, match="init.from_workdir: .* has no checkpoint"):
        sj.run(study, tmp_path / "new", verbose=False)
    assert not (tmp_path / "new").exists()
    assert len(sj.run(study, home / "tuned", verbose=False).table) == 2
    shutil.rmtree(tmp_path / "w")
    assert len(sj.run(study, home / "tuned", verbose=False).table) == 2
    with pytest.raises(sj.UserError, match="holds another study"):
        sj.run(dataclasses.replace(study, init=sj.Init()), home / "tuned", verbose=False)


def test_what_cannot_start_from_trained_models(home):
    with pytest.raises(sj.UserError, match="simulated runs start fresh"):
        sj.run(tuned(home), home / "drawn", engine="simulate", verbose=False)
