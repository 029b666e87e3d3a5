"""The report as one offline HTML file: no scripts, no fonts, no network; figures inside. See page.html.j2."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import jinja2

from scaling_jax.analysis import Analysis
from scaling_jax.analysis.status import DONE
from scaling_jax.report import tables, text
from scaling_jax.text import plural, short

CAPTIONS = {
    "loss_vs_compute": "Loss against compute. Each line is a scale; the black line is the fitted frontier, dashed "
    "beyond the runs. Diamonds are held-out runs, red ticks their prediction by a fit without them.",
    "learning_curves": "Learning curves of the best rate per scale: trunk and cool-downs.",
    "isoflop": "IsoFLOP curves: loss against size at equal compute; stars are the optima, dotted lines the law.",
    "residuals": "How the law fits: predicted against observed, and observed / predicted - 1 against compute.",
    "n_and_d": "The law cut two ways: against size at each amount of data, and against data at each size. Dots are "
    "runs, lines the law through all of them.",
    "allocation": "The best split of compute into parameters and data, beside the other approaches.",
    "law": "The runs and the law.",
}
MARKS = {"pass": "\u2713", "warn": "!", "fail": "\u2717", "cannot tell": "?"}
VERDICTS = {
    "trust": "Trust: no check failed.", "caution": "Caution: read the reasons before using the answer.",
    "no answer": "No answer: these runs do not determine it.",
}  # fmt: skip


def page(analysis: Analysis, pictures: Mapping[str, bytes], narrow: Mapping[str, bytes] | None = None) -> str:
    """The whole page.

    Args:
      analysis: what is shown.
      pictures: file stem -> PNG, embedded in this order.
      narrow: the same for narrow screens; what is missing is shown as in `pictures`.
    """
    narrow = narrow or {}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scaling_jax.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.globals |= {"marks": MARKS, "verdicts": VERDICTS, "text": text, "tables": tables}
    return environment.get_template("page.html.j2").render(
        a=analysis,
        about="; ".join(_about(analysis)),
        tiles=_tiles(analysis),
        lost=_lost(analysis),
        main=[_picture(name, pictures, narrow, analysis) for name in ("loss_vs_compute", "law") if name in pictures],
        others=[
            _picture(name, pictures, narrow, analysis)
            for name in pictures
            if name in CAPTIONS and name not in ("loss_vs_compute", "law")
        ],
        also=[(metric, other, _of_metric(metric, other, pictures, narrow)) for metric, other in analysis.also.items()],
    )


def _about(analysis: Analysis) -> list[str]:
    runs = analysis.runs
    about = [text.header(analysis).partition(": ")[2]]
    if runs.has_compute:
        chosen = runs.chosen
        about.append(f"{plural(len(runs.scales), 'scale')}, N {short(chosen.N.min())} to {short(chosen.N.max())}")
        about.append(f"{tables.flops(chosen.C.min())} to {tables.flops(chosen.C.max())} FLOPs per run")
    return about


def _tiles(analysis: Analysis) -> list[tuple[str, str]]:
    """The answer at a glance at each target beyond the runs: (value, what it is)."""
    if not len(analysis.frontier):
        return []
    row = text.target_row(analysis)
    at = f"at {tables.flops(row.C)} FLOPs, {row.beyond:.3g}x the largest run"
    spans = [tables.interval(row.D_low, row.D_high), tables.interval(row.loss_low, row.loss_high, "{:.4g}".format)]
    return [
        (short(row.N), f"{tables.interval(row.N_low, row.N_high)} parameters N* {at}"),
        (
            short(row.D),
            f"{spans[0]} {analysis.unit} D*, {short(row.D / row.N)} per parameter",
        ),
        (
            tables.loss(row.loss),
            f"{spans[1]} {analysis.metric} expected there",
        ),
    ]


def _lost(analysis: Analysis) -> list[str]:
    lost, out = analysis.runs.table[analysis.runs.table.status != DONE], []
    for (status, scale, rate), rows in lost.groupby(["status", "scale", "lr"], sort=False, dropna=False):
        tokens = " to ".join(dict.fromkeys([short(rows.D.min()), short(rows.D.max())]))
        named = f", rate {rate:g}" if rate == rate else ""
        out.append(f"{status}: {scale}{named}, {plural(len(rows), 'run')} of {tokens} {analysis.unit}")
    return out


def _of_metric(
    metric: str, other: Analysis, pictures: Mapping[str, bytes], narrow: Mapping[str, bytes]
) -> list[dict[str, Any]]:
    captions = {
        "vs_compute": CAPTIONS["loss_vs_compute"].replace("Loss", other.metric.capitalize(), 1),
        "n_and_d": CAPTIONS["n_and_d"],
    }
    return [
        _picture(f"{metric}_{name}", pictures, narrow, other, caption)
        for name, caption in captions.items()
        if f"{metric}_{name}" in pictures
    ]


def _picture(
    name: str,
    pictures: Mapping[str, bytes],
    narrow: Mapping[str, bytes],
    analysis: Analysis,
    caption: str | None = None,
) -> dict[str, Any]:
    picture = pictures[name]
    why = f" No exponent: {analysis.isoflop.why}." if name == "isoflop" and analysis.isoflop.why else ""
    return {
        "data": base64.b64encode(picture).decode(),
        "narrow": base64.b64encode(narrow.get(name, b"")).decode(),
        "caption": (caption or CAPTIONS[name]) + why,
        "width": int.from_bytes(picture[16:20]) * 2 // 3,  # figures of different widths keep one size of text
    }
