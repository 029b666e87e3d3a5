"""`scaling-jax compare W1 W2 [...]`: how much less compute one recipe needs than another for the same loss."""

from __future__ import annotations

import dataclasses
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from scaling_jax import analysis, fitting
from scaling_jax.analysis import parse_mapping
from scaling_jax.charts import picture_of
from scaling_jax.cli.fit import check_flops, check_level, check_out
from scaling_jax.cli.out_file import in_new_folder
from scaling_jax.cli.results_source import read_source
from scaling_jax.errors import UserError
from scaling_jax.fitting import plots
from scaling_jax.report import compare_page
from scaling_jax.report.tables import flops
from scaling_jax.study import Fit
from scaling_jax.text import table

if TYPE_CHECKING:
    import pandas as pd

    from scaling_jax.fitting import Comparison

WIDTH = 100  # of sentences


def define_flags() -> None:
    """Defines the flags of `scaling-jax compare`."""
    flags.DEFINE_string("by", "", "Column that names the recipe, for one table with all of them.")
    flags.DEFINE_string("baseline", "", "The recipe that others are compared with; by default the first.")
    flags.DEFINE_multi_string("metric", [], "Metrics to compare, one table each; by default the loss.")
    flags.DEFINE_multi_string("columns", [], "Columns of the tables, e.g. C=model_flops,y=bpb, as in `fit`.")
    flags.DEFINE_multi_string("where", [], "Only rows with COLUMN=VALUE, as in `fit`. May be repeated.")
    flags.DEFINE_string("floor", "shared", "Of the losses: shared, free, or the value at which it is pinned.")
    flags.DEFINE_float("level", 0.9, "Of all intervals.")
    flags.DEFINE_multi_float("target_flops", [], "Compute at which the multiplier is printed.")
    flags.DEFINE_bool("other_data", False, "Compare although the recipes were trained on different corpora.")
    flags.DEFINE_integer("seed", 0, "Of the sampling.", lower_bound=0)
    flags.DEFINE_string("out", "compare.csv", "Where the numbers are written; a picture and a page go beside it.")


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the flags ask of every metric."""

    columns: Mapping[str, str]
    where: tuple[str, ...]
    floor: str | float
    level: float
    seed: int
    other_data: bool


def main(args: list[str], values: Any) -> int:
    """Runs the command.

    Args:
      args: workdirs or tables, each a recipe and optionally NAME=PATH; or one table, with --by.
      values: parsed flags.

    Raises:
      UserError, FitError: the recipes cannot be compared; nothing has been written.
    """
    out = pathlib.Path(values.out)
    check_out(values.out, "the comparison", "compare.csv")
    check_flops("target_flops", values.target_flops)
    check_level(values.level)
    asked = _Asked(
        columns=parse_mapping(values.columns), where=tuple(values.where), floor=_floor(values.floor),
        level=values.level, seed=values.seed, other_data=values.other_data,
    )  # fmt: skip
    tables = _with_baseline_first(_recipes(args, values.by), values.baseline)
    found = {metric: _compare(tables, metric, asked) for metric in values.metric or ["loss"]}
    rows, text = [], []
    for comparison, names, notes in found.values():
        rows.append(comparison.table(values.target_flops or None).assign(metric=names))
        text.append(_text(comparison, rows[-1], names, notes))
    noted = list(dict.fromkeys(note for _, _, notes in found.values() for note in notes))
    new = in_new_folder(out)
    _write(out, rows, {names: comparison for comparison, names, _ in found.values()}, noted)
    print("\n\n".join(text))
    print(f"\nwrote {out}, {out.with_suffix('.png')}, {out.with_suffix('.html')}{new}")
    return 0


def _recipes(args: Sequence[str], by: str) -> dict[str, pd.DataFrame]:
    """{name: its runs}."""
    if by:
        if len(args) != 1:
            raise UserError(f"--by={by} splits one table, and {len(args)} were given")
        whole = read_source(args).table
        if by not in whole:
            raise UserError(f"--by={by}: no such column; the table has {', '.join(map(str, whole.columns))}")
        tables = {str(name): part.reset_index(drop=True) for name, part in whole.groupby(by, sort=False)}
    else:
        tables = {}
        for text in args:
            name, given, path = text.partition("=")
            path, name = (path, name) if given else (text, pathlib.Path(text.rstrip("/")).stem or text)
            if not (name and path):
                raise UserError(f"{text!r}: write NAME=PATH, e.g. baseline=runs.csv")
            if name in tables:
                raise UserError(f"two recipes are called {name!r}; name them, e.g. a={args[0]}")
            tables[name] = read_source([path]).table
    if len(tables) < 2:
        raise UserError(
            "compare needs two recipes or more: workdirs or tables, e.g. `scaling-jax compare W1 W2`, or one table "
            "with --by=COLUMN"
        )
    return tables


def _with_baseline_first(tables: dict[str, pd.DataFrame], baseline: str) -> dict[str, pd.DataFrame]:
    if not baseline:
        return tables
    if baseline not in tables:
        raise UserError(f"--baseline={baseline}: no such recipe; there are {', '.join(tables)}")
    return {baseline: tables[baseline], **tables}


def _compare(tables: Mapping[str, pd.DataFrame], metric: str, asked: _Asked) -> tuple[Comparison, str, list[str]]:
    """(comparison, what y is called, sentences on what was left out) of one metric."""
    runs = {name: _read(name, frame, metric, asked) for name, frame in tables.items()}
    corpora = {name: str(r.table["dataset_hash"].iloc[0]) for name, r in runs.items() if "dataset_hash" in r.table}
    if len(set(corpora.values())) > 1 and not asked.other_data:
        found = ", ".join(f"{name} on {corpus}" for name, corpus in corpora.items())
        raise UserError(
            f"the recipes were trained on different corpora (dataset_hash: {found}): losses on different data cannot "
            "be compared; if they were evaluated on the same text, give --other_data"
        )
    recipes, clusters = {}, {}
    for name, r in runs.items():
        chosen = r.chosen
        data = {k: chosen[k].to_numpy(float) for k in "NDC" if np.isfinite(chosen[k].to_numpy(float)).all()}
        recipes[name] = (data, chosen["y"].to_numpy(float))
        if "trunk" in chosen and chosen["trunk"].duplicated().any():
            clusters[name] = chosen["trunk"].astype(str).to_numpy()
    y = str(next(iter(runs.values())).names.get("y", metric))
    comparison = fitting.compare(
        recipes, asked.level, floor=asked.floor, clusters=clusters or None, seed=asked.seed, metric=y
    )
    noted: dict[str, list[str]] = {}
    for name, r in runs.items():
        for note in r.notes:
            noted.setdefault(note, []).append(name)
    notes = [note if len(names) == len(runs) else f"{', '.join(names)}: {note}" for note, names in noted.items()]
    return comparison, y, notes


def _read(name: str, frame: pd.DataFrame, metric: str, asked: _Asked) -> Any:
    """The runs of a recipe that enter: with N and D where the table has them, otherwise with compute alone."""
    columns = analysis.Columns(names=asked.columns, where=asked.where)
    of_compute = fitting.law(lambda p, x: p["E"] - p["K"] * x["C"], {"E": (0, 1), "K": (0, 1)}, ("C",), name="compare")
    settings = Fit(metric=metric)
    try:
        try:
            return analysis.read_runs(frame, None, settings, dataclasses.replace(columns, best=True))
        except UserError:
            return analysis.read_runs(frame, of_compute, settings, columns)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _floor(text: str) -> str | float:
    if text in ("shared", "free"):
        return text
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--floor={text}: give shared, free, or a number") from None


def _text(comparison: Comparison, rows: pd.DataFrame, metric: str, notes: Sequence[str]) -> str:
    header = ["recipe", f"C of {comparison.names[0]}", "multiplier", f"{comparison.level:.0%} interval", ""]
    cells = [
        (recipe, flops(C), f"{value:.3g}", f"{low:.3g} to {high:.3g}", "" if in_data else "extrapolated")
        for recipe, C, value, low, high, in_data in rows[list(rows.columns[:6])].itertuples(index=False, name=None)
    ]
    lines = [f"{metric}: {comparison.verdict} (floor: {comparison.floor})", table(header, cells)]
    if len(comparison.names) == 2:
        variants = comparison.by_floor().items()
        floors = "; ".join(f"{k} {m.value:.3g} ({m.low:.3g} to {m.high:.3g})" for k, m in variants)
        lines += [_wrapped(sentence) for sentence in (f"by floor: {floors}", *comparison.reasons)]
    return "\n".join([*lines, *(_wrapped(f"note: {note}") for note in notes)])


def _wrapped(sentence: str) -> str:
    return textwrap.fill(sentence, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)


def _write(
    out: pathlib.Path, rows: Sequence[pd.DataFrame], comparisons: Mapping[str, Comparison], notes: Sequence[str]
) -> None:
    import pandas as pd

    chart = plots.multipliers(comparisons)
    picture, page = picture_of(chart), compare_page.page(comparisons, chart, rows, notes)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(rows, ignore_index=True).to_csv(out, index=False)
        out.with_suffix(".png").write_bytes(picture)
        out.with_suffix(".html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}") from None
