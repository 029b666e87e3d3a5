"""How runs ended, sweeps, names with units and files that are not what they are called."""

import gzip
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from test_results_table import parsed, read, runs_table, same

from scaling_jax import study
from scaling_jax.analysis import Columns, analyse, parse_table
from scaling_jax.errors import UserError


def with_endings(column, good, bad):
    """Nine finished runs and one per bad ending, whose loss would spoil the fit."""
    table = runs_table()
    spoiled = pd.DataFrame({"params": 1e9, "tokens": 5e10, "loss": 7.5, column: bad})
    return pd.concat([table.assign(**{column: good}), spoiled], ignore_index=True)


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("attributes.status", "FINISHED", ["FAILED", "KILLED", "RUNNING"]),  # MLflow
        ("summary/state", "finished", ["crashed"]),
        ("trial_status", "TERMINATED", ["ERROR"]),  # Ray Tune
        ("state", "TrialState.COMPLETE", ["TrialState.PRUNED", "TrialState.FAIL"]),  # Optuna
        ("JobState", "COMPLETED", ["OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED by 0", "TIMEOUT"]),  # Slurm
        ("ExitCode", "0:0", ["1:0", "0:9"]),
        ("return code", 0, [137]),
        ("outcome", "success", ["oom"]),
        ("phase", "Succeeded", ["Failed"]),
        ("finished", "True", ["False"]),
        ("completed", 1, [0]),
        ("done", True, [False]),
        ("diverged", "no", ["yes"]),
        ("has_nan", 0, [1]),
        ("crashed", False, [True]),
    ],
)
def test_unfinished_runs_are_left_out_aloud(column, good, bad):
    runs = read(with_endings(column, good, bad))
    same(runs)
    assert any(note.startswith(f"LEFT OUT {len(bad)} of {9 + len(bad)} rows") and column in note for note in runs.notes)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("state", ["OK", "CA", "TX", "NY", "OH", "WA", "OR", "ME", "VT"]),
        ("result", list("abcdefghi")),
        ("error", [0, 1, 0, 1, 0, 1, 0, 1, 0]),
        ("done", np.linspace(0.1, 0.9, 9)),
    ],
)
def test_columns_of_other_things_leave_nothing_out(column, cells):
    same(read(runs_table().assign(**{column: cells})))


def test_a_condition_on_another_column_does_not_let_crashed_runs_in():
    table = with_endings("state", "finished", ["crashed"]).assign(source="statewide")
    same(read(table, Columns(where=("source=statewide",))))
    assert len(read(table, Columns(where=("state in finished,crashed",))).chosen) == 10


def test_losses_that_are_words_are_left_out_aloud():
    table = runs_table().astype({"loss": object})
    table.loc[9] = [1e9, 5e10, "diverged"]
    table.loc[10] = [1e9, 6e10, "\u2014"]
    runs = read(table)
    same(runs)
    assert "LEFT OUT 2 of 11 finished rows whose loss is empty" in "; ".join(runs.notes)


@pytest.mark.parametrize(
    "condition",
    ["params < 2B", "params<2e9", "params != 3000000000", "(params < 2B) & (loss < 7)", "params<2B && loss<7",
     "not params > 2B", "params = 70M || params = 300M or params = 1.4B"],
)  # fmt: skip
@pytest.mark.parametrize("text", [True, False])
def test_conditions_know_numbers_as_people_write_them(condition, text):
    table = runs_table()
    table.loc[9] = [3e9, 1e10, 5.0]
    if text:
        table = table.assign(params=[f"{n / 1e6:g}M" for n in table.params])
    same(read(table, Columns(where=(condition,))))


def swept(**columns):
    """Two losses per (N, D), the second 2% higher; a column is given as its pair of values."""
    table = runs_table()
    both = [table.assign(**{k: v[i] for k, v in columns.items()}, loss=table.loss * (1 + 0.02 * i)) for i in (0, 1)]
    return pd.concat(both, ignore_index=True)


@pytest.mark.parametrize("column", ["optim.lr", "config/peak_lr", "weight_decay", "GlobalBatchSize", "optimizer"])
def test_a_sweep_over_any_tuned_quantity_is_named(column):
    table = swept(**{column: ("1e-3", "2e-3")})
    assert read(table).sweep.column == column
    same(read(table, Columns(best=True)))


@pytest.mark.parametrize(
    ("column", "way"), [("split", "--where='split=...'"), ("lr", "take the best of each with --b")]
)
def test_what_is_not_tuned_is_fitted_one_at_a_time(column, way):
    found = analyse(swept(**{column: ("a", "b")}), fit=study.Fit(law="chinchilla", bootstrap=0))
    assert way in "; ".join(found.reasons)


def test_rates_that_are_all_different_are_a_sweep():
    table = swept(lr=(1, 1)).assign(lr=np.linspace(1e-4, 1e-2, 18))
    assert read(table).sweep.column == "lr"


@pytest.mark.parametrize("seed", ["seed", "Seed", "config/seed", "random_seed"])
def test_replicates_are_not_a_sweep_whatever_else_differs_with_the_seed(seed):
    assert read(swept(**{seed: (0, 1), "node": ("a", "b"), "created": ("2024-01-01", "2024-01-02")})).sweep is None
    assert read(swept(**{seed: (0, 1), "lr": (1e-3, 2e-3)})).sweep.column == "lr"


@pytest.mark.parametrize("names", ["params (M),tokens (B)", "params_M,tokens_B", "Params [million],Tokens [billion]"])
def test_units_in_names(names):
    table = runs_table().assign(params=lambda t: t.params / 1e6, tokens=lambda t: t.tokens / 1e9)
    runs = read(table.set_axis([*names.split(","), "loss"], axis=1))
    same(runs)
    assert not runs.suspect_units


def test_a_mapped_formula_is_not_compared_with_its_own_column():
    table = runs_table().assign(params=lambda t: t.params / 1e6)
    assert read(table, Columns(names={"N": "params*1e6"})).conventions == {}


def test_statistics_of_a_loss():
    table = runs_table().set_axis(["params", "tokens", "loss/mean"], axis=1)
    same(read(table.assign(**{"loss/std": 0.1})))
    with pytest.raises(UserError, match="y may be loss/mean or loss/min"):
        read(table.assign(**{"loss/min": 1.0}))


def excel(table, **options):
    file = io.BytesIO()
    table.to_excel(file, **options)
    return file.getvalue()


def sheets(**tables):
    file = io.BytesIO()
    with pd.ExcelWriter(file) as writer:
        for name, table in tables.items():
            table.to_excel(writer, sheet_name=name, index=False)
    return file.getvalue()


def parquet(table):
    file = io.BytesIO()
    table.to_parquet(file)
    return file.getvalue()


def markdown(table):
    rows = [" | ".join(map(str, row)) for row in table.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in ["params | tokens | loss", "---|:--|--:", *rows]).encode()


def objects(table, write):
    """As wandb's export script writes runs: `summary` and `config` are objects."""
    rows = table.to_dict("records")
    return pd.DataFrame({
        "summary": [write({"val_loss": row["loss"], "_step": 9}) for row in rows],
        "config": [write({"params": row["params"], "tokens": row["tokens"]}) for row in rows],
        "name": [f"run-{i}" for i in range(len(rows))],
    })  # fmt: skip


def text(table, **options):
    return table.to_csv(index=False, **options)


FORMS = {
    "title.csv": lambda t: f"Runs of May,,\n\n{text(t)}".encode(),
    "titles.csv": lambda t: f"Runs of May\nall on C4\n{text(t)}".encode(),
    "joined.csv": lambda t: (text(t.head(4)) + text(t.iloc[4:])).encode(),  # cat a.csv b.csv
    "wandb.csv": lambda t: text(objects(t, json.dumps)).encode(),
    "python.csv": lambda t: text(objects(t, lambda row: str(row | {"x": float("nan")}))).encode(),
    "errors.csv": lambda t: text(t.assign(loss=[f"{y} \u00b1 0.002" for y in t.loss])).encode(),
    "digits.csv": lambda t: text(t.assign(loss=[f"{y}(2)" for y in t.loss])).encode(),
    "bold.txt": lambda t: markdown(t.astype(object).assign(loss=[f"**{y}**" for y in t.loss])),
    "formulas.csv": lambda t: "\n".join(
        ["params,tokens,loss", *(",".join(f'="{c}"' for c in r) for r in t.to_numpy())]
    ).encode(),
    "letters.csv": lambda t: text(t.assign(params=t.params / 1e6).set_axis(["N (M)", "D", "L"], axis=1)).encode(),
    "notes first.xlsx": lambda t: sheets(notes=pd.DataFrame({"read me": ["all on C4"]}), runs=t),
    "nats.csv": lambda t: text(t.rename(columns={"loss": "Val loss [nats/token]"})).encode(),
    "unpacked.csv": lambda t: gzip.compress(text(t).encode()),
    "parquet.csv": parquet,
    "excel.csv": lambda t: excel(t, index=False),
    "markdown.txt": markdown,
    "sep.csv": lambda t: b"sep=;\n" + text(t, sep=";").encode(),
    "index.txt": lambda t: t.to_string().encode(),
    "trailing.csv": lambda t: text(t).replace("\n", ",,\n").replace("loss,,", "loss").encode(),
    "utf-16-le.csv": lambda t: text(t).encode("utf-16-le"),
    "utf-16-be.csv": lambda t: text(t).encode("utf-16-be"),
    "utf-32.csv": lambda t: text(t).encode("utf-32"),
    "title.xlsx": lambda t: excel(t, index=False, startrow=2, startcol=1),
    "merged.xlsx": lambda t: excel(t.set_index(["params", "tokens"])),
}


def below(table, *rows, names="params,tokens,loss"):
    """With rows between the names and the numbers."""
    return "\n".join([names, *rows, *text(table).splitlines()[1:]]).encode()


def thousands(table):
    return table.assign(params=table.params / 1e6, tokens=table.tokens / 1e9)


def named(table, names):
    return text(table.set_axis(names, axis=1)).encode()


def marked(table, column, mark):
    return text(table.astype(object).assign(**{column: [f"{value}{mark}" for value in table[column]]})).encode()


FORMS |= {
    "units below.csv": lambda t: below(thousands(t), "M,B,nats"),
    "counts below.csv": lambda t: below(t, "(count),(count),(nats/token)"),
    "units of some.csv": lambda t: below(thousands(t), "[millions],[billions],"),
    "names below groups.csv": lambda t: below(t, "params,tokens,loss", names="size,size,result"),
    "units below.xlsx": lambda t: excel(
        pd.concat([pd.DataFrame([["M", "B", "nats"]], columns=t.columns), thousands(t)]), index=False),
    "prefixed.csv": lambda t: named(thousands(t), ["Mparams", "BTokens", "loss"]),
    "glued.csv": lambda t: named(thousands(t), ["paramsM", "tokensB", "loss"]),
    "words.csv": lambda t: named(thousands(t), ["million params", "Billions of tokens", "loss"]),
    "powers.csv": lambda t: named(thousands(t), ["params (x1e6)", "tokens [10^9]", "loss"]),
    "axes.csv": lambda t: named(thousands(t), ["params / 10^6", "tokens/1e9", "loss (nats/token)"]),
    "two lines.csv": lambda t: named(t, ["params\n(count)", "tokens\n(count)", "loss"]),
    "stars.csv": lambda t: marked(t, "loss", "*"),
    "dagger.csv": lambda t: marked(t, "tokens", " \u2020"),
    "superscript.csv": lambda t: marked(t, "loss", "\u00b9"),
    "references.csv": lambda t: marked(t, "loss", " [3]"),
    "swiss.csv": lambda t: text(t.astype(object).assign(
        params=[f"{n:,.0f}".replace(",", "\u2019") for n in t.params])).encode(),
    "latex.csv": lambda t: text(t.astype(object).assign(
        tokens=[rf"${d / 1e9:g} \times 10^{{9}}$" for d in t.tokens])).encode(),
    "ascii.txt": lambda t: "\n".join(
        [rule := "+-----+-----+-----+", "| params | tokens | loss |", rule,
         *(f"| {n:g} | {d:g} | {y} |" for n, d, y in t.itertuples(index=False)), rule]).encode(),
    "end of file.csv": lambda t: text(t).encode() + b"\x1a",
    "total.csv": lambda t: f"{text(t)}Total,{t.tokens.sum()},{t.loss.sum()}\n".encode(),
    "total by name.csv": lambda t: (
        f"{text(t.assign(run='r'))}{t.params.sum()},{t.tokens.sum()},{t.loss.mean()},TOTAL\n").encode(),
    "mean and std.csv": lambda t: (
        f"{text(t.assign(run='r'))}{t.params.mean()},,{t.loss.mean():.4f},Average:\n,,{t.loss.std():.5f},Std. dev.\n"
    ).encode(),
    "total without a name.csv": lambda t: f"{text(t)}{t.params.sum()},{t.tokens.sum()},{t.loss.sum()}\n".encode(),
    "words for nothing.csv": lambda t: (text(t) + "".join(f"1e9,{k}e10,{word}\n" for k, word in enumerate(
        ["x", "(diverged)", "NaN (OOM)", "n.a.", "...", "#NUM!", "---", "unstable"], 1))).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_files_that_are_not_quite_what_they_are_called(name):
    pytest.importorskip("openpyxl")
    same(read(parse_table(FORMS[name](runs_table()), name)))


@pytest.mark.parametrize(
    ("columns", "way"),
    [
        (lambda t: {"params": t.params, "tokens": t.tokens, "val_ppl": np.exp(t.loss)}, "y=log(`val_ppl`)"),
        (lambda t: {"params": t.params, "tokens": t.tokens, "log_likelihood": -t.loss}, "y=-`log_likelihood`"),
        (lambda t: {"log10_params": np.log10(t.params), "tokens": t.tokens, "loss": t.loss}, "N=10^`log10_params`"),
        (lambda t: {"params": t.params, "log(D)": np.log(t.tokens), "loss": t.loss}, "D=exp(`log(D)`)"),
        (lambda t: {"params": t.params, "ratio": t.tokens / t.params, "loss": t.loss}, "D=`params`*`ratio`"),
        (lambda t: {"params": t.params, "flops": 6 * t.params * t.tokens, "loss": t.loss}, "D=`flops`/(6*`params`)"),
        (
            lambda t: {"params": t.params, "tokens_per_step": 4e6, "iter": t.tokens / 4e6, "loss": t.loss},
            "D=`iter`*`tokens_per_step`",
        ),
        (
            lambda t: {"params": t.params, "step": t.tokens / 2048, "batch_size": 2, "seq_len": 1024, "loss": t.loss},
            "D=`step`*`batch_size`*`seq_len`",
        ),
    ],
)
def test_what_a_table_lacks_is_made_of_what_it_has(columns, way):
    table = pd.DataFrame(columns(runs_table()))
    with pytest.raises(UserError, match=re.escape(f"--columns={way}")):
        read(table)
    same(read(table, Columns(names=dict([way.split("=", 1)]))))  # and the way out is one


@pytest.mark.parametrize("prefix", ["", "loss_"])
def test_a_pivot_table_is_called_one(prefix):
    table = runs_table().assign(tokens=lambda t: [f"{prefix}{d / 1e9:g}B" for d in t.tokens])
    with pytest.raises(UserError, match="pivot table: give one row per run"):
        read(table.pivot(index="params", columns="tokens", values="loss").reset_index())


def test_sheets_of_the_same_columns_are_not_chosen_among():
    pytest.importorskip("openpyxl")
    table = runs_table()
    with pytest.raises(UserError, match="sheets 'old' and 'new' hold the same columns"):
        parse_table(sheets(old=table, new=table, notes=pd.DataFrame({"a": ["x"]})), "runs.xlsx")


def test_a_last_run_that_shares_a_word_with_a_total_is_a_run():
    """Another pooling, and the longest run: neither is the sum or the mean of the others."""
    table = runs_table().assign(pooling=["max"] * 8 + ["mean"])
    assert len(read(table).chosen) == 9


def test_cells_that_are_lists_are_refused():
    with pytest.raises(UserError, match=r"column loss, row 0: '\[3.* is not a number"):
        table = runs_table()
        read(parse_table(parquet(table.assign(loss=[np.array([y, y]) for y in table.loss])), "runs.parquet"))


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_placeholder_for_a_loss_is_refused_with_its_row(value):
    table = runs_table()
    table.loc[9] = [1e9, 1e10, value]
    with pytest.raises(UserError, match=rf"column loss, row 9: {value:g}; .*--where='loss > 0'"):
        read(table)
    same(read(table, Columns(where=("loss > 0",))))


def test_rows_that_repeat_another_would_narrow_the_interval():
    table = runs_table()
    runs = read(pd.concat([table, table.head(4)]))
    same(runs)
    assert any(note.startswith("LEFT OUT 4 of 13 rows that repeat another") for note in runs.notes)
    assert len(read(pd.concat([table.assign(seed=0), table.assign(seed=1)])).chosen) == 18


@pytest.mark.parametrize(("column", "small"), [("params", 300.0), ("tokens", 10.0)])
def test_cells_of_one_column_in_different_units(column, small):
    table = runs_table()
    assert not read(table).suspect_units
    table.loc[table[column] == table[column].iloc[4], column] = small  # 300 million, 10 billion
    assert f"({column}) is " in read(table).suspect_units and "mixes units" in read(table).suspect_units


def test_learning_curves_are_not_runs():
    table = runs_table().sort_values(["params", "tokens"])
    assert "9 of 9 rows are points along run, 3 each" in read(table.assign(run=table.params.map(str))).curves
    assert not read(table.assign(run=range(9))).curves
    assert not read(table.assign(model=table.params.map(str))).curves  # a size is not a run
    assert "points along model" in read(table.assign(model=table.params.map(str), step=table.tokens)).curves
    assert not read(table.assign(run=table.params.map(str)), Columns(cluster="run")).curves


def test_cells_beyond_the_header_are_not_dropped_where_they_hold_something():
    with pytest.raises(UserError, match="rows hold more cells than the header has names"):
        parsed("params,tokens,loss\n" + "1e8,1e9,3,,7\n" * 9)


def test_rows_of_several_corpora_are_no_seeds_and_lost_rows_keep_their_size():
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e10, 4)))
    one = pd.DataFrame({"params": N, "tokens": D, "loss": 1.8 + 400 / N**0.34 + 900 / D**0.3, "dataset": "c4"})
    both = pd.concat([one, one.assign(dataset="pile", loss=0.8 * one.loss)], ignore_index=True)
    reasons = analyse(both, fit=study.Fit(bootstrap=0)).reasons
    assert any("differ in dataset" in reason for reason in reasons)
    assert not any(reason.startswith("Seed ") or "seeds differ" in reason for reason in reasons)
    one.loc[[0, 5], "loss"] = np.nan
    lost = analyse(one, fit=study.Fit(bootstrap=0)).runs.of_status("diverged")
    assert list(lost.N) == [N[0], N[5]] and not lost.scale.str.contains("all").any()
