"""A study: read from a file, changed by --set with its types checked, written as JSON, hashed."""

import dataclasses
import functools
import json
import os
import sys

import ladder
import packs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scaling_jax as sj
from scaling_jax.errors import UserError
from scaling_jax.models import CNN, MLP, Transformer
from scaling_jax.models.family import from_dict
from scaling_jax.study import (
    Budgets,
    Data,
    Execution,
    Fit,
    Ladder,
    Optimizer,
    Schedule,
    Study,
    content_hash,
)
from scaling_jax.study_file import load_study, override

make_study = functools.partial(packs.make_study, family=Transformer(head_dim=8))


@pytest.mark.parametrize(
    ("assignment", "get", "wanted"),
    [
        ("optimizer.batch_size=8", lambda s: s.optimizer.batch_size, 8),
        ("optimizer.b1=0.5", lambda s: s.optimizer.b1, 0.5),
        ("optimizer.eps=1", lambda s: s.optimizer.eps, 1.0),
        ("optimizer.name=sgd", lambda s: s.optimizer.name, "sgd"),
        ("optimizer.options={'ns_steps': 3}", lambda s: s.optimizer.options, {"ns_steps": 3}),
        ("optimizer.options.ns_steps=3", lambda s: s.optimizer.options, {"ns_steps": 3}),
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
    study = make_study()
    got = get(override(study, [assignment]))
    assert got == wanted
    assert type(got) is type(wanted)
    assert study == make_study()  # the original is as it was


def test_overrides_apply_in_order():
    assert override(make_study(), ["seeds=1", "seeds=2", "data.context=64"]).seeds == (2,)


@pytest.mark.parametrize(
    "assignment",
    [
        "optimizer.batch_size=8.5",
        "budgets.tokens=nan",
        "optimizer.learning_rates=inf",
        "optimizer.learning_rates=(0.1, 'x')",
        "optimizer.b1=1.1",
        "execution.mesh=(1, 2)",
        "optimizer.b1=1.0",
        "ladder.widths=80000000000",
        "ladder.depths=100000000",
        "budgets.ratio_range=(5, 1)",
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
        override(make_study(), [assignment])
    assert "\n" not in str(error.value)
    assert assignment.partition("=")[2].strip("()") in str(error.value)


def test_a_study_is_immutable_and_knows_no_other_fields():
    study = make_study()
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.optimizer.batch_size = 3
    with pytest.raises(UserError, match="learning_rate"):
        dataclasses.replace(study.optimizer, learning_rate=1.0)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: sj.study.Fit(level=3), "Fit: level: Input should be less than 1 (got 3)"),
        (lambda: sj.Ladder(width=(3,)), "Ladder: width: Unexpected keyword argument (got (3,))"),
        (lambda: sj.Ladder(), "Ladder: widths: Field required"),
        (lambda: sj.Budgets(flops=(-1,)), "Budgets: flops.0: Input should be greater than 0 (got -1)"),
        (lambda: sj.rules.Rule("linear", base=-1), "Rule: base: Input should be greater than 0 (got -1)"),
    ],
)
def test_a_wrong_part_is_one_line_in_python_too(build, told):
    with pytest.raises(UserError) as error:
        build()
    assert str(error.value) == told


def test_json_holds_everything():
    study = override(make_study(), ["family.head_dim=16", "execution.mesh=(2,1,1)"])
    stored = json.loads(json.dumps(study.to_dict()))
    assert stored == study.to_dict()
    assert {field.name for field in dataclasses.fields(Study)} == set(stored)
    assert from_dict(stored["family"]) == study.family
    assert stored["execution"]["mesh"] == [2, 1, 1]


def test_content_hashes_are_the_same_for_good():
    # Identities are names of folders in the workdirs of finished studies.
    assert content_hash({"b": [1, 2.5, None], "a": "ü"}) == "703dceec79c30480"


def test_a_study_file_is_read_as_it_is_now_and_nothing_is_left_beside_it(tmp_path):
    """Python's bytecode of a file is known by its size and whole seconds."""
    path = tmp_path / "study.py"
    code = """
from __future__ import annotations
import dataclasses
from typing import ClassVar
import scaling_jax as sj

@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(sj.models.Transformer):
    name: ClassVar[str] = "mine"
    bias: float = 0.0

def get_study():
    return sj.Study(name="mine", family=Mine(), ladder=sj.Ladder(widths=(WIDTH,)), budgets=sj.Budgets(tokens=(1e6,)))
"""
    for width in (32, 64):
        path.write_text(code.replace("WIDTH", str(width)))
        os.utime(path, (1e9, 1e9))
        study = load_study(path, ["family.bias=2"])
        assert (study.ladder.widths, study.family.bias) == ((width,), 2.0)
    assert [*tmp_path.iterdir()] == [path]


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
    assert sys.modules["_study_tiny"].get_study().name == "tiny2"


FAMILIES = st.one_of(
    st.builds(Transformer, head_dim=st.sampled_from([8, 16, 64])),
    st.builds(CNN, stages=st.integers(1, 4), stem_stride=st.none() | st.integers(1, 4)),
    st.builds(MLP),
)
POSITIVE = st.floats(1e-6, 1e6)
STUDIES = st.builds(
    Study,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    family=FAMILIES,
    ladder=st.builds(Ladder, widths=st.lists(st.integers(1, 4096), min_size=1, max_size=4, unique=True)),
    budgets=st.builds(Budgets, tokens=st.lists(POSITIVE, max_size=3), min_steps=st.integers(1, 1000)),
    optimizer=st.builds(Optimizer, learning_rates=st.lists(POSITIVE, min_size=1, max_size=3), b1=st.floats(0, 0.99)),
    schedule=st.builds(Schedule, name=st.sampled_from(["wsd", "cosine", "constant"])),
    data=st.builds(Data, source=st.text(min_size=1, max_size=20), unique_tokens=st.none() | st.integers(1, 10**9)),
    seeds=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3),
    execution=st.builds(Execution, mesh=st.none() | st.just((2, 1, 1)), remat=st.sampled_from(["auto", True, False])),
    fit=st.builds(Fit, target_flops=st.lists(POSITIVE, max_size=2), also=st.lists(st.text(max_size=5), max_size=2)),
)


@settings(max_examples=50, deadline=None)
@given(STUDIES)
def test_json_and_back(study):
    assert Study.from_dict(study.to_dict()) == study
    assert Study.from_json(study.to_json()) == study


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_is_in_a_study_s_json_it_is_a_study_or_refused_in_one_line(data):
    content = make_study().to_dict()
    place = content
    for _ in range(data.draw(st.integers(0, 2))):  # a value of any type anywhere
        inner = [key for key, value in place.items() if isinstance(value, dict) and value]
        if inner:
            place = place[data.draw(st.sampled_from(sorted(inner)))]
    place[data.draw(st.sampled_from(sorted(place)) | st.text(max_size=5))] = data.draw(JSON)
    try:
        study = Study.from_dict(content)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert Study.from_dict(study.to_dict()) == study


def test_what_is_not_a_study_is_refused_in_one_line():
    for text in ("", "{", "[" * 100_000, "[]", "7", "{}", '{"family": 3}', '{"family": {"name": "x"}}'):
        with pytest.raises(UserError) as error:
            Study.from_json(text)
        assert "\n" not in str(error.value) and "Error" not in str(error.value)


def test_a_group_without_options_says_so():
    with pytest.raises(UserError, match="has no field 'x'; it has none"):
        override(dataclasses.replace(make_study(), family=packs.Bigram()), ["family.x=3"])


def test_a_family_that_is_not_registered_here_can_be_read_but_not_trained():
    content = make_study().to_dict()
    content["family"] = {"name": "mine", "cells": 3}
    with pytest.raises(UserError, match="'mine' is not registered"):
        Study.from_dict(content)
    study = Study.from_dict(content, any_family=True)
    assert (study.family.name, study.family.options) == ("mine", {"cells": 3})
    assert study.to_dict() == content
    with pytest.raises(UserError, match="'mine' is not registered here"):
        study.family.check(8, 1, packs.SPEC)


@pytest.mark.parametrize("family", [None, "transformer", Transformer, 3])
def test_what_is_not_a_family_is_refused(family):
    with pytest.raises(UserError, match="not a family: give an instance"):
        dataclasses.replace(make_study(), family=family)


def test_a_relative_source_is_looked_up_beside_the_study_then_in_the_current_folder(tmp_path, monkeypatch):
    beside, here = tmp_path / "studies", tmp_path / "here"
    beside.mkdir(), here.mkdir()
    path = beside / "tiny.py"
    path.write_text("SOURCE = 'text.txt'\n" + ladder.STUDY)
    monkeypatch.chdir(here)
    with pytest.raises(UserError, match="'text.txt' does not exist; looked for it in .*studies and .*here"):
        load_study(path)
    assert load_study(path, need_source=False).data.source == str(beside / "text.txt")
    (here / "text.txt").write_text("x")
    assert load_study(path).data.source == str(here / "text.txt")
    (beside / "text.txt").write_text("x")
    assert load_study(path).data.source == str(beside / "text.txt")
    (beside / "digits").mkdir()
    for name in ("digits", "lm1b", "c4/en", "wiki40b/en:1.3.0", "/absolute/text.txt"):
        assert load_study(path, [f"data.source={name}"]).data.source == name
    (beside / "lm1b").mkdir()
    assert load_study(path, ["data.source=lm1b"]).data.source == str(beside / "lm1b")


@pytest.mark.parametrize("raised", ["BaseException('stop')", "SystemExit(3)", "ValueError('a\\nb')"])
def test_a_study_that_raises_is_refused_in_one_line(tmp_path, raised):
    path = tmp_path / "bad.py"
    path.write_text(f"def get_study():\n    raise {raised}\n")
    with pytest.raises(UserError, match="bad.py' raised") as error:
        load_study(path)
    assert "\n" not in str(error.value)
