"""The code of README.md, of docs/extending.md and of docstrings runs as written."""

import dataclasses
import doctest
import importlib
import inspect
import pathlib
import re

import pandas as pd
import pytest

import scaling_jax as sj
from scaling_jax import rules
from scaling_jax.data.sources import registry as sources
from scaling_jax.engines import registry as engines
from scaling_jax.fitting.laws import registry as laws
from scaling_jax.models import family, metrics, optimizers

ROOT = pathlib.Path(__file__).parents[1]
REGISTRIES = (
    (sources, "_registered"),
    (engines, "_registered"),
    (laws, "_laws"),
    (family, "FAMILIES"),
    (metrics, "METRICS"),
    (optimizers, "OPTIMIZERS"),
)


def blocks(page: str) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder to work in; registrations of the pages are undone, since other tests read the registries."""
    for module, name in REGISTRIES:
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_extending(home):
    """Each example registers what its section says, and it trains."""
    names: dict = {}
    for code in blocks("docs/extending.md"):
        exec(compile(code, "docs/extending.md", "exec"), names)
    assert {"signum"} <= set(optimizers.OPTIMIZERS)
    assert "product" in sj.fitting.laws and "here" in sj.engines.names()

    study = sj.Study(
        name="mine",
        family=sj.models.Transformer(head_dim=8),
        ladder=sj.Ladder(widths=(8,), depths=(1,)),
        budgets=sj.Budgets(tokens=(1280, 2560), min_steps=10),
        optimizer=sj.Optimizer(name="signum", learning_rates=(0.003,), batch_size=4),
        schedule=sj.Schedule(warmup_steps=5),
        data=sj.Data(source="counting", context=16),
        evaluation=sj.Evaluation(examples=32, batch_size=16),
        fit=sj.study.Fit(law="product", bootstrap=0),
    )
    table = sj.run(study, home / "work", verbose=False).table
    assert list(table.status) == ["done", "done"]
    assert table.loss.is_monotonic_decreasing, "the longer run ends lower"

    images = sj.override(study, ["data.source=digits", "optimizer.name=sgd", "fit.also=balanced_error"])
    with pytest.raises(sj.UserError, match="tokens"):
        sj.plan(images)
    images = dataclasses.replace(images, family=names["BalancedMLP"]())
    assert sj.plan(images).runs
    scores = sj.run(images, home / "images", verbose=False).table
    assert ((scores.balanced_error > 0) & (scores.balanced_error < 1)).all()


def test_studies(home, monkeypatch):
    """The settings of the page are settings of a study, and its rule is one."""
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    names: dict = {}
    for code in blocks("docs/studies.md"):
        exec(compile(code, "docs/studies.md", "exec"), names)
    rules._formula.cache_clear()
    assert rules.resolve("2 * mine", "learning_rate", {"N": 1e5, "B": 32.0}, "") == 0.08
    assert names["anchored"].batch_size.base == 8 and len(names["optimizer"].learning_rates) == 3


@pytest.mark.slow
def test_the_library_in_ten_lines(home):
    """The README's ten lines, on a smaller ladder."""
    (code,) = [code for code in blocks("README.md") if "sj.run" in code]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 16
    (home / "runs").mkdir()
    text = home / "my_texts"
    text.mkdir()
    (text / "a.txt").write_text("a small model says what a large one will do\n" * 4000)
    names: dict = {}
    exec(compile(code.partition("results = ")[0], "README.md", "exec"), names)
    assert not sj.plan(names["study"]).warnings  # a study that can answer
    small = code.replace("(16, 32, 48, 64)", "(32,)")  # compiling a scale takes seconds
    small = small.replace("tokens=(0.6e6, 1.2e6, 2.4e6)", "tokens=(2e4, 3e4)")
    small = small.replace("context=128", "context=16").replace("seeds=(0, 1)", "seeds=(0,)")
    assert "tokens=(2e4" in small and "(32,)" in small and "context=16" in small and "seeds=(0,)" in small
    names = {}
    exec(compile(small, "README.md", "exec"), names)
    assert isinstance(names["results"].table, pd.DataFrame)


def examples(text: str | None) -> bool:
    return "Example" in (text or "")


@pytest.mark.parametrize("face", [sj, sj.models, sj.trained], ids=lambda m: m.__name__)
def test_every_function_of_the_face_has_an_example(face):
    """In its docstring, or in the code of a page that the tests run."""
    pages = " ".join(code for page in (ROOT / "docs").glob("*.md") for code in blocks(f"docs/{page.name}"))
    functions = {name: getattr(face, name) for name in face.__all__ if inspect.isfunction(getattr(face, name))}
    lacking = [n for n, f in functions.items() if not examples(f.__doc__) and not re.search(rf"\b{n}\(", pages)]
    assert functions and lacking == []


@pytest.mark.parametrize("name", ["study_file", "formula", "results", "models.family", "trained.compress"])
def test_examples_in_docstrings_run(name, home):
    found = doctest.testmod(importlib.import_module(f"scaling_jax.{name}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0 and found.attempted
