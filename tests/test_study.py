"""A study: read from a file, changed by --set with its types checked, written as JSON, hashed."""

import dataclasses
import json
import sys

import ladder
import packs
import pydantic
import pytest

from scaling_jax.errors import UserError
from scaling_jax.models.family import from_dict
from scaling_jax.study import Ladder, Study, content_hash, load_study, override


@pytest.mark.parametrize(
    ("assignment", "get", "wanted"),
    [
        ("optimizer.batch_size=8", lambda s: s.optimizer.batch_size, 8),
        ("optimizer.b1=0.5", lambda s: s.optimizer.b1, 0.5),
        ("optimizer.eps=1", lambda s: s.optimizer.eps, 1.0),
        ("optimizer.name=sgd", lambda s: s.optimizer.name, "sgd"),
        ("optimizer.learning_rates=(1e-3, 2e-3)", lambda s: s.optimizer.learning_rates, (1e-3, 2e-3)),
        ("optimizer.learning_rates=[1e-3]", lambda s: s.optimizer.learning_rates, (1e-3,)),
        ("optimizer.learning_rates=3e-3", lambda s: s.optimizer.learning_rates, (3e-3,)),
        ("seeds=4", lambda s: s.seeds, (4,)),
        ("data.source=/some/where", lambda s: s.data.source, "/some/where"),
        ("data.unique_tokens=None", lambda s: s.data.unique_tokens, None),
        ("data.unique_tokens=1000", lambda s: s.data.unique_tokens, 1000),
        ("data.augment=false", lambda s: s.data.augment, False),
        ("execution.mesh=(1, 2, 1)", lambda s: s.execution.mesh, (1, 2, 1)),
        ("execution.mesh=none", lambda s: s.execution.mesh, None),
        ("execution.remat=True", lambda s: s.execution.remat, True),
        ("execution.remat=auto", lambda s: s.execution.remat, "auto"),
        ("budgets.flops=(1e12, 1e13)", lambda s: s.budgets.flops, (1e12, 1e13)),
        ("family.head_dim=16", lambda s: s.family.head_dim, 16),
        (" name = other ", lambda s: s.name, "other"),
    ],
)
def test_override(assignment, get, wanted):
    study = packs.make_study()
    got = get(override(study, [assignment]))
    assert got == wanted
    assert type(got) is type(wanted)
    assert study == packs.make_study()  # the original is as it was


def test_overrides_apply_in_order():
    assert override(packs.make_study(), ["seeds=1", "seeds=2", "data.context=64"]).seeds == (2,)


@pytest.mark.parametrize(
    "assignment",
    [
        "optimizer.batch_size=8.5",
        "budgets.tokens=nan",
        "optimizer.learning_rates=inf",
        "optimizer.learning_rates=(0.1, 'x')",
        "optimizer.b1=1.1",
        "execution.mesh=(1, 2)",
        "execution.mesh=(1, 2, 0)",
        "execution.remat=maybe",
        "seeds=-1",
        "seeds=2147483648",
        "name=../escape",
        "name=",
        "schedule.warmup_steps=-1",
        "hold_out.cut=0",
        "family.head_dim=0",
        "family.head_dim=a",
    ],
)
def test_wrong_types_are_refused_in_one_line_with_the_value(assignment):
    with pytest.raises(UserError) as error:
        override(packs.make_study(), [assignment])
    assert "\n" not in str(error.value)
    assert assignment.partition("=")[2].strip("()") in str(error.value)


def test_a_study_is_immutable_and_knows_no_other_fields():
    study = packs.make_study()
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.optimizer.batch_size = 3
    with pytest.raises(pydantic.ValidationError, match="learning_rate"):
        dataclasses.replace(study.optimizer, learning_rate=1.0)


def test_json_holds_everything():
    study = override(packs.make_study(), ["family.head_dim=16", "execution.mesh=(2,1,1)"])
    stored = json.loads(json.dumps(study.to_dict()))
    assert stored == study.to_dict()
    assert {field.name for field in dataclasses.fields(Study)} == set(stored)
    assert from_dict(stored["family"]) == study.family
    assert stored["execution"]["mesh"] == [2, 1, 1]


def test_content_hashes_are_the_same_for_good():
    # Identities are names of folders in the workdirs of finished studies.
    assert content_hash({"b": [1, 2.5, None], "a": "ü"}) == "703dceec79c30480"


def test_scales():
    assert Ladder(widths=(32, 64), depths=(2, 3)).scales() == ((32, 2), (64, 3))
    assert Ladder(widths=(32, 64), depths=(2,)).scales() == ((32, 2), (64, 2))
    assert Ladder(widths=(8, 64, 96), aspect=32).scales() == ((8, 1), (64, 2), (96, 3))
    assert Ladder(widths=(32, 32), depths=(1, 2)).scales() == ((32, 1), (32, 2))
    with pytest.raises(UserError, match="twice"):
        Ladder(widths=(32, 32), depths=(1,)).scales()
    with pytest.raises(UserError, match="one depth per width"):
        Ladder(widths=(32, 64, 96), depths=(1, 2)).scales()


def test_a_study_file_is_run_each_time(tmp_path):
    path = ladder.write_study(tmp_path)
    assert load_study(path).name == "tiny"
    assert load_study(path, ["name=other"]).name == "other"
    path.write_text(path.read_text().replace('name="tiny"', 'name="tiny2"'))
    assert load_study(path).name == "tiny2"
    assert "_study_tiny" not in sys.modules
