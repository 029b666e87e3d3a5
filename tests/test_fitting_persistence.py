"""Fits as JSON: round trips, and files that are refused."""

import json
import os

import numpy as np
import pytest
from fitting_truth import noisy

from scaling_jax import fitting

AT = {"N": [1e9, 7e10], "D": [2e10, 1.4e12]}


def saved(tmp_path, fit):
    path = tmp_path / "fit.json"
    fit.to_json(path)
    return path


def test_others_may_read_the_file_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        path = saved(tmp_path, fitting.published["hoffmann2022"])
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("objective", [None, fitting.LAD(), fitting.LeastSquares(log=True, overestimate_penalty=2)])
@pytest.mark.parametrize("resampled", [False, True])
def test_everything_but_the_data_is_restored(tmp_path, objective, resampled):
    inputs, y = noisy("chinchilla", 0.01)
    fit = fitting.fit("chinchilla", inputs, y, objective, clusters=np.arange(len(y)) // 3)
    if resampled:
        fit = fit.with_bootstrap(fit.bootstrap(60, seed=2))
    loaded = fitting.load(saved(tmp_path, fit))
    same = ("params", "objective", "objective_value", "converged", "certificate", "fixed", "seed", "n", "duplicates")
    for name in (*same, "ranges", "data_hash"):
        assert getattr(loaded, name) == getattr(fit, name), name
    assert loaded.law is fit.law and loaded.warnings == fit.warnings and loaded.exponents == fit.exponents
    assert {"scaling_jax", "jax", "numpy", "scipy"} <= set(loaded.versions)
    np.testing.assert_array_equal(loaded.predict(AT), fit.predict(AT))
    np.testing.assert_array_equal(loaded.predict(AT, level=0.9).interval, fit.predict(AT, level=0.9).interval)
    ours, theirs = (f.frontier([1e21, 1e24], level=0.8) for f in (fit, loaded))
    np.testing.assert_array_equal(ours.N, theirs.N)
    np.testing.assert_array_equal(ours.interval["D"], theirs.interval["D"])
    np.testing.assert_array_equal(ours.extrapolation, theirs.extrapolation)
    assert loaded.interval(0.9) == fit.interval(0.9) and loaded.stderr == fit.stderr
    assert str(loaded) == str(fit)


def test_methods_that_need_the_data_are_refused(tmp_path):
    loaded = fitting.load(saved(tmp_path, fitting.fit("chinchilla", *noisy("chinchilla", 0.01))))
    for call in (
        lambda: loaded.bootstrap(10),
        lambda: loaded.profile("E"),
        lambda: loaded.refit(),
        lambda: loaded.residuals,
        lambda: fitting.influence(loaded),
        lambda: fitting.sensitivity(loaded),
        lambda: fitting.next_runs(loaded, 1e20),
        lambda: fitting.aicc(loaded),
    ):
        with pytest.raises(fitting.FitError, match="needs the data"):
            call()


def test_extrapolation_is_known_without_the_data(tmp_path):
    fit = fitting.fit("chinchilla", *noisy("chinchilla", 0.01))
    ours, theirs = (fitting.extrapolation(f, AT) for f in (fit, fitting.load(saved(tmp_path, fit))))
    for name in ("N", "D", "C"):
        np.testing.assert_array_equal(ours.factors[name], theirs.factors[name])
    assert theirs.leverage is None and str(ours).startswith(f"{theirs}; variance of the prediction")


@pytest.mark.parametrize("name", ["bnsl2", "data_constrained", "m4"])
def test_other_laws_are_restored(tmp_path, name):
    fit = fitting.fit(name, *noisy(name, 0.002))
    loaded = fitting.load(saved(tmp_path, fit))
    np.testing.assert_array_equal(loaded.predict(fit.data), fit.predict(fit.data))


def test_open_ends_are_restored(tmp_path):
    x = np.geomspace(1, 1e3, 40)
    law = fitting.law(
        lambda p, x: p["A"] / (1 + x["x"] / p["where"]), params={"A": (0, 9), "where": (1, np.inf)}, inputs="x"
    )
    fit = fitting.fit(law, x, 3 * np.exp(0.01 * np.random.default_rng(0).standard_normal(40)))
    fit = fit.with_bootstrap(fit.bootstrap(40))
    assert fit.interval()["where"][1] == np.inf
    json.loads(saved(tmp_path, fit).read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    loaded = fitting.load(tmp_path / "fit.json", law=law)
    assert loaded.interval() == fit.interval()
    interval = loaded.predict(100.0, level=0.9).interval
    assert np.all(np.isfinite(interval)) and interval[0] < 3 < interval[1] < 3.1


def test_your_own_law_must_be_passed(tmp_path):
    law = fitting.law(
        lambda p, x: p["a"] * x["x"] ** -p["k"], params={"a": (0, 9), "k": (0, 2)}, inputs="x", name="mine"
    )
    fit = fitting.fit(law, [1.0, 2, 3, 4], [4.0, 2.9, 2.4, 2.1])
    path = saved(tmp_path, fit)
    with pytest.raises(fitting.FileError, match=r"law=\.\.\."):
        fitting.load(path)
    assert fitting.load(path, law=law).predict(5.0) == fit.predict(5.0)
    with pytest.raises(fitting.FileError, match="parameters"):
        fitting.load(path, law=fitting.laws["chinchilla"])
    other = fitting.law(lambda p, x: p["a"] - p["k"] * x["x"], params={"a": (0, 9), "k": (0, 2)}, inputs="x")
    with pytest.raises(fitting.FileError, match="are not those that were saved: at x = 2.5 "):
        fitting.load(path, law=other)


def test_same_data_same_hash(tmp_path):
    inputs, y = noisy("chinchilla", 0.01)
    one = fitting.fit("chinchilla", inputs, y)
    assert one.data_hash == fitting.fit("chinchilla", {k: list(v) for k, v in inputs.items()}, list(y)).data_hash
    assert one.data_hash != fitting.fit("chinchilla", inputs, y * (1 + 1e-12)).data_hash


EDITS = {
    "a word for a number": lambda r: r["params"].update(A="many"),
    "no value": lambda r: r["params"].update(A=None),
    "not a number": lambda r: r["params"].update(A="nan"),
    "a parameter missing": lambda r: r["params"].pop("A"),
    "a part missing": lambda r: r.pop("objective"),
    "another law": lambda r: r.update(law="chinchila"),
    "another objective": lambda r: r["objective"].update(name="Cauchy"),
    "an objective of another version": lambda r: r["objective"].update(above=1.0),
    "a parameter edited by hand": lambda r: r["params"].update(A=1.01 * r["params"]["A"]),
    "short limits": lambda r: r["solver"].update(lower=[0.0]),
    "a short vector": lambda r: r["solver"].update(z=[1.0]),
    "a part of another kind": lambda r: r.update(params=[1, 2]),
    "a later version": lambda r: r.update(version=99),
    "another program": lambda r: r.update(format="something else"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_damaged_files_give_one_clear_line(tmp_path, edit):
    path = saved(tmp_path, fitting.fit("chinchilla", *noisy("chinchilla", 0.01)))
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    with pytest.raises(fitting.FileError) as error:
        fitting.load(path)
    assert "fit.json" in str(error.value) and "\n" not in str(error.value)


def test_files_of_another_version_are_named(tmp_path):
    path = saved(tmp_path, fitting.fit("chinchilla", *noisy("chinchilla", 0.01)))
    record = json.loads(path.read_text())
    record["objective"]["above"] = record["objective"].pop("overestimate_penalty")
    path.write_text(json.dumps(record))
    with pytest.raises(fitting.FileError, match="'above', which this scaling_jax does not know.*fit and save again"):
        fitting.load(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"{}", b"\x80\x81\x00", b"N,D,loss\n1,2,3\n", b"null"])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "fit.json"
    path.write_bytes(content)
    with pytest.raises(fitting.FileError, match=r"fit\.json"):
        fitting.load(path)


def test_cut_off_and_absent_files(tmp_path):
    path = saved(tmp_path, fitting.fit("chinchilla", *noisy("chinchilla", 0.01)))
    path.write_text(path.read_text()[:400])
    with pytest.raises(fitting.FileError, match="cut off"):
        fitting.load(path)
    with pytest.raises(fitting.FileError, match="No such file"):
        fitting.load(tmp_path / "nothing.json")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    fit = fitting.fit("chinchilla", *noisy("chinchilla", 0.01))
    path = saved(tmp_path, fit)
    before = path.read_text()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        fit.to_json(path)
    assert path.read_text() == before and [p.name for p in tmp_path.iterdir()] == ["fit.json"]
