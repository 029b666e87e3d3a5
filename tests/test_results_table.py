"""Tables as people have them: read right with a note of what was understood, or refused in one line."""

import gzip
import io
import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling_jax import fitting, study
from scaling_jax.analysis import Columns, analyse, parse_table
from scaling_jax.analysis.numerals import decimal_mark, parse
from scaling_jax.analysis.read import read_runs
from scaling_jax.errors import UserError
from scaling_jax.formula import Formula

CASES = pathlib.Path(__file__).parents[2] / "shared" / "cases"
GRID = [(n, d) for n in (70_000_000, 300_000_000, 1_400_000_000) for d in (2e9, 1e10, 6e10)]


def runs_table() -> pd.DataFrame:
    table = pd.DataFrame(GRID, columns=["params", "tokens"])
    return table.assign(loss=(1.8 + 420 / table.params**0.35 + 900 / table.tokens**0.31).round(5))


def read(table, columns=None, law="chinchilla", **fit):
    return read_runs(table, fitting.laws[law], study.Fit(**fit), columns)


def parsed(text: str, name="runs.csv"):
    return read(parse_table(text.encode(), name))


def same(runs, table=None):
    table = runs_table() if table is None else table
    found = runs.chosen.sort_values(["N", "D"])
    wanted = table.sort_values(["params", "tokens"])
    np.testing.assert_allclose(found.N, wanted.params)
    np.testing.assert_allclose(found.D, wanted.tokens)
    np.testing.assert_allclose(found.y, wanted.loss)


def with_commas(table) -> str:
    rows = [f"{n:,};{d:,.0f};{y:.5f}" for n, d, y in table.itertuples(index=False)]
    swapped = [row.replace(",", "_").replace(".", ",").replace("_", ".") for row in rows]
    return "\n".join(["params;tokens;loss", *swapped])


FORMS = {
    "plain.csv": lambda t: t.to_csv(index=False).encode(),
    "with its index.csv": lambda t: t.to_csv().encode(),
    "tabs.csv": lambda t: t.to_csv(index=False, sep="\t").encode(),
    "tabs.tsv": lambda t: t.to_csv(index=False, sep="\t").encode(),
    "semicolons.csv": lambda t: t.to_csv(index=False, sep=";").encode(),
    "blanks.txt": lambda t: t.to_string(index=False).encode(),
    "decimal commas.csv": lambda t: with_commas(t).encode(),
    "comments.csv": lambda t: b"# from wandb\n# 2026\n" + t.to_csv(index=False).encode(),
    "header in a comment.txt": lambda t: (
        "# params tokens loss\n" + t.to_csv(index=False, header=False, sep=" ")
    ).encode(),
    "thousands.csv": lambda t: t.assign(params=t.params.map("{:,}".format)).to_csv(index=False).encode(),
    "utf16.csv": lambda t: t.to_csv(index=False).encode("utf-16"),
    "bom.csv": lambda t: b"\xef\xbb\xbf" + t.to_csv(index=False).encode(),
    "old mac.csv": lambda t: t.to_csv(index=False).replace("\n", "\r").encode(),
    "packed.csv.gz": lambda t: gzip.compress(t.to_csv(index=False).encode()),
    "records.json": lambda t: t.to_json(orient="records").encode(),
    "columns.json": lambda t: t.to_json().encode(),
    "split.json": lambda t: t.to_json(orient="split").encode(),
    "under a key.json": lambda t: json.dumps({"runs": t.to_dict("records"), "made": "today"}).encode(),
    "lines.jsonl": lambda t: t.to_json(orient="records", lines=True).encode(),
    "index levels.parquet": lambda t: _parquet(t.set_index(["params", "tokens"])),
}


def _parquet(table) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_table_gives_the_same_runs(name):
    same(read(parse_table(FORMS[name](runs_table()), name)))


def test_excel_is_read():
    pytest.importorskip("openpyxl")
    buffer = io.BytesIO()
    runs_table().to_excel(buffer, index=False)
    same(read(parse_table(buffer.getvalue(), "runs.xlsx")))


def test_notes_say_what_was_understood():
    notes = read(parse_table(FORMS["decimal commas.csv"](runs_table()), "runs.csv")).notes
    assert "columns are separated by semicolons" in notes and "numbers are written with decimal commas" in notes
    notes = parsed("params,tokens,loss\n70M,2B,3.7\n160M,2B,3.5\n").notes
    assert "params is read from text, e.g. 70M as 70000000" in notes


@pytest.mark.parametrize(
    "text, value",
    [
        ("70M", 7e7), ("1.4B", 1.4e9), ("60 B", 6e10), ("2T", 2e12), ("32.0K", 32e3), ("1.2G", 1.2e9), ("7e7", 7e7),
        ("70,000,000", 7e7), ("70 000 000", 7e7), ("70_000_000", 7e7), ("70'000'000", 7e7), ("3x10^20", 3e20),
        ("3 × 10^20", 3e20), ("3*10**20", 3e20), ("1.2 EFLOPs", 1.2e18), ("5e18 FLOPs", 5e18), ("2 PFLOP", 2e15),
        ("11%", 0.11), ("1.4 billion", 1.4e9), ("70M params", 7e7), ("2B tokens", 2e9), ("~70M", 7e7), ("-1.5", -1.5),
        ("\u22121.5", -1.5), (".5", 0.5), ("1.", 1.0),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text, value):
    assert parse(text) == pytest.approx(value, rel=1e-12)


def test_a_comma_that_may_be_either_is_refused_unless_the_table_decides():
    with pytest.raises(ValueError, match=r"'3,733' may be 3.733 or 3733"):
        parse("3,733")
    assert parse("3,733", ",") == 3.733 and parse("3,733", ".") == 3733
    assert decimal_mark(["3,733", "2,9641"]) == "," and decimal_mark(["70,000,000", "3.7"]) == "."
    assert decimal_mark(["3,733"]) is None and decimal_mark(["1.234.567"]) == ","
    with pytest.raises(UserError, match=r"column loss, row 0: '3,733' is not a number"):
        parsed('params;tokens;loss\n70;2;"3,733"\n')


@pytest.mark.parametrize("text", ["llama-7b", "7b-chat", "1.2.3", "12 34", "seven", "1e", "0x10", "70Q", "--5"])
def test_other_words_are_not_numbers(text):
    with pytest.raises(ValueError):
        parse(text)


NAMES = [
    {"params": "n_params", "tokens": "tokens_trained", "loss": "val_bpb"},
    {"params": "config.model.n_params", "tokens": "train/tokens", "loss": "eval/loss"},
    {"params": "num_params", "tokens": "throughput/total_tokens", "loss": "eval/c4_en-validation/CrossEntropyLoss"},
    {"params": "Parameters", "tokens": "Total Tokens", "loss": "val/loss"},
    {"params": " params ", "tokens": "tokens\n", "loss": "Loss"},
    {"params": "parameter_count", "tokens": "training tokens", "loss": "eval/paloma/macro_loss"},
]


@pytest.mark.parametrize("names", NAMES)
def test_the_names_that_tools_write_are_found(names):
    same(read(runs_table().rename(columns=names)))


def test_validation_loss_is_preferred_and_a_training_loss_is_said():
    table = runs_table().assign(val_loss=lambda t: t.loss + 0.1)
    assert read(table).names["y"] == "val_loss"
    runs = read(runs_table().rename(columns={"loss": "train/loss"}), Columns({"y": "train/loss"}))
    assert runs.names["y"] == "train/loss"
    runs = read(runs_table().rename(columns={"loss": "train_loss"}))
    assert "train_loss is a training loss: no validation loss was found" in runs.notes


def test_two_losses_that_may_be_meant_are_refused():
    table = runs_table().rename(columns={"loss": "eval/a/loss"}).assign(**{"eval/b/loss": 2.0})
    with pytest.raises(UserError, match=r"y may be eval/a/loss or eval/b/loss: choose one with --columns=y="):
        read(table)


def test_a_name_that_stands_twice():
    table = runs_table().assign(**{"loss ": 9.0})
    same(read(table))  # the exact name wins
    twice = "params,tokens,loss,loss\n7e7,2e9,3.7,3.8\n3e8,2e9,3.5,3.6\n"
    with pytest.raises(UserError, match="2 columns are called 'loss'"):
        parsed(twice)


def test_arithmetic_of_columns():
    table = runs_table().assign(head=1e6).rename(columns={"params": "my params"})
    runs = read(table, Columns({"N": "my params + head", "D": "tokens*1e0"}))
    np.testing.assert_allclose(runs.chosen.N.sort_values(), np.sort(table["my params"] + 1e6))
    for text in (
        "params.__class__",
        "__import__('os')",
        "[1]",
        "params if 1 else 2",
        "lambda: 1",
        "a" * 2000,
        "(" * 500,
    ):
        with pytest.raises(UserError, match="--columns=N="):
            read(runs_table(), Columns({"N": text}))
    assert float(Formula("-(2^3) + sqrt(x)", ["x"])(x=4.0)) == -6.0


def test_units_that_cannot_be_counts_are_named_with_the_way_out():
    table = runs_table().assign(params=lambda t: t.params / 1e6, tokens=lambda t: t.tokens / 1e9)
    found = analyse(table, fit=study.Fit(bootstrap=0))
    assert found.verdict == "no answer" and not len(found.frontier)
    assert "--columns='N=params*1e6,D=tokens*1e9'" in found.reasons[0]
    right = analyse(table, fit=study.Fit(bootstrap=0), columns={"N": "params*1e6", "D": "tokens*1e9"})
    direct = fitting.fit("chinchilla", {"N": runs_table().params, "D": runs_table().tokens}, runs_table().loss)
    assert right.fit.params["alpha"] == pytest.approx(direct.params["alpha"], rel=1e-6)
    wrong_flops = runs_table().assign(flops=lambda t: 6e-18 * t.params * t.tokens)
    assert "times 6 N D" in read(wrong_flops).suspect_units


def test_a_sweep_is_named_and_the_best_of_it_taken_when_asked():
    table = pd.concat(
        [runs_table().assign(lr=lr, loss=lambda t, f=f: t.loss * f) for lr, f in ((0.1, 1.03), (0.2, 1.0))]
    )
    sweep = read(table).sweep
    assert (sweep.groups, sweep.cells, sweep.column) == (9, 9, "lr")
    assert sweep.spread == pytest.approx(0.03)
    best = read(table, Columns(best=True))
    same(best)
    assert best.sweep.best_taken
    seeds = pd.concat([runs_table().assign(seed=s, loss=lambda t, s=s: t.loss * (1 + 0.001 * s)) for s in (0, 1)])
    assert read(seeds).sweep is None and read(seeds).noise is not None


@pytest.mark.parametrize("name", ["State", "run_state", "state", "Status", "status"])
def test_runs_that_crashed_are_left_out_aloud(name):
    extra = runs_table().head(3).assign(loss=7.0, **{name: ["crashed", "killed", "RUNNING"]})
    table = pd.concat([runs_table().assign(**{name: "Finished"}), extra], ignore_index=True)
    runs = read(table)
    same(runs)
    assert f"LEFT OUT 3 of 12 rows whose {name} is not done: 1 crashed, 1 killed, 1 RUNNING" in runs.notes


def test_a_state_that_is_not_of_a_run_leaves_nothing_out():
    same(read(runs_table().assign(state=["CA", "NY", "TX"] * 3)))


@pytest.mark.parametrize(
    "condition, count",
    [
        ("source=c4", 3), ("source!=c4", 6), ("not source=c4", 6), ("source in c4,pile", 6), ("source not in (c4)", 6),
        ("source=c4 or source=pile", 6), ("source=c4 and tokens=2e9", 1), ("tokens>2e9", 6), ("tokens <= 1e10", 6),
        ("(source=c4 or source=pile) and not tokens=2e9", 4), ("source='c4'", 3), ("odd name = a,b=c", 9),
        ("`odd name`=a,b=c", 9), ("source=c4,tokens=2e9", 1), ("source = books and more", 3), ("empty=", 9),
    ],
)  # fmt: skip
def test_where(condition, count):
    table = runs_table().assign(
        source=["c4", "pile", "books and more"] * 3,
        **{"odd name": "a,b=c"},
        empty=[None] * 9,
        tokens=[2e9] * 3 + [1e10] * 3 + [6e10] * 3,
    )
    table["source"] = np.repeat([["c4", "pile", "books and more"]], 3, axis=0).ravel()
    assert len(read(table, Columns(where=(condition,))).chosen) == count


@pytest.mark.parametrize("condition", ["nope=1", "source", "source>c4", "", "((((", "not", "source=c4 and", "a" * 5000])
def test_conditions_that_cannot_be_read_are_one_line(condition):
    table = runs_table().assign(source=["c4", "pile", "x"] * 3)
    try:
        runs = read(table, Columns(where=(condition,)))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(runs.chosen) < 9  # read as a value that some cells lack


def test_polars_arrow_and_mappings_are_tables():
    same(read({k: list(v) for k, v in runs_table().items()}))
    same(read(runs_table().to_dict("records")))
    import pyarrow

    same(read(pyarrow.Table.from_pandas(runs_table())))


@pytest.mark.parametrize("name, N", [("suffix_numbers", 1.135e9), ("tabs_in_csv", 1.135e9), ("wandb_state", 1.368e9),
                                     ("summed_columns", 1.071e9), ("blank_after_name", 1.135e9)])  # fmt: skip
def test_tables_from_users_give_the_independent_answer(name, N):
    path = CASES / f"{name}.csv"
    if not path.exists():
        pytest.skip("the handed tables are not here")
    found = analyse(parse_table(path.read_bytes(), path.name), fit=study.Fit(bootstrap=0, target_flops=(1e21,)))
    assert found.frontier[found.frontier.C == 1e21].N.iloc[0] == pytest.approx(N, rel=0.005)


CELLS = st.one_of(
    st.floats(), st.integers(), st.text(max_size=8), st.sampled_from(["70M", "1,5", "3,733", "nan", "", "1e400", "-0"]),
    st.none(),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=0, max_size=6))
def test_any_cells_are_read_or_refused_in_one_line(rows):
    table = pd.DataFrame(rows, columns=["params", "tokens", "loss"])
    try:
        runs = read(table)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert np.isfinite(runs.chosen[["N", "D", "C", "y"]].to_numpy(float)).all()
    assert (runs.chosen[["N", "D"]] > 0).all(axis=None)


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(sorted(FORMS)), st.data())
def test_mutated_files_are_read_or_refused_in_one_line(name, data):
    content = bytearray(FORMS[name](runs_table()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not content:
            break
    try:
        runs = read(parse_table(bytes(content), name))
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert np.isfinite(runs.chosen[["N", "D", "y"]].to_numpy(float)).all()


@settings(max_examples=100, deadline=None)
@given(st.floats(min_value=1, max_value=9e14), st.sampled_from(["plain", "commas", "suffix", "decimal comma"]))
def test_what_is_written_is_what_is_read(value, form):
    if form == "plain":
        assert parse(repr(value)) == value
    elif form == "commas":
        assert parse(f"{value:,.2f}", ".") == pytest.approx(round(value, 2), rel=1e-12)
    elif form == "suffix":
        assert parse(f"{value / 1e6!r}M") == pytest.approx(value, rel=1e-12)
    else:
        text = f"{value:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".")
        assert parse(text, ",") == pytest.approx(round(value, 2), rel=1e-12)
