"""A study that grows in its workdir ends in the bits of one that was planned large; finished runs are left alone."""

import functools
import shutil

import ladder
import pandas as pd
import pytest

import scaling_jax as sj
from scaling_jax import data, results
from scaling_jax.engines import attempt, base, registry
from scaling_jax.engines.dispatch import Dispatch, dispatch
from scaling_jax.errors import Preempted, UserError
from scaling_jax.planning import make_plan
from scaling_jax.storage.clean import clean
from scaling_jax.storage.records import load_curves, load_table
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study
from scaling_jax.study_file import load_study
from scaling_jax.trained.models import Models

BATCH = 4 * 16
LARGE = (
    "ladder.widths=8",
    f"budgets.tokens=({60 * BATCH},{120 * BATCH},{240 * BATCH})",
    "optimizer.learning_rates=(0.01,0.03)",
    "seeds=(0,1)",
)
# The study at first: a part of the large one, or another width.
SMALL = {
    "width": ("ladder.widths=16", "optimizer.learning_rates=0.03", "seeds=0"),
    "longer budget": (f"budgets.tokens=({60 * BATCH},{120 * BATCH})",),
    "budget between": (f"budgets.tokens=({60 * BATCH},{240 * BATCH})",),
    "rate": ("optimizer.learning_rates=0.03",),
    "seed": ("seeds=1",),
    "all": (f"budgets.tokens={120 * BATCH}", "optimizer.learning_rates=(0.01,0.03,0.05)", "seeds=1"),
    # One lane of two continues: alone it runs in another compiled program, which may round differently.
    "one lane left": (f"budgets.tokens={120 * BATCH}", "optimizer.learning_rates=(0.01,0.05)", "seeds=1"),
}


def train(study: Study, folder) -> tuple[dict[str, float], list[dict]]:
    """Trains what is missing, without a report: (losses by run_id, what was trained, in chunks of steps)."""
    spec, seen = data.describe(study.data), []
    planned = make_plan(study, spec)
    attempt.train(
        attempt.Attempt(study, spec, planned, Workdir(folder), on_metrics=seen.append, verbose=False),
        finish=lambda: None,
    )
    losses = {row["run_id"]: row["loss"] for row in load_table(folder).to_dict("records")}
    return losses, [values for values in seen if values["kind"] == "train"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_JAX_CACHE", str(folder / "cache"))
        yield functools.partial(load_study, ladder.write_study(folder))


@pytest.fixture(scope="module")
def large(study, tmp_path_factory):
    """(losses, folder) of the study planned large."""
    folder = tmp_path_factory.mktemp("large") / "w"
    return train(study(LARGE), folder)[0], folder


def stamps(folder):
    """When the result of every run was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}


def last_steps(folder):
    """Last step of the learning curve of every run, and the run's own."""
    table = load_table(folder)
    curves = load_curves(folder, table)
    return curves.groupby("run_id")["step"].max().to_dict(), table.set_index("run_id")["steps"].to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("way", SMALL)
def test_grown_is_planned_large(tmp_path, study, large, way):
    wanted, planned = large
    first, _ = train(study([*LARGE, *SMALL[way]]), tmp_path)
    assert len(first) < len(wanted)
    before = stamps(tmp_path)
    grown, trained = train(study(LARGE), tmp_path)
    assert grown == (pytest.approx(wanted, rel=1e-6) if way == "one lane left" else wanted)
    assert all(grown[run_id] == loss for run_id, loss in first.items() if run_id in grown)
    assert stamps(tmp_path).items() >= before.items()  # what was finished is not trained again
    assert not {values["run_id"] for values in trained} & set(before)
    reached, steps = last_steps(tmp_path)
    assert reached == steps == last_steps(planned)[1]
    if way == "longer budget":  # goes on where the trunk had ended, at 80% of 120 steps
        assert min(values["step"] for values in trained) > 96
    if way == "budget between":  # the trunk from the fork before it, at 80% of 60 steps, and never past its own
        assert {values["phase"] for values in trained} == {"trunk", "branch"}
        assert min(values["step"] for values in trained) > 48 and max(v["step"] for v in trained) == 120
    if way == "width":  # nor is the width before in the table
        assert set(grown).isdisjoint(first) and set(stamps(tmp_path)) == {*first, *grown}


def curves(folder):
    return load_curves(folder, load_table(folder)).sort_values(["run_id", "step"], ignore_index=True)


@pytest.mark.slow
def test_cleaned_it_has_the_same_results_and_still_grows(tmp_path, study, large):
    wanted, _ = large
    folder = tmp_path / "w"
    train(study([*LARGE, *SMALL["longer budget"]]), folder)
    before, points, names = load_table(folder), curves(folder), ladder.files(folder)
    assert "would remove" in clean(Workdir(folder), dry_run=True)
    assert ladder.files(folder) == names
    assert clean(Workdir(folder)).startswith("removed ")
    left = {path for path in ladder.files(folder) if path.rpartition("/")[2].isdigit()}
    assert left == {f"checkpoints/w8-d1/{part}" for part in ("trunk/96", "branch-60/60", "branch-120/120")}
    pd.testing.assert_frame_equal(load_table(folder), before)
    pd.testing.assert_frame_equal(curves(folder), points)
    assert all(len(list(run.glob("metrics-*"))) == 1 for run in folder.glob("runs/*"))
    grown, trained = train(study(LARGE), folder)
    assert grown == wanted
    assert min(values["step"] for values in trained) > 96  # the trunk's end was kept
    clean(Workdir(folder), models=True)
    assert not [path for path in (folder / "checkpoints").iterdir() if path.is_dir()]
    assert train(study(LARGE), folder) == (wanted, [])


def test_what_is_not_finished_is_not_cleaned(tmp_path, large):
    with pytest.raises(UserError, match="is not a workdir"):
        clean(Workdir(tmp_path))
    shutil.copytree(large[1], tmp_path / "w")
    next((tmp_path / "w" / "runs").glob("*/_SUCCESS")).unlink()
    with pytest.raises(UserError, match="has 1 runs without a result"):
        clean(Workdir(tmp_path / "w"))


def test_dtypes_do_not_mix(tmp_path, study):
    """A workdir that changes its compute_dtype halfway ends in the losses of one that never had another."""
    settings = [*LARGE, *SMALL["rate"], "seeds=0", f"budgets.tokens=({60 * BATCH},{120 * BATCH})"]
    half = [*settings, "execution.compute_dtype=bfloat16"]
    first, _ = train(study(settings), tmp_path / "mixed")
    mixed, trained = train(study(half), tmp_path / "mixed")
    wanted, _ = train(study(half), tmp_path / "pure")
    assert mixed == wanted
    assert set(mixed).isdisjoint(first)
    assert min(values["step"] for values in trained) <= 20  # not off a float32 trunk
    assert train(study([*settings, "execution.compute_dtype=float32"]), tmp_path / "mixed") == (first, [])


ROUNDS = (
    "ladder.widths=8",
    f"budgets.tokens=({240 * BATCH},{480 * BATCH})",
    "optimizer.learning_rates=(0.0003,0.001,0.005,0.03,0.06)",
    "schedule.warmup_steps=5",
    "execution.layout=sequential",
)


@pytest.mark.slow
def test_a_sweep_in_rounds_ends_in_the_bits_of_a_full_one_and_can_become_one(tmp_path, study, monkeypatch):
    wanted, _ = train(study(ROUNDS), tmp_path / "full")
    halving, folder = study([*ROUNDS, "sweep=halving"]), tmp_path / "w"
    done, trained = train(halving, folder)
    table = load_table(folder).set_index("run_id")
    stopped = set(table.index[table.status == "stopped"])
    assert len(table) == len(wanted) == 10 and 3 <= len(stopped) <= 6
    assert {i: loss for i, loss in done.items() if i not in stopped} == {i: wanted[i] for i in {*wanted} - stopped}
    assert table.stopped_loss[list(stopped)].notna().all() and {values["step"] for values in trained} > {60}
    assert set(load_curves(folder, load_table(folder)).run_id) == {*wanted} - stopped
    best = min({*wanted} - stopped, key=wanted.get)
    assert Models(folder).load(run_id=best).row["loss"] == wanted[best]

    # Stopped in its second round, it goes on with the same lanes to the same bits.
    again, rounds, calls = tmp_path / "again", attempt._train_packs, []

    def interrupted(todo, *args):
        calls.append(todo)
        if len(calls) == 2:
            raise Preempted("told to stop")
        rounds(todo, *args)

    monkeypatch.setattr(attempt, "_train_packs", interrupted)
    with pytest.raises(Preempted):
        train(halving, again)
    resumed, _ = train(halving, again)
    assert resumed.keys() == done.keys() and calls[1] == calls[2]
    assert {i for i in done if resumed[i] == done[i]} == {*done} - stopped
    assert train(halving, again)[1] == []

    # As a full sweep it trains what was stopped, and nothing else; every model is there.
    grown, trained = train(study(ROUNDS), folder)
    assert grown == wanted and {v["run_id"] for v in trained if v["run_id"]} <= stopped
    models = Models(folder)
    assert all(models.load(run_id=run_id).row["loss"] == loss for run_id, loss in wanted.items())
    clean(Workdir(folder))
    assert set(load_table(folder).status) == {"done"}


@pytest.mark.slow
def test_cooldowns_share_a_trunk_and_grow(tmp_path, study):
    settings = [*ROUNDS[:2], "optimizer.learning_rates=(0.005,0.03)", *ROUNDS[3:]]
    some = "schedule.cooldown_fraction=(0.1,0.2)"
    wanted = {}
    for share in ("0.1", "0.2"):
        losses, _ = train(study([*settings, f"schedule.cooldown_fraction={share}"]), tmp_path / share)
        wanted |= losses
    grown, trained = train(study([*settings, some]), tmp_path / "0.2")  # goes on off the trunk that is there
    assert len(grown) == 8 and grown == wanted
    assert min(values["step"] for values in trained if values["phase"] == "trunk") > 192  # its first fork
    whole, trained = train(study([*settings, some]), tmp_path / "together")
    assert whole == grown
    table = load_table(tmp_path / "together")
    assert table.groupby("trunk_id").run_id.count().eq(4).all()
    for found in (tmp_path / "together", tmp_path / "0.2"):
        models = Models(found)
        assert {i: models.load(run_id=i).row["loss"] for i in whole} == whole
    assert train(study([*settings, "schedule.cooldown_fraction=0.1"]), tmp_path / "together")[1] == []


def test_moved_data_and_workdir_are_the_same_study(tmp_path, study, large):
    wanted, planned = large
    shutil.copytree(planned, tmp_path / "elsewhere")
    text = tmp_path / "text.txt"
    shutil.copy(study().data.source, text)
    moved = study([*LARGE, f"data.source={text}", "name=renamed", "data.data_dir=/nowhere"])
    assert train(moved, tmp_path / "elsewhere") == (wanted, [])
    text.write_text(text.read_text().replace("law", "rule"))
    with pytest.raises(UserError, match="data of workdir .* has changed"):
        train(moved, tmp_path / "elsewhere")


def test_several_workdirs_of_one_corpus_are_loaded_as_one(tmp_path, study, large):
    wanted, planned = large
    settings = [*LARGE, "ladder.widths=16", "optimizer.learning_rates=0.03", "seeds=0"]
    other, _ = train(study(settings), tmp_path / "other")
    shutil.copytree(planned, tmp_path / "copy")
    found = results.load(planned, tmp_path / "other", tmp_path / "copy")
    losses = dict(zip(found.table["run_id"], found.table["loss"]))
    assert losses == wanted | other
    assert found.study == study(LARGE)
    assert found.curves.groupby("run_id")["step"].max().to_dict() == found.table.set_index("run_id")["steps"].to_dict()
    assert not found.curves.duplicated(["run_id", "step"]).any()
    path = tmp_path / "copy" / "runs" / next(iter(wanted)) / "result.json"
    path.write_text(path.read_text().replace('"dataset_hash": "', '"dataset_hash": "x'))
    with pytest.raises(UserError, match="trained on different corpora"):
        results.load(planned, tmp_path / "copy")
    with pytest.raises(UserError, match="is not a workdir"):
        results.load(planned, tmp_path)


def test_a_finished_workdir_needs_its_corpus_no_more(tmp_path, study, large, monkeypatch):
    _, planned = large
    shutil.copytree(planned, tmp_path / "w")
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "empty cache"))
    grown = study([*LARGE, "ladder.widths=(8,16)", "data.source=gone.txt"], need_source=False)
    plan = sj.plan(grown, tmp_path / "w")
    assert {pack.scale for pack in plan.packs} == {"w8-d1", "w16-d1"}
    assert "w16-d1" in str(plan)
    found = sj.load(tmp_path / "w")
    assert len(found.analysis.runs.table) == len(found.table)
    with pytest.raises(UserError, match=r"gone.txt"):
        sj.plan(grown)


def test_a_finished_study_runs_without_its_corpus(tmp_path, study, large, monkeypatch):
    wanted, planned = large
    shutil.copytree(planned, tmp_path / "w")
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "empty cache"))
    moved = tmp_path / "tiny.py"
    source, text = study.args[0].read_text().split("\n", 1)
    moved.write_text(f"SOURCE = {study().data.source.rpartition('/')[2]!r}\n{text}")
    assert source.startswith("SOURCE = ")
    run = functools.partial(ladder.run_here, "run", f"--study={moved}", f"--workdir={tmp_path / 'w'}")
    run = functools.partial(run, *(f"--set={setting}" for setting in LARGE))
    before = ladder.files(tmp_path / "w")
    for more, said in (("seeds=(0,1,2)", "text.txt' does not exist"), ("data.source=other.txt", "'other.txt'")):
        code, _, err = run(f"--set={more}")
        assert code == 2 and said in err and ladder.files(tmp_path / "w") == before
    code, out, err = run()
    assert code == 0 and f"all {len(wanted)} runs are done; nothing to train" in err and "no run needs it" in err
    assert stamps(tmp_path / "w") == stamps(planned)
    assert (tmp_path / "w" / "report" / "index.html").exists() and "report" in out


def test_engines_get_the_packs_of_a_grown_workdir(tmp_path, study):
    """Jobs are named by pack; each trains here what the engine would have it train elsewhere."""
    small, grown = study([*LARGE, *SMALL["rate"], "seeds=0"]), study([*LARGE, "seeds=0"])
    planned, spec = make_plan(grown, data.describe(grown.data)), data.describe(grown.data)
    given = []

    @registry.register("inline")
    def run(jobs, settings):
        for job in jobs:
            given.append(job.command[-1])
            name = job.command[-1].removeprefix("--only_packs=")
            here = attempt.Attempt(
                settings.study, spec, make_plan(settings.study, spec), workdir, (name,), verbose=False
            )
            attempt.train(here, finish=lambda: None)
        return 0

    workdir = Workdir(tmp_path / "w")
    for turn in (small, grown, grown):
        assert dispatch(make_plan(turn, spec), turn, spec, workdir, "inline", Dispatch())
    assert given == ["--only_packs=w8-d1", "--only_packs=w8-d1-2"]
    assert set(workdir.packs()) == {"w8-d1", "w8-d1-2"}
    assert len(load_table(workdir.path)) == sum(len(pack.runs) for pack in planned)
    with pytest.raises(UserError, match=r"no pack 'w9-d1' in this study"):
        base.check_names(planned, ["w8-d1-2", "w9-d1"])
