"""`scaling-jax fit`: tables from anywhere to a law, figures and one-line refusals; and the code of docs/fitting.md."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from fitting_truth import noisy

from scaling_jax import analysis, fitting, study
from scaling_jax.analysis import parse_mapping
from scaling_jax.analysis.columns import Columns
from scaling_jax.analysis.fits import fit_law, parse_inputs
from scaling_jax.analysis.header import Header
from scaling_jax.analysis.read import read_runs
from scaling_jax.cli import fit as fit_command
from scaling_jax.cli import main as cli
from scaling_jax.cli.results_source import read_source
from scaling_jax.errors import UserError
from scaling_jax.report import text as report_text
from scaling_jax.storage.records import COLUMNS, TEXTS
from scaling_jax.text import short

ROOT = pathlib.Path(__file__).parents[1]
TRUTH = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
# What a plain `pip install scaling_jax` does not bring.
TRAINING_ONLY = "flax optax orbax grain tensorflow tensorflow_datasets array_record etils matplotlib PIL "


def sweeps(noise=1e-3, seed=0) -> pd.DataFrame:
    """IsoFLOP sweeps of a Chinchilla surface in the columns of the results table."""
    rng = np.random.default_rng(seed)
    rows = []
    for C in np.geomspace(1e18, 1e21, 7):
        centre = (0.34 * 406.4 / (0.28 * 410.7)) ** (1 / 0.62) * (C / 6) ** (0.28 / 0.62)
        for N in np.geomspace(centre / 4, centre * 4, 7):
            D = C / (6 * N)
            loss = TRUTH["E"] + TRUTH["A"] / N ** TRUTH["alpha"] + TRUTH["B"] / D ** TRUTH["beta"]
            rows.append((N, D, C, loss * np.exp(rng.normal(0, noise))))
    table = pd.DataFrame(rows, columns=["params_matmul", "tokens", "flops", "loss"])
    table["params_total"] = table.params_matmul + 50_000 * np.sqrt(table.params_matmul) / 8
    return table.assign(status="done", dataset_hash="abc", trunk=np.arange(len(table)) // 2)


def fit_table(
    table, *, out=None, columns=None, where=(), cluster_column="", weight_column="", best=False, **fit
) -> str:
    """The text of an analysis, as the command prints it; `out` writes the files as well."""
    options = Columns(columns or {}, tuple(where), cluster_column, weight_column, best)
    cut = study.HoldOut(flops=fit.pop("cut_flops", None))
    found = analysis.analyse(table, fit=study.Fit(**{"bootstrap": 20} | fit), hold_out=cut, columns=options)
    if found.fit is None:
        raise UserError(found.no_fit)
    return fit_command.write(found, out) if out else report_text.summary(found)


@pytest.fixture(scope="module")
def plain() -> str:
    """The text of the sweeps as they are."""
    return fit_table(sweeps())


def read(table, columns=None, law="chinchilla"):
    return read_runs(table, fitting.laws[law], study.Fit(), columns)


def run(*args: str) -> int:
    from absl import flags

    for name in list(flags.FLAGS):  # absl flags are global: every run of the command line starts without ours
        module = str(flags.FLAGS.find_module_defining_flag(name))
        if module.startswith("scaling_jax"):
            delattr(flags.FLAGS, name)
    return cli.main(["scaling-jax", *args])


@pytest.mark.slow
def test_a_table_from_elsewhere_to_a_law_and_a_decision(tmp_path, capsys):
    table = sweeps()[["params_matmul", "tokens", "flops", "loss"]]
    table.columns = ["size", "seen", "compute_spent", "nats"]
    table.to_csv(tmp_path / "theirs.csv", index=False)
    out = tmp_path / "deep" / "fit.json"
    code = run(
        "fit", f"--results={tmp_path / 'theirs.csv'}", f"--out={out}", "--target_flops=1e22", "--resamples=100",
        "--columns=N=size,D=seen,C=compute_spent,y=nats", "--cut_flops=2e20",
    )  # fmt: skip
    text = capsys.readouterr().out
    assert code == 0, text
    for words in (
        "chinchilla: L = E + A / N^alpha + B / D^beta", "arXiv:2203.15556", "N = size", "y = nats", "90% interval",
        "Huber(delta=0.001) on ln y, SUM over points", "starts agree", "verdict: ", "frontier at C = 1e+22", "RMSLE",
        "IsoFLOP curves", "chinchilla", "least absolute", "varies",
    ):  # fmt: skip
        assert words in text, words
    fit = fitting.load(out)
    direct = fitting.fit("chinchilla", {"N": table["size"], "D": table.seen}, table.nats)
    assert fit.params == pytest.approx(direct.params, rel=1e-9)
    assert fit.params["alpha"] == pytest.approx(0.34, abs=0.02)
    names = ("frontier", "residuals", "isoflop", "allocation", "n_and_d")
    for name in names:
        assert (out.parent / f"fit_{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert f"fit_{name}.png" in text
    assert sorted(p.name for p in out.parent.iterdir()) == sorted(["fit.json"] + [f"fit_{name}.png" for name in names])


def test_parquet_and_csv_give_the_same_fit(tmp_path):
    sweeps().to_csv(tmp_path / "runs.csv", index=False)
    sweeps().to_parquet(tmp_path / "runs.parquet")
    csv, parquet = (read(read_source([str(tmp_path / name)]).table) for name in ("runs.csv", "runs.parquet"))
    pd.testing.assert_frame_equal(csv.chosen, parquet.chosen, rtol=1e-14)  # CSV may round the last digit
    assert (csv.names, csv.notes) == (parquet.names, parquet.notes)
    fits = [fit_law(runs, study.Fit(law="chinchilla", bootstrap=0)).fit.params for runs in (csv, parquet)]
    assert fits[0] == pytest.approx(fits[1], rel=1e-6)


def test_a_workdir_is_read_like_a_table(tmp_path):
    pytest.importorskip("etils")
    for i, row in enumerate(sweeps().to_dict("records")):
        folder = tmp_path / "work" / "runs" / f"run{i:02d}"
        folder.mkdir(parents=True)
        lacking = set(COLUMNS) - set(row) - {"run_id"}
        more = {"run_id": f"run{i:02d}"} | {name: "x" if name in TEXTS else 1 for name in lacking}
        (folder / "result.json").write_text(json.dumps(row | more))
        (folder / "_SUCCESS").write_text("")
    text = fit_table(read_source([str(tmp_path / "work")]).table)
    assert "49 of 49 rows" in text
    assert "params_total" in text.split("varies")[1]


def test_rows_that_are_not_done_are_left_out_loudly():
    table = sweeps()
    spoiled = pd.concat([table, table.iloc[:3].assign(status="diverged", loss=99.0)], ignore_index=True)
    spoiled.loc[spoiled.index[-1], "loss"] = np.nan
    text = fit_table(spoiled)
    assert "LEFT OUT 3 of 52 rows whose status is not done: 3 diverged" in text
    assert "49 of 52 rows" in text
    with pytest.raises(UserError, match=r"none of 49 rows is left: LEFT OUT 49 of 49"):
        fit_table(table.assign(status="failed"))


def test_what_finished_is_called_elsewhere():
    table = sweeps().assign(status="Done")
    assert len(read(table).chosen) == 49
    assert len(read(table.assign(status="fertig"), Columns(where=("status=fertig",))).chosen) == 49
    assert len(read(table.assign(status=np.nan)).chosen) == 49
    some = read(table.assign(status=["done"] * 45 + [None] * 4))
    assert len(some.chosen) == 45 and some.notes[0] == "LEFT OUT 4 of 49 rows whose status is not done: 4 empty"


@pytest.mark.slow
def test_a_term_that_left_the_law_is_said_and_drawn(tmp_path):
    table = sweeps()
    text = fit_table(table, columns={"N": "tokens", "D": "tokens"}, out=tmp_path / "fit.json")
    assert text.startswith("verdict: no answer") and "Ln N and ln D correlate at 1.00" in text
    assert (tmp_path / "fit_frontier.png").exists()
    text = fit_table(table.head(5), out=tmp_path / "fit.json")
    assert text.startswith("verdict: no answer") and "5 distinct points for 5 parameters" in text
    assert re.search(r"\nno N\*, D\* or loss at \S+ FLOPs: 5 distinct points for 5 parameters", text)
    assert "frontier at C" not in text and "D*/N*" not in text  # a number would be remembered, the sentence not
    assert "leave no residual to resample" in " ".join(text.split())


def test_names_with_spaces_around_them_are_found():
    assert read(sweeps().rename(columns=lambda c: f" {c} ")).names == {
        "N": "params_matmul",
        "D": "tokens",
        "y": "loss",
        "C": "flops",
    }


def test_mixed_corpora_are_refused_and_where_is_the_way_out():
    table = sweeps()
    mixed = pd.concat([table, table.assign(dataset_hash="xyz", loss=table.loss * 1.3)])
    with pytest.raises(UserError, match=r"2 different corpora.*abc \(49 rows\).*--where=dataset_hash=abc"):
        fit_table(mixed)
    text = fit_table(mixed, where=["dataset_hash=abc"])
    assert "--where=dataset_hash=abc: 49 of 98 rows enter" in text


def test_where_compares_numbers_as_numbers():
    table = sweeps().assign(excluded=0.0)
    table.loc[:3, "excluded"] = 1.0
    runs = read(table, Columns(where=("excluded=0",)))
    assert len(runs.chosen) == 45 and any("45 of 49 rows enter" in note for note in runs.notes)


def test_the_usual_names_are_found_and_printed(plain):
    assert "N = params_matmul, D = tokens, y = loss; C = flops" in plain
    assert "params_total" in plain.split("varies")[1]  # the other count of N in the table is tried too
    text = fit_table(sweeps(), columns={"N": "params_total"})
    assert "N = params_total" in text
    text = fit_table(sweeps().drop(columns="flops"))
    assert "C = 6 N D" in text


def test_flops_that_are_not_6nd_are_reported(plain):
    assert "times 6 N D" not in plain
    table = sweeps()
    table.flops *= np.where(np.arange(len(table)) % 2, 1.0, 1.5)
    text = fit_table(table)
    assert "flops is 1 to 1.5 times 6 N D" in text and "FLOPs (C = 6 N D)" in text


def test_laws_without_a_frontier_say_why_and_are_drawn(tmp_path):
    inputs, loss = noisy("data_constrained", 0.001)
    table = pd.DataFrame({**inputs, "loss": loss}).rename(columns={"U": "unique"})
    text = fit_table(table, law="data_constrained", columns={"U": "unique"})
    assert "no frontier: data_constrained also reads U: give its value at the target, --at=U=<value>" in text
    N, E = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e9, 6), 2.0 ** np.arange(6)))
    moe = pd.DataFrame({"n": N, "experts": E, "loss": np.exp(2.6 - 0.08 * np.log(N) - 0.1 * np.log(E))})
    moe.loss *= np.exp(0.01 * np.random.default_rng(0).standard_normal(36))
    text = fit_table(moe, law="moe", columns={"N": "n"}, out=tmp_path / "fit.json")
    assert "frontier at" not in text and (tmp_path / "fit_residuals.png").exists()


@pytest.mark.slow
def test_what_a_law_reads_besides_n_and_d_is_told_with_at(tmp_path, capsys):
    inputs, loss = noisy("data_constrained", 0.001)
    pd.DataFrame({**inputs, "loss": loss}).to_csv(tmp_path / "repeated.csv", index=False)
    out = tmp_path / "fit.json"
    args = ("fit", f"--results={tmp_path / 'repeated.csv'}", "--law=data_constrained", "--target_flops=1e23")
    assert run(*args, f"--out={out}", "--resamples=20", "--at=U=1e10") == 0
    text = capsys.readouterr().out
    fit = fitting.load(out)
    best = fit.frontier(1e23, inputs={"U": 1e10})
    assert "frontier at C = 1e+23 FLOPs (C = 6 N D, U = 1e+10)" in text
    assert f"D*/N* {float(best.D / best.N):>8.1f}" in text and (tmp_path / "fit_frontier.png").exists()
    assert "N* there varies" in text

    inputs, loss = noisy("shape", 0.001)
    shaped = {"depth": "24", "width": "sqrt(N / (12*24))"}
    wanted = study.Fit(law="shape", inputs=shaped, target_flops=(1e22,), bootstrap=20)
    found = analysis.analyse(pd.DataFrame({**inputs, "loss": loss}), fit=wanted)
    fit = fitting.fit("shape", inputs, loss)
    best = fit.frontier(1e22, inputs={"depth": 24.0, "width": lambda N, D: np.sqrt(N / 288)})
    assert report_text.target_row(found).loss == pytest.approx(float(best.loss))


@pytest.mark.parametrize(
    "law, at, message",
    [
        ("data_constrained", {"D": "1e9"}, r"--at=D=1e9: the frontier of data_constrained takes U"),
        ("chinchilla", {"U": "1e9"}, r"--at=U=1e9: the frontier of chinchilla needs none: it chooses N and D"),
        ("moe", {"E": "8"}, r"--at=E=8: moe of N, E has no frontier of N and D"),
        ("data_constrained", {"U": "-1e9"}, r"--at=U=-1e9 is -1e\+09 at N=1e9, D=1e10: give something positive"),
        ("data_constrained", {"U": "tokens"}, r"--at=U=tokens cannot be read: 'tokens' is neither a number nor N or D"),
        ("data_constrained", {"U": "N.real"}, r"unsupported expression 'N.real'; give a number or"),
        ("data_constrained", {"U": "1e9)"}, r"--at=U=1e9\) cannot be read; give a number"),
        ("data_constrained", {"U": "min(D)"}, r"min takes 2 value"),
    ],
)  # fmt: skip
def test_what_at_cannot_mean_is_refused_before_the_fit(law, at, message):
    with pytest.raises(UserError, match=message) as error:
        fit_table(sweeps().assign(U=1e9, E=8), law=law, inputs=at)
    assert "\n" not in str(error.value)


def test_formulas_of_n_and_d():
    law = fitting.laws["data_constrained"]
    for text, value in (("min(D, 2e9)/2^2", 5e8), ("-(-N)*exp(log(3))", 3e9), ("max(N, D)**0.5", 1e5)):
        assert float(parse_inputs(law, {"U": text})["U"](N=1e9, D=1e10)) == pytest.approx(value)
    assert parse_inputs(law, {"U": "2*1e9"}) == {"U": 2e9}


def test_columns_may_be_given_together_or_one_by_one():
    both = {"N": "params, total", "D": "tokens"}
    assert parse_mapping(["N=params, total,D=tokens"]) == parse_mapping(["N=params, total", "D=tokens"]) == both
    with pytest.raises(UserError, match="--columns gives N twice: a and b"):
        parse_mapping(["N=a", "N=b"])


@pytest.mark.slow
def test_the_asymmetric_objective_has_a_flag(tmp_path, capsys):
    sweeps().to_csv(tmp_path / "runs.csv", index=False)
    args = (f"--results={tmp_path / 'runs.csv'}", f"--out={tmp_path / 'fit.json'}", "--resamples=20")
    assert run("fit", *args, "--overestimate_penalty=10") == 0
    assert "Huber(delta=0.001) on ln y, overestimates x 10, SUM over points" in capsys.readouterr().out
    assert fitting.load(tmp_path / "fit.json").objective == fitting.Huber(1e-3, overestimate_penalty=10)


def test_parameters_can_be_fixed(tmp_path, capsys):
    sweeps().to_csv(tmp_path / "runs.csv", index=False)
    args = ("fit", f"--results={tmp_path / 'runs.csv'}", f"--out={tmp_path / 'fit.json'}", "--resamples=20")
    assert run(*args, "--fix=E=1.69,alpha=0.34", "--cut_flops=1e20") == 0
    text = capsys.readouterr().out
    assert re.search(r"E 1\.69", text) and "RMSLE" in text
    assert fitting.load(tmp_path / "fit.json").fixed == {"E": 1.69, "alpha": 0.34}
    assert run(*args, "--fix=E=small") == 2
    assert "--fix=E=small: give numbers" in capsys.readouterr().err
    assert run(*args, "--fix=Q=1") == 2
    assert "no parameter 'Q'; it has E, A, B, alpha, beta" in capsys.readouterr().err


def test_clusters_reach_the_bootstrap(plain):
    text = fit_table(sweeps(), cluster_column="trunk")
    assert "cluster bootstrap" in text
    assert "pairs bootstrap" in plain
    assert "wild cluster bootstrap" in fit_table(sweeps(), cluster_column="trunk", resampling="wild")


def test_laws_of_one_input_and_of_tokens_per_parameter(tmp_path):
    x = np.geomspace(1e6, 1e10, 30)
    y = (1.7 + 400 * x**-0.34) * np.exp(np.random.default_rng(0).normal(0, 1e-3, 30))
    table = pd.DataFrame({"x": x, "loss": y})
    text = fit_table(table, law="power_offset", out=tmp_path / "fit.json")
    assert "power_offset: y = E + A / x^alpha" in text and "frontier at" not in text
    assert (tmp_path / "fit_law.png").exists()
    text = fit_table(sweeps(), law="overtraining", target_flops=(1e22,), out=tmp_path / "over.json")
    assert "M = tokens / params_matmul" in text and (tmp_path / "over_frontier.png").exists()
    N = float(fitting.load(tmp_path / "over.json").frontier(1e22).N)
    assert re.search(rf"N\* +{short(N)} ", text)


def test_rows_without_a_loss_are_left_out_and_counted():
    table = sweeps()
    runs = read(table.assign(loss=table.loss.where(table.index != 3)))
    assert len(runs.chosen) == 48 and runs.counts["diverged"] == 1
    assert "LEFT OUT 1 of 49 finished rows whose loss is empty or not finite (first: row 3)" in runs.notes


@pytest.mark.parametrize(
    "change, arguments, message",
    [
        (lambda t: t.drop(columns="tokens"), {}, r"no column for D .*: the table has params_matmul, .*--columns=D="),
        (lambda t: t, {"columns": {"D": "tokns"}}, r"--columns=D=tokns: the table has params_matmul, tokens"),
        (lambda t: t, {"columns": {"Q": "tokens"}}, r"--columns maps 'Q'; this law takes N, D, y, C"),
        (lambda t: t.head(4), {}, r"4 .*5 parameters"),
        (lambda t: t.assign(loss=t.loss.astype(object).where(t.index != 3, "bad")), {}, r"row 3: 'bad' is not"),
        (lambda t: t.assign(loss=-t.loss), {}, r"-"),
        (lambda t: t, {"law": "chinchila"}, r"No law named 'chinchila'. Nearest: chinchilla"),
        (lambda t: t, {"cluster_column": "nope"}, r"--cluster_column=nope: the table has"),
        (lambda t: t, {"where": ["nope=1"]}, r"--where=nope=1: the table has"),
        (lambda t: t, {"where": ["trunk=1000"]}, r"none of 49 rows is left"),
        (lambda t: t, {"target_flops": (-1.0,)}, r"target_flops(.|\n)*greater than 0"),
        (lambda t: t, {"cut_flops": 1e30}, r"all 49 points are below cut"),
        (lambda t: t, {"level": 1.0}, r"level(.|\n)*less than 1"),
        (lambda t: t.assign(flops=t.flops.where(t.index != 3, 0)), {}, r"column flops, row 3: 0; FLOPs are positive"),
        (lambda t: t.assign(flops=t.flops.where(t.index != 3, np.inf)), {}, r"column flops, row 3: inf; FLOPs"),
        (lambda t: t.assign(tokens=t.tokens.where(t.index != 3, -5)), {}, r"column tokens, row 3: -5; a count"),
        (lambda t: t.assign(status="fertig"), {}, r"49 fertig; if fertig is how .*--where=status=fertig"),
        (lambda t: t, {"isoflop_budgets": (-1.0, 1e19)}, r"isoflop_budgets(.|\n)*greater than 0"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence_and_writes_nothing(change, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        fit_table(change(sweeps()), **{"out": "fit.json", **arguments})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args, message",
    [
        ([], "fit needs --results=W"),
        (["--results=nothing.csv"], "nothing.csv"),
        (["--results=runs.csv", "--columns=N"], "'N' is not NAME=VALUE"),
        (["--results=runs.csv", "--law=nope"], "No law named 'nope'"),
        (["--results=runs.csv", "--objective=l3"], "objective"),
        (["--results=runs.csv", "--delta=0"], "delta"),
        (["--results=runs.csv", "--target_flops=-1"], "--target_flops=-1"),
        (["--results=runs.csv", "--level=1.0"], "--level=1.0"),
        (["--results=runs.csv", "--budgets=-1.0,1e19"], "--budgets=-1.0,1e19: give positive numbers"),
        (["--results=runs.csv", "--out=fit.csv"], "--out=fit.csv: the fit is written as .json"),
        (["runs.csv"], "e.g. --results=runs.csv"),
    ],
)
def test_the_command_line_refuses_with_exit_code_2_and_one_line(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweeps().to_csv("runs.csv", index=False)
    assert run("fit", *args) == 2
    out, err = capsys.readouterr()
    assert message in err and err.startswith("scaling-jax: ") and err.count("\n") == 1 and not out
    assert [p.name for p in tmp_path.iterdir()] == ["runs.csv"]


def test_law_list_names_every_law(capsys):
    assert run("fit", "--law=list") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in fitting.laws)


def test_the_plain_install_fits_without_training_packages(tmp_path):
    sweeps().to_csv(tmp_path / "runs.csv", index=False)
    script = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING_ONLY.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from scaling_jax.cli.main import main
sys.exit(main(["scaling-jax", "fit", "--results=runs.csv", "--out=fit.json", "--resamples=20"]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "no figures: they need matplotlib, which is not installed (pip install 'scaling_jax[plot]')" in done.stdout
    assert json.loads((tmp_path / "fit.json").read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.json", "runs.csv"]


def test_figures_show_the_data():
    from scaling_jax.report.plot import Plots

    found = analysis.analyse(sweeps(), fit=study.Fit(bootstrap=20))
    table, plots = found.runs.chosen, Plots(found)
    held = table.run_id.isin(found.hold_out.rows.run_id)
    ax = plots.frontier().axes[0]
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "training FLOPs")
    drawn = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets())])
    for row in table.itertuples():
        assert np.any(np.all(np.isclose(drawn, (row.C, row.y)), axis=1))
    sweep = found.isoflop.found
    ax = plots.isoflop().axes[0]
    sizes = [c.get_offsets()[0][0] for c in ax.collections if len(c.get_offsets()) == 1]  # stars
    np.testing.assert_allclose(sorted(sizes), sorted(sweep.optima.N))
    against = plots.residuals().axes[-1]
    offsets = np.concatenate([np.asarray(c.get_offsets()) for c in against.collections])
    fitted = found.hold_out.fitted.fit
    off = np.concatenate([100 * (np.exp(fitted.residuals) - 1), 100 * found.hold_out.rows.error])
    np.testing.assert_allclose(np.sort(offsets[np.isfinite(offsets[:, 1]), 1]), np.sort(off), atol=1e-9)
    assert held.sum() == len(found.hold_out.rows)


@pytest.mark.slow
def test_the_code_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    table = sweeps()[["params_matmul", "tokens", "flops", "loss"]].rename(columns={"params_matmul": "params"})
    table.to_csv("runs.csv", index=False)
    text = (ROOT / "docs" / "fitting.md").read_text()
    blocks = re.findall(r"```(python|bash)\n(.*?)```", text, flags=re.S)
    assert len(blocks) >= 8
    names: dict = {}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, "docs/fitting.md", "exec"), names)
        else:
            command, *args = code.replace("\\\n", " ").split()
            assert command == "scaling-jax"
            assert run(*args, "--resamples=50") == 0, capsys.readouterr()
    assert names["fit"].params["alpha"] == pytest.approx(0.34, abs=0.02)
    assert names["ranked"].candidates[-1].name == "kaplan"


def test_the_fitter_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sweeps().rename(columns={"params_matmul": "params"})[["params", "tokens", "loss"]].to_csv("losses.csv", index=False)
    section = (ROOT / "README.md").read_text().split("## Only the fitter")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    (command,) = re.findall(r"`(scaling-jax fit .*?)`", section)
    exec(compile(code, "README.md", "exec"), {})
    assert "frontier (closed form)" in capsys.readouterr().out
    assert run(*command.split()[1:], "--resamples=20") == 0
    assert "frontier at C = 1e+24" in capsys.readouterr().out


def test_an_out_that_cannot_be_written_is_refused_before_the_fit(tmp_path, monkeypatch, capsys):
    sweeps().to_csv(tmp_path / "runs.csv")
    (tmp_path / "folder.json").mkdir()
    monkeypatch.setattr(analysis, "analyse", lambda *args, **kwargs: pytest.fail("fitted all the same"))
    for out in ("folder.json", "runs.csv/fit.json", f"{'x' * 300}.json", "/proc/none/fit.json"):
        assert run("fit", f"--results={tmp_path / 'runs.csv'}", f"--out={tmp_path / out}") == 2
        error = capsys.readouterr().err
        assert "cannot be written" in error and error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"runs.csv", "folder.json"}


def test_a_formula_that_breaks_off_is_not_the_column_in_it():
    header = Header(pd.DataFrame(columns=["params", "loss (nats)"]))
    assert header.find("PARAMS") == "params" and header.find("Loss (Nats)") == "loss (nats)"
    assert header.find("params*") is None and header.find("(params") is None
