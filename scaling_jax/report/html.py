"""The report as one HTML file that opens offline: the answer, charts, and the table of runs. See page.html.j2, page.js.

Charts are drawn in the browser by plotly.js, which is embedded once, compressed: 1.9 MB instead of 4.8.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import importlib.util
import json
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import jinja2
import markupsafe
import numpy as np

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.frames import names_of
from scaling_jax.analysis.status import DONE
from scaling_jax.charts import Chart
from scaling_jax.errors import UserError
from scaling_jax.report import tables, text
from scaling_jax.report.points import answers
from scaling_jax.text import plural, short, times

MARKS = {"pass": "\u2713", "warn": "!", "fail": "\u2717", "cannot tell": "?"}
VERDICTS = {
    "trust": "Trust: no check failed.", "caution": "Caution: read the reasons before using the answer.",
    "no answer": "No answer: these runs do not determine it.",
}  # fmt: skip
FIRST = ("frontier", "law", "interval", "allocation")
MAX_POINTS = 1500  # runs in a chart: more take seconds to draw and hide each other; the table has every run
TRACES = ("bar", "contour")  # of plotly.js, beside scatter
HERE = pathlib.Path(__file__).parent


def page(analysis: Analysis, charts: Mapping[str, Chart], about: Mapping[str, Any] | None = None) -> str:
    """The whole page.

    Args:
      analysis: what is shown.
      charts: name -> chart, in the order in which they are read; see `figures.charts`.
      about: "study" (the resolved study, a dict), "samples" (of `Records.samples`) and "versions" (name -> text) of the
        workdir, where there is one; "next_runs" and "recommendation" (texts) where they were asked for.
    """
    about = about or {}
    study = about.get("study")
    charts = {name: dataclasses.replace(chart.thinned(MAX_POINTS), name=name) for name, chart in charts.items()}
    return render(
        "page.html.j2",
        charts,
        table=runs_table(analysis),
        title=f"{analysis.name} · scaling report",
        a=analysis,
        about="; ".join(_about(analysis)),
        tiles=_tiles(analysis),
        answer=tables.answer(analysis),
        lost=_lost(analysis),
        main=[charts[name] for name in FIRST if name in charts],
        others=[chart for name, chart in charts.items() if name not in FIRST and not _is_further(name, analysis)],
        also=[
            (metric, other, [chart for name, chart in charts.items() if name.startswith(f"{metric}_")])
            for metric, other in analysis.also.items()
        ],
        study=json.dumps(study, indent=1, default=str) if study else "",
        versions=tables.versions(analysis, about.get("versions", {})),
        next_runs=about.get("next_runs", ""),
        recommendation=about.get("recommendation", ""),
        samples=about.get("samples", ()),
    )


def render(template: str, charts: Mapping[str, Chart], table: Any = None, **values: Any) -> str:
    """A page of a template that extends base.html.j2, with the script, the library and the data of its charts.

    Raises:
      UserError: plotly is not installed.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scaling_jax.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals |= {"marks": MARKS, "verdicts": VERDICTS, "text": text, "tables": tables, "answers": answers}
    if not charts and table is None:
        return environment.get_template(template).render(data="", script="", plotly="", **values)
    data: dict[str, Any] = {"charts": [chart.as_json() | {"name": name} for name, chart in charts.items()]}
    if table is not None:
        data["runs"] = table
    return environment.get_template(template).render(
        data=json_in_html(data),
        script=markupsafe.Markup((HERE / "page.js").read_text(encoding="utf-8")),
        plotly=markupsafe.Markup(library() if charts else ""),
        **values,
    )


def json_in_html(value: Any) -> markupsafe.Markup:
    """JSON that no HTML parser takes for the end of its script, whatever text is in it."""
    written = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return markupsafe.Markup(written.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@functools.cache
def library() -> str:
    """plotly.js, compressed, in base64."""
    found = importlib.util.find_spec("plotly")  # its package is not imported: only this file is wanted
    if found is None or not found.submodule_search_locations:
        raise UserError("the report's charts need plotly, which is not installed: pip install 'scaling_jax[plot]'")
    source = pathlib.Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
    started = with_traces(source.read_text(encoding="utf-8"), TRACES)
    return base64.b64encode(gzip.compress(started.encode(), 6, mtime=0)).decode()


def with_traces(library: str, kinds: Collection[str]) -> str:
    """plotly.js that starts these kinds of traces beside scatter, not all 45: its start takes a third of the time.

    A build of plotly.js whose list of traces is not found stays whole.
    """
    listed, kept = re.search(r"\.register\(\[((?:[\w$]+\(\),?)+)\]\)", library), {}
    for call in listed[1].split(",") if listed else ():
        module = _after(library, f"var {call[:-2]}=")
        source = re.search(r"exports=([\w$]+)\(\)", module)
        name = re.search(r'name:"(\w+)"', _after(library, f"var {source[1]}=")) if source else None
        if name and name[1] in kinds:
            kept[name[1]] = call
        if len(kept) == len(kinds):
            break
    if listed is None or len(kept) < len(kinds):
        return library
    return library[: listed.start(1)] + ",".join(kept.values()) + library[listed.end(1) :]


def _after(text: str, start: str) -> str:
    place = text.find(start)
    return text[place : place + 2000]


def runs_table(analysis: Analysis) -> dict[str, Any]:
    """Every run of the table: {"columns": [{"name", "kind"}], "rows"}; the first column is the run_id."""
    frame = analysis.runs.table
    chosen, held = set(analysis.runs.chosen.run_id), set()
    predicted = {}
    if analysis.hold_out is not None:
        held = set(analysis.hold_out.rows.run_id)
        predicted = dict(zip(analysis.hold_out.rows.run_id, 100 * analysis.hold_out.rows.error))
    use = ["held out" if r in held else "fitted" if r in chosen else "" for r in frame.run_id]
    columns: list[tuple[str, str, Any]] = [
        ("run", "text", frame.run_id.map(str)), ("scale", "text", frame.scale.map(str)), ("N", "count", frame.N),
        (analysis.unit, "count", frame.D), ("FLOPs", "flops", frame.C), ("rate", "plain", frame.lr),
        ("seed", "text", frame.seed.map(str)), ("status", "text", frame.status),
        (analysis.metric, "plain", frame.y.where(frame.status == DONE)), ("used", "text", use),
    ]  # fmt: skip
    if predicted:
        columns.append(("off by", "percent", [predicted.get(r) for r in frame.run_id]))
    shown = [c for c in columns if not (c[1] != "text" and not np.isfinite(np.asarray(c[2], float)).any())]
    for name in ("batch_size", "accuracy", "bits_per_byte", "tokens_per_s", "wall_s"):
        if name in names_of(frame) and name != analysis.metric and frame[name].fillna(0).astype(bool).any():
            shown.append((name, "plain", frame[name]))
    order = np.lexsort((frame.C.fillna(0).to_numpy(float), frame.N.fillna(0).to_numpy(float)))
    values = [list(column) if kind == "text" else _exact(column) for _, kind, column in shown]
    rows = [[value[i] for value in values] for i in order]
    return {"columns": [{"name": name, "kind": kind} for name, kind, _ in shown], "rows": rows}


def _exact(column: Any) -> list[float | None]:
    """Numbers as they are: they are what is downloaded."""
    return [float(v) if np.isfinite(v) else None for v in np.asarray(column, float).tolist()]


def _is_further(name: str, analysis: Analysis) -> bool:
    return any(name.startswith(f"{metric}_") for metric in analysis.also)


def _about(analysis: Analysis) -> list[str]:
    runs = analysis.runs
    about = [text.header(analysis).partition(": ")[2]]
    if runs.has_compute:
        chosen = runs.chosen
        about.append(f"{plural(len(runs.scales), 'scale')}, N {short(chosen.N.min())} to {short(chosen.N.max())}")
        about.append(f"{tables.flops(chosen.C.min())} to {tables.flops(chosen.C.max())} FLOPs per run")
    return about


def _tiles(analysis: Analysis) -> list[tuple[str, str]]:
    """The answer at a glance at the first target: (value, what it is)."""
    if not len(analysis.frontier) or not answers(analysis):
        return []
    row = text.target_row(analysis)
    at = f"at {tables.flops(row.C)} FLOPs, {times(row.beyond)}x the largest run"
    spans = [tables.interval(row.D_low, row.D_high), tables.interval(row.loss_low, row.loss_high, "{:.4g}".format)]
    return [
        (short(row.N), f"{tables.interval(row.N_low, row.N_high)} parameters N* {at}"),
        (short(row.D), f"{spans[0]} {analysis.unit} D*, {short(row.D / row.N)} per parameter"),
        (tables.loss(row.loss), f"{spans[1]} {analysis.metric} expected there"),
    ]


def _lost(analysis: Analysis) -> list[str]:
    lost, out = analysis.runs.table[analysis.runs.table.status != DONE], []
    for (status, scale, rate), rows in lost.groupby(["status", "scale", "lr"], sort=False, dropna=False):
        tokens = " to ".join(dict.fromkeys([short(rows.D.min()), short(rows.D.max())]))
        named = f", rate {rate:g}" if rate == rate else ""
        out.append(f"{status}: {scale}{named}, {plural(len(rows), 'run')} of {tokens} {analysis.unit}")
    return out
