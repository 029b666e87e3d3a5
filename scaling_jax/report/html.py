"""The report as one offline HTML file: no scripts, no fonts, no network; pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from scaling_jax.analysis import MAX_HOLD_OUT_ERROR, Analysis
from scaling_jax.analysis.gates import plural
from scaling_jax.report import summary, tables
from scaling_jax.storage.records import DONE
from scaling_jax.text import short

CAPTIONS = {
    "loss_vs_compute": "Loss against compute. Each line is a scale; the black line is the fitted frontier, dashed "
    "beyond the runs. Diamonds are held-out runs, red ticks what a fit without them predicted.",
    "learning_curves": "Learning curves of the best rate per scale: trunk and cool-downs.",
    "isoflop": "IsoFLOP curves: loss against size at equal compute; stars are the optima, dots what the law says.",
    "residuals": "How the law fits: predicted against observed, and the residual against compute.",
    "n_and_d": "The law cut two ways: against size at each amount of data, and against data at each size. Dots are "
    "runs, lines the law through all of them.",
    "allocation": "How compute is best split into parameters and data, beside the other approaches.",
}
FORMS = {"N": short, "D": short, "y": tables.loss}
MARKS = {True: ("pass", "✓"), False: ("fail", "✗"), None: ("open", "–")}
STYLE = """
:root { --ink:#1d2329; --soft:#5d6873; --line:#e3e7eb; --card:#fff; --back:#f5f6f8; --good:#1a7f4b; --bad:#b3261e; }
* { box-sizing:border-box }
body { margin:0; background:var(--back); color:var(--ink); font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
  "Helvetica Neue",Arial,sans-serif; -webkit-text-size-adjust:100% }
main { max-width:1060px; margin:0 auto; padding:24px 16px 64px }
h1 { font-size:1.7rem; line-height:1.2; margin:8px 0 4px; overflow-wrap:anywhere }
h2 { font-size:1.15rem; margin:0 0 12px } h2.next { margin-top:20px } h1.next { margin-top:36px }
p { margin:6px 0 }
section { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:18px 20px; margin:16px 0 }
.soft { color:var(--soft) } .small { font-size:.875rem }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(170px,1fr)); gap:12px; margin:16px 0 }
.tile { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:12px 16px }
.tile b { display:block; font-size:1.4rem; line-height:1.3; font-variant-numeric:tabular-nums; overflow-wrap:anywhere }
.tile.bad b { color:var(--bad) } .tile.good b { color:var(--good) }
.scroll { overflow-x:auto }
table { border-collapse:collapse; width:100%; font-size:.9rem; font-variant-numeric:tabular-nums }
th { text-align:right; font-weight:600; color:var(--soft); border-bottom:2px solid var(--line) }
td { text-align:right; border-bottom:1px solid var(--line) }
th,td { padding:6px 10px; white-space:nowrap }
th:first-child,td:first-child { text-align:left; padding-left:2px }
tr.beyond td { background:#faf6ee }
tr.lost td { color:var(--bad) }
ul.checks { list-style:none; margin:0; padding:0 }
ul.checks li { padding:5px 0 5px 30px; position:relative; border-bottom:1px solid var(--line) }
ul.checks li:last-child { border:0 }
ul.checks i { position:absolute; left:2px; font-style:normal; font-weight:700; width:20px; text-align:center }
.pass i { color:var(--good) } .fail i { color:var(--bad) } .open i { color:var(--soft) }
.warnings { margin:0; padding-left:20px } .warnings li { margin:4px 0 }
figure { margin:0 } img { width:100%; height:auto; display:block; margin:0 auto }
.narrow table { width:auto } .checks span { display:block }
figcaption { color:var(--soft); font-size:.875rem; margin-top:6px }
summary { cursor:pointer; font-weight:600 } code { font-size:.92em; overflow-wrap:anywhere }
@media (max-width:600px) { figure img { min-width:600px } }
@media (max-width:600px) { section { padding:14px 12px } main { padding:12px 8px 48px } h1 { font-size:1.35rem } }
@media print { body { background:#fff } section { break-inside:avoid } }
"""


def page(analysis: Analysis, pictures: Mapping[str, bytes]) -> str:
    """The whole page.

    Args:
      analysis: what is shown.
      pictures: file stem -> PNG, embedded in this order.
    """
    body = [_head(analysis), _tiles(analysis), _lost(analysis)]
    body += [_figure(name, pictures[name], "") for name in ("loss_vs_compute",) if name in pictures]
    body += [_frontier(analysis), _hold_out(analysis), _law(analysis), _checks(analysis)]
    why = {"isoflop": f" No exponent: {analysis.isoflop.why}." if analysis.isoflop.why else ""}
    body += [_figure(n, png, why.get(n, "")) for n, png in pictures.items() if n in CAPTIONS and n != "loss_vs_compute"]
    for metric, other in analysis.also.items():
        body.append(_also(metric, other, pictures))
    if len(analysis.runs.scales):
        body.append(_section("Scales", _table(tables.scales(analysis))))
    body.append(_section("", f"<details><summary>All runs</summary>{_table(tables.runs(analysis))}</details>"))
    title = f"{escape(analysis.name)} · scaling report"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _head(analysis: Analysis) -> str:
    runs = analysis.runs
    about = [summary.header(analysis).partition(": ")[2]]
    if len(runs.chosen):
        about.append(
            f"{plural(len(runs.scales), 'scale')}, N {short(runs.chosen.N.min())} to {short(runs.chosen.N.max())}"
        )
        about.append(f"{tables.flops(runs.chosen.C.min())} to {tables.flops(runs.chosen.C.max())} FLOPs per run")
    return f'<h1>{escape(analysis.name)}</h1><p class="soft">{escape("; ".join(about))}</p>'


def _tiles(analysis: Analysis) -> str:
    """The answer at a glance: what the largest target wants, how far to trust it."""
    tiles = []
    if len(analysis.frontier):
        target = analysis.frontier.iloc[-1]
        at = f"at {tables.flops(target.C)} FLOPs, {target.beyond:.3g}x the largest run"
        spans = [tables.interval(target[f"{k}_low"], target[f"{k}_high"], f) for k, f in FORMS.items()]
        tiles.append((short(target.N), f"{spans[0]} parameters N* {at}", ""))
        tiles.append(
            (short(target.D), f"{spans[1]} {analysis.unit} D*, {short(target.D / target.N)} per parameter", "")
        )
        tiles.append((tables.loss(target.y), f"{spans[2]} {analysis.metric} expected there", ""))
    if analysis.hold_out is not None:
        good = "good" if abs(analysis.hold_out.worst) <= MAX_HOLD_OUT_ERROR else "bad"
        said = f"worst error on {plural(len(analysis.hold_out.rows), 'held-out run')}"
        tiles.append((tables.percent(analysis.hold_out.worst), said, good))
    failed = sum(gate.passed is False for gate in analysis.gates)
    count = f"{sum(gate.passed is True for gate in analysis.gates)} of {len(analysis.gates)}"
    tiles.append((count, "checks passed" + (f", {failed} failed" if failed else ""), "bad" if failed else "good"))
    cells = (
        f'<div class="tile {kind}"><b>{escape(value)}</b><span class="soft small">{escape(said)}</span></div>'
        for value, said, kind in tiles
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _lost(analysis: Analysis) -> str:
    lost = analysis.runs.table[analysis.runs.table.status != DONE]
    if not len(lost):
        return ""
    items = ""
    for (status, scale, rate), rows in lost.groupby(["status", "scale", "lr"], sort=False, dropna=False):
        tokens = " to ".join(dict.fromkeys([short(rows.D.min()), short(rows.D.max())]))
        said = f"{status}: {scale}, rate {rate:g}, {plural(len(rows), 'run')} of {tokens} {analysis.unit}"
        items += f"<li>{escape(said)}</li>"
    return _section(f"{plural(len(lost), 'run')} out of every fit", f'<ul class="warnings">{items}</ul>')


def _frontier(analysis: Analysis) -> str:
    if not len(analysis.frontier):
        return ""
    said = f"{analysis.settings['level']:.0%} intervals. {analysis.cost_note}. Shaded rows lie beyond the runs."
    target = tables.flops(analysis.frontier.C.iloc[-1])
    others = (
        f'<h2 class="next">Other views of N* at {target} FLOPs</h2>'
        f'<div class="narrow">{_table(tables.approaches(analysis))}</div>'
    )
    table = _table(tables.frontier(analysis))
    return _section("Compute-optimal frontier", f'<p class="soft small">{escape(said)}</p>{table}{others}')


def _hold_out(analysis: Analysis) -> str:
    found = analysis.hold_out
    if found is None:
        return _section("Held-out runs", f"<p>{escape(analysis.no_hold_out)}</p>") if analysis.fit is not None else ""
    said = f"A fit on the runs below {tables.flops(found.cut)} FLOPs predicts the others: {summary.errors(found)}."
    return _section("Held-out runs", f'<p class="soft small">{escape(said)}</p>{_table(tables.hold_out(analysis))}')


def _law(analysis: Analysis) -> str:
    if analysis.fit is None:
        return _section("No law fitted", f"<p>{escape(analysis.no_fit)}</p>")
    law = analysis.fit.law
    meaning = f"{summary.inputs(analysis)}; {plural(analysis.used, 'run')}. {law.reference}."
    return _section(
        f"Law: {law.name}",
        f'<p><code>{escape(law.equation)}</code></p><p class="soft small">{escape(meaning)}</p>'
        f'<div class="narrow">{_table(tables.params(analysis))}</div>'
        f'<p class="soft small">{escape(summary.objective(analysis.fit))}</p>'
        f'<p class="soft small">{escape(summary.ranking(analysis))}</p>',
    )


def _also(metric: str, other: Analysis, pictures: Mapping[str, bytes]) -> str:
    """What a further metric's law says: its picture, frontier, held-out runs and parameters."""
    drawn = {name: pictures.get(f"{metric}_{name}") for name in ("vs_compute", "n_and_d")}
    captions = {"vs_compute": CAPTIONS["loss_vs_compute"].replace("Loss", other.metric.capitalize(), 1)}
    parts = [_figure(name, png, "", captions.get(name)) for name, png in drawn.items() if png]
    parts[1:1] = [_frontier(other), _hold_out(other), _law(other)]
    return f'<h1 class="next">{escape(other.y_label.capitalize())}</h1>' + "\n".join(part for part in parts if part)


def _checks(analysis: Analysis) -> str:
    items = "".join(
        f'<li class="{MARKS[g.passed][0]}"><i>{MARKS[g.passed][1]}</i>{escape(g.name)} '
        f'<span class="soft small">{escape(g.detail)}</span></li>'
        for g in analysis.gates
    )
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in analysis.warnings)
    if warnings:
        warnings = f'<h2 class="next">Warnings</h2><ul class="warnings small">{warnings}</ul>'
    return _section("Checks", f'<ul class="checks">{items}</ul>{warnings}')


def _figure(name: str, picture: bytes, remark: str, caption: str | None = None) -> str:
    data = base64.b64encode(picture).decode()
    caption = escape((caption or CAPTIONS[name]) + remark)
    # Pictures of different widths keep one size of text.
    width = int.from_bytes(picture[16:20]) * 2 // 3
    return (
        f'<section><figure><div class="scroll"><img alt="{caption}" style="max-width:{width}px" '
        f'src="data:image/png;base64,{data}"></div><figcaption>{caption}</figcaption></figure></section>'
    )


def _table(table: tables.Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    kinds = table.kinds or ("",) * len(table.rows)
    rows = "".join(
        f'<tr class="{kind}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for kind, row in zip(kinds, table.rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _section(title: str, content: str) -> str:
    return f"<section>{f'<h2>{escape(title)}</h2>' if title else ''}{content}</section>"
