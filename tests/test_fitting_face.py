"""The public face of the fitter: its exports, its immutability, and the examples in its docstrings."""

import dataclasses
import doctest
import importlib
import inspect
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from fitting_truth import noisy

from scaling_jax import fitting
from scaling_jax.fitting.laws import registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """Laws registered here, or by an example, are unknown to other tests."""
    monkeypatch.setattr(registry, "_laws", dict(registry._laws))


def test_everything_exported_exists_and_is_documented():
    for name in fitting.__all__:
        assert inspect.getdoc(getattr(fitting, name)), name


def test_every_function_has_an_example():
    functions = [getattr(fitting, name) for name in fitting.__all__ if inspect.isfunction(getattr(fitting, name))]
    assert len(functions) > 15
    assert [f.__name__ for f in functions if not doctest.DocTestFinder().find(f)[0].examples] == []


def test_laws_stay_the_mapping_whatever_is_imported():
    code = (
        "import scaling_jax.fitting.laws.base, scaling_jax.fitting.laws.loss as loss, importlib\n"
        "import scaling_jax.fitting.laws as package\n"
        "from scaling_jax import fitting\n"
        "from scaling_jax.fitting import laws\n"
        "importlib.import_module('scaling_jax.fitting.laws.single')\n"
        "assert fitting.laws is package is laws and fitting.laws['chinchilla'] is loss.chinchilla\n"
        "importlib.reload(package)\n"
        "assert fitting.laws['chinchilla'] is loss.chinchilla and len(fitting.laws) == len(list(fitting.laws))\n"
        "print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr
    assert isinstance(fitting.laws, Mapping) and "kaplan" in fitting.laws and "kaplam" not in fitting.laws
    assert dict(fitting.laws)["power"] is fitting.laws.get("power") and fitting.laws.get("nothing") is None


def test_a_registered_law_is_known_by_name(tmp_path):
    law = fitting.law(lambda p, x: p["a"] + p["k"] * x["x"], {"a": (0, 9), "k": (0, 9)}, ("x",), name="registered_line")
    assert fitting.register_law(law) is law is fitting.laws["registered_line"]
    fit = fitting.fit("registered_line", [1.0, 2, 3, 4], [3.1, 4.9, 7.1, 9.0])
    fit.to_json(tmp_path / "fit.json")
    assert fitting.load(tmp_path / "fit.json").predict(5.0) == fit.predict(5.0)
    for name in ("chinchilla", "bnsl7"):
        with pytest.raises(fitting.LawError, match=f"'{name}' is a law of this package"):
            fitting.register_law(dataclasses.replace(law, name=name))
    with pytest.raises(fitting.LawError, match="give a Law"):
        fitting.register_law(len)


def test_a_fit_cannot_be_changed():
    fit = fitting.fit("chinchilla", *noisy("chinchilla", 0.01))
    before = fit.interval(0.9), fit.stderr, str(fit)
    fit.bootstrap(20)
    assert (fit.interval(0.9), fit.stderr, str(fit)) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.params = {}
    assert fit.warnings is fit.warnings  # computed once


def test_repr_computes_nothing(monkeypatch):
    fit = fitting.fit("chinchilla", *noisy("chinchilla", 0.01))

    def refused(*_, **__):
        raise AssertionError("repr must not evaluate the law")

    monkeypatch.setattr(type(fit.problem), "evaluate", refused)
    assert repr(fit).startswith("<Fit chinchilla: E=1.") and "\n" not in repr(fit)


def test_given_parameters_predict_and_plan_but_have_no_intervals(tmp_path):
    params = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
    fit = fitting.Fit.from_params("chinchilla", params)
    N, D = 7e10, 1.4e12
    assert fit.predict({"N": N, "D": D}) == pytest.approx(1.69 + 406.4 / N**0.34 + 410.7 / D**0.28, rel=1e-12)
    g = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62)
    assert float(fit.frontier(5.76e23).N) == pytest.approx(g * (5.76e23 / 6) ** (0.28 / 0.62), rel=1e-9)
    assert fit.warnings == [] and fit.exponents["a"] == pytest.approx(0.28 / 0.62) and "given" in repr(fit) + str(fit)
    for call in (
        lambda f: f.interval(),
        lambda f: f.stderr,
        lambda f: f.predict({"N": N, "D": D}, level=0.9),
        lambda f: f.frontier(1e22, level=0.9),
        lambda f: f.bootstrap(10),
        lambda f: f.profile("E"),
        lambda f: f.refit(),
        lambda f: fitting.influence(f),
        lambda f: f.residuals,
    ):
        with pytest.raises(fitting.FitError, match=r"needs .*parameters of this chinchilla were given, not fitted"):
            call(fit)
    fit.to_json(tmp_path / "given.json")
    loaded = fitting.load(tmp_path / "given.json")
    assert loaded.params == fit.params and repr(loaded) == repr(fit)
    np.testing.assert_array_equal(loaded.frontier(1e22).N, fit.frontier(1e22).N)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"E": 1.69}, "lacks A, B, alpha, beta"),
        ({"E": 1, "A": 1, "B": 1, "alpha": 1, "beta": 1, "gamma": 1}, "has gamma"),
        ({"E": 1, "A": "many", "B": 1, "alpha": 1, "beta": 1}, "'A'.*'many' is not a number"),
        ({"E": 1, "A": np.inf, "B": 1, "alpha": 1, "beta": 1}, "outside the bounds"),
        ([1, 2], "must be a dict"),
    ],
)
def test_given_parameters_are_checked(params, message):
    with pytest.raises(fitting.LawError, match=message):
        fitting.Fit.from_params("chinchilla", params)


def test_a_bound_that_the_solver_cannot_represent_is_refused():
    law = fitting.laws["chinchilla"]
    narrow = dataclasses.replace(law, bounds={**law.bounds, "A": (1.0, 1e4)})
    with pytest.raises(fitting.LawError, match=r"A has the bounds \[1, 10000\].*neither unit nor shift"):
        fitting.fit(narrow, *noisy("chinchilla", 0.01))


PUBLIC = sorted({inspect.getmodule(getattr(fitting, name)).__name__ for name in fitting.__all__ if name != "laws"})


@pytest.mark.parametrize("module", PUBLIC)
def test_examples_in_docstrings_run(module):
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.failed == 0
