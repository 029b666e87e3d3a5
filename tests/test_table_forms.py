"""How runs ended, sweeps, names with units and files that are not what they are called."""

import gzip
import io

import numpy as np
import pandas as pd
import pytest
from test_results_table import parsed, read, runs_table, same

from scaling_jax.analysis import Columns, parse_table
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


def parquet(table):
    file = io.BytesIO()
    table.to_parquet(file)
    return file.getvalue()


def markdown(table):
    rows = [" | ".join(map(str, row)) for row in table.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in ["params | tokens | loss", "---|:--|--:", *rows]).encode()


def text(table, **options):
    return table.to_csv(index=False, **options)


FORMS = {
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


@pytest.mark.parametrize("name", FORMS)
def test_files_that_are_not_quite_what_they_are_called(name):
    pytest.importorskip("openpyxl")
    same(read(parse_table(FORMS[name](runs_table()), name)))


def test_cells_beyond_the_header_are_not_dropped_where_they_hold_something():
    with pytest.raises(UserError, match="rows hold more cells than the header has names"):
        parsed("params,tokens,loss\n" + "1e8,1e9,3,,7\n" * 9)
