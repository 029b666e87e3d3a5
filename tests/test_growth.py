"""A study that grows in its workdir ends in the bits of one that was planned large; finished runs are left alone."""

import functools

import ladder
import pytest

from scaling_jax import data
from scaling_jax.engines import attempt
from scaling_jax.planning import make_plan
from scaling_jax.storage.records import load_curves, load_table
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study
from scaling_jax.study_file import load_study

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
    "all": (f"budgets.tokens={120 * BATCH}", "optimizer.learning_rates=0.01", "seeds=1"),
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


@pytest.mark.parametrize("way", SMALL)
def test_grown_is_planned_large(tmp_path, study, large, way):
    wanted, planned = large
    first, _ = train(study([*LARGE, *SMALL[way]]), tmp_path)
    assert len(first) < len(wanted)
    before = stamps(tmp_path)
    grown, trained = train(study(LARGE), tmp_path)
    assert grown == wanted
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
