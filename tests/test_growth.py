"""A study that grows in its workdir ends in the bits of one that was planned large; finished runs are left alone."""

import dataclasses
import functools

import ladder
import pytest

from scaling_jax import data
from scaling_jax.engines import attempt
from scaling_jax.planning import make_plan
from scaling_jax.storage.records import load_curves, load_table
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Study, load_study

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


@dataclasses.dataclass(frozen=True)
class Trained:
    """Results of a call of `train`: losses by run, the rows, and (pack, steps that each lane took)."""

    losses: dict[str, float]
    steps: dict[str, int]


def train(study: Study, folder) -> Trained:
    """Trains what is missing, without the report; the data comes from the cache."""
    spec, chunks = data.describe(study.data), []
    workdir = Workdir(folder)
    attempt.train(
        attempt.Attempt(study, spec, make_plan(study, spec), workdir, on_metrics=chunks.append, verbose=False),
        finish=lambda: None,
    )
    rows = load_table(folder).to_dict("records")
    return Trained({row["run_id"]: row["loss"] for row in rows}, {chunk["pack"]: chunk["step"] for chunk in chunks})


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_JAX_CACHE", str(folder / "cache"))
        yield functools.partial(load_study, ladder.write_study(folder))


@pytest.fixture(scope="module")
def large(study, tmp_path_factory):
    """(results, folder) of the study planned large."""
    folder = tmp_path_factory.mktemp("large") / "w"
    return train(study(LARGE), folder), folder


def stamps(folder):
    """When the result of every run was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/result.json")}


@pytest.mark.parametrize("way", SMALL)
def test_grown_is_planned_large(tmp_path, study, large, way):
    wanted, planned = large
    first = train(study([*LARGE, *SMALL[way]]), tmp_path)
    assert first.losses.items() < wanted.losses.items() or way == "width"
    before = stamps(tmp_path)
    grown = train(study(LARGE), tmp_path)
    assert grown.losses == wanted.losses
    assert stamps(tmp_path).items() >= before.items()  # what was finished was not trained again
    for table in (load_curves(folder, load_table(folder)) for folder in (tmp_path, planned)):
        assert table.groupby("run_id")["step"].max().to_dict() == dict.fromkeys(wanted.losses, 0) | {
            row["run_id"]: row["steps"] for row in load_table(planned).to_dict("records")
        }
