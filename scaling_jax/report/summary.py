"""What was found, as text for a log and as JSON for a machine; both say the same numbers as the figures."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import Any

import numpy as np

from scaling_jax import fitting
from scaling_jax.analysis import Analysis, HoldOut
from scaling_jax.analysis.gates import plural
from scaling_jax.report import tables
from scaling_jax.storage.records import DIVERGED, DONE, FAILED
from scaling_jax.text import short
from scaling_jax.text import table as aligned

MAX_ROWS, MAX_WARNINGS, WIDTH = 8, 4, 100


def text(analysis: Analysis, folder: str) -> str:
    """The summary for a terminal or a log: about 45 lines, 100 columns.

    Args:
      analysis: what is summed up.
      folder: where the report's files are, for the last line.
    """
    parts = [_wrap(header(analysis)), _law(analysis), _hold_out(analysis), _frontier(analysis)]
    parts += [*(_also(other) for other in analysis.also.values()), _checks(analysis)]
    if len(analysis.runs.scales):
        parts.insert(1, _table(tables.scales(analysis)))
    last = f"report: {folder}/index.html  (figures, summary.json beside it)"
    return "\n".join([*(part for part in parts if part), last])


def header(analysis: Analysis) -> str:
    """What was run, and what did not finish."""
    counts = analysis.runs.counts
    said = f"{analysis.name}: {plural(counts[DONE], 'run')} done, {counts[DIVERGED]} diverged, {counts[FAILED]} failed"
    if analysis.used < counts[DONE]:
        said += f"; the best of every (scale, {analysis.unit}, seed) are used: {analysis.used}"
    if analysis.runs.noise is not None:
        said += f"; seeds differ by {analysis.runs.noise:.2%} (one standard deviation)"
    return said


def objective(fit: fitting.Fit) -> str:
    """What was minimised, to what value, and whether that is the minimum."""
    state = "converged" if fit.converged else "NOT CONVERGED"
    return f"{fit.objective}: {fit.objective_value:.6g}, {state}"


def inputs(analysis: Analysis) -> str:
    """Which columns the law read."""
    columns = {"N": analysis.settings["params"], "D": analysis.unit, "x": "flops", "M": f"{analysis.unit}/N"}
    columns["U"] = f"unique {analysis.unit}"
    return ", ".join(f"{name} = {columns.get(name, name)}" for name in analysis.fit.law.inputs)


def ranking(analysis: Analysis) -> str:
    """How the law was chosen, where the study left it open."""
    if analysis.selection is None:
        return ""
    scores = ", ".join(f"{c.name} {c.score:.2%}" for c in analysis.selection.candidates)
    return f"chosen by the error of extrapolation within the runs below the hold-out cut: {scores}"


def _law(analysis: Analysis) -> str:
    if analysis.fit is None:
        return "\n" + _wrap(f"no law fitted: {analysis.no_fit}")
    settings = analysis.settings
    head = f"law  {analysis.fit.law.equation}   {inputs(analysis)}, {plural(analysis.used, 'run')}"
    cells = [f"{name} {value} {span}".rstrip() for name, value, span in tables.params(analysis).rows]
    # A value and its interval stay on one line.
    lines = textwrap.wrap("   ".join(cell.replace(" ", "\0") for cell in cells), WIDTH - 5)
    lines.append(f"{settings['level']:.0%} intervals; {objective(analysis.fit)}")
    lines += textwrap.wrap(ranking(analysis), WIDTH - 5)
    return "\n" + "\n".join([head, *(f"     {line}".replace("\0", " ") for line in lines)])


def _hold_out(analysis: Analysis) -> str:
    found = analysis.hold_out
    if found is None:
        return "" if analysis.fit is None else "\n" + _wrap(f"no hold-out: {analysis.no_hold_out}")
    return "\n" + _wrap(_score(analysis)) + "\n" + _table(tables.hold_out(analysis))


def _frontier(analysis: Analysis) -> str:
    if not len(analysis.frontier):
        return ""
    lines = [f"frontier, {analysis.settings['level']:.0%} intervals; {analysis.cost_note}"]
    lines.append(_table(tables.frontier(analysis)))
    by = ", ".join(f"{row.approach} {short(row.N)} (a = {row.a:.3f})" for row in analysis.approaches.itertuples())
    if by:
        target = tables.flops(analysis.frontier.C.iloc[-1])
        lines.append(_wrap(f"N* at {target} FLOPs (N* ~ C^a) by {by}", "  "))
    return "\n" + "\n".join(lines)


def _also(other: Analysis) -> str:
    """A further metric in a few lines: its law, how well it predicts, its frontier's end."""
    if other.fit is None:
        return "\n" + _wrap(f"{other.metric}: no law fitted: {other.no_fit}")
    values = " ".join(f"{name} {value:.4g}" for name, value in other.fit.params.items())
    lines = [_wrap(f"{other.metric}  {other.fit.law.equation.replace('L =', other.metric + ' =')}   {values}", "")]
    if other.hold_out is not None:
        lines.append(_wrap(_score(other), "  "))
    if len(other.frontier):
        far = other.frontier.iloc[-1]
        at = f"at {tables.flops(far.C)} FLOPs {tables.loss(far.y)} {tables.interval(far.y_low, far.y_high)}"
        lines.append(_wrap(f"{at} with N* {short(far.N)} and D* {short(far.D)}", "  "))
    return "\n" + "\n".join(lines)


def _score(analysis: Analysis) -> str:
    found = analysis.hold_out
    return (
        f"hold-out: {plural(len(found.rows), 'run')} of {tables.flops(found.cut)} FLOPs or more, predicted from the "
        f"others: {errors(found)}"
    )


def errors(found: HoldOut) -> str:
    """How far the predictions of the held-out runs are off."""
    seeds = " (means over seeds)" if found.rows.duplicated(["scale", "D"]).any() else ""
    return f"RMSLE {found.rmsle:.2%}, bias {found.bias:+.2%}, worst {found.worst:+.2%}{seeds}"


def _checks(analysis: Analysis) -> str:
    passed = sum(gate.passed is True for gate in analysis.gates)
    lines = [f"checks: {passed} of {len(analysis.gates)} passed"]
    for gate in analysis.gates:
        if gate.passed is not True:
            lines.append(_wrap(f"{'FAILED' if gate.passed is False else 'open'}  {gate.name}: {gate.detail}", "  "))
    for warning in analysis.warnings[:MAX_WARNINGS]:
        lines.append(_wrap(f"! {warning}", "  "))
    if len(analysis.warnings) > MAX_WARNINGS:
        lines.append(f"  ! {len(analysis.warnings) - MAX_WARNINGS} more in the report")
    return "\n" + "\n".join(lines)


def _table(table: tables.Table) -> str:
    """Aligned columns; of long tables the first and the last rows."""
    rows = list(table.rows)
    if len(rows) > MAX_ROWS:
        left_out = len(rows) - MAX_ROWS + 1
        rows[3 : 3 + left_out] = [(f"... {left_out} more", *[""] * (len(table.header) - 1))]
    return aligned(table.header, rows)


def _wrap(line: str, indent: str = "") -> str:
    return textwrap.fill(line, WIDTH, initial_indent=indent, subsequent_indent=indent + "    ")


def as_json(analysis: Analysis) -> dict[str, Any]:
    """Everything the text says and more, in plain JSON types; what does not exist is null."""
    fit, found, settings = analysis.fit, analysis.hold_out, analysis.settings
    out = {
        "study": analysis.name,
        "settings": dict(settings),
        "counts": dict(analysis.runs.counts) | {"fitted": len(analysis.runs.chosen)},
        "dataset_hash": analysis.dataset_hash,
        "noise_of_ln_loss": analysis.runs.noise,
        "scales": analysis.runs.scales.to_dict("records"),
        "law": None,
        "hold_out": None,
        "cost": analysis.cost_note,
        "frontier": analysis.frontier.to_dict("records"),
        "approaches": analysis.approaches.to_dict("records"),
        "gates": [dataclasses.asdict(gate) for gate in analysis.gates],
        "warnings": list(analysis.warnings),
        "why_not": {
            "fit": analysis.no_fit, "hold_out": analysis.no_hold_out, "isoflop": analysis.isoflop.why,
        },
    }  # fmt: skip
    if analysis.also:
        out["also"] = {metric: as_json(other) for metric, other in analysis.also.items()}
    if fit is not None:
        out["law"] = {
            "name": fit.law.name,
            "equation": fit.law.equation,
            "params": {p.name: {"value": p.value, "low": p.low, "high": p.high} for p in analysis.params.itertuples()},
            "objective": str(fit.objective),
            "objective_value": fit.objective_value,
            "converged": fit.converged,
            "certificate": fit.certificate,
            "chosen_among": {c.name: c.score for c in analysis.selection.candidates} if analysis.selection else None,
        }
    if found is not None:
        out["hold_out"] = {k: getattr(found, k) for k in ("cut", "rmsle", "bias", "worst")}
        out["hold_out"]["runs"] = found.rows.to_dict("records")
        out["hold_out"]["params"] = dict(found.fit.params)
    return _plain(out)


def _plain(value: Any) -> Any:
    """NumPy and dataclasses to JSON types; numbers that JSON cannot hold to null."""
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
