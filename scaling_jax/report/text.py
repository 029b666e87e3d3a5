"""An Analysis as text for a terminal or a log: the verdict first, then the answer, then its grounds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import numpy as np
import pandas as pd

from scaling_jax import fitting
from scaling_jax.analysis import Analysis, HoldOut
from scaling_jax.analysis.frames import rows_of
from scaling_jax.analysis.status import DIVERGED, DONE, FAILED
from scaling_jax.report import tables
from scaling_jax.text import listed, plural, short
from scaling_jax.text import table as aligned

MAX_ROWS, MAX_REASONS, MAX_NOTES, MAX_WARNINGS, WIDTH = 8, 6, 8, 4, 100


def summary(analysis: Analysis, last: str = "") -> str:
    """The whole text, about 50 lines of 100 columns.

    Args:
      analysis: what is summed up.
      last: a line for the end, such as where the report's files are.
    """
    parts = [_verdict(analysis), _answer(analysis), _next(analysis)]
    if len(analysis.runs.scales) and analysis.runs.has_compute and analysis.runs.ours:
        parts.append("\n" + _table(tables.scales(analysis)))
    parts += [
        _law(analysis),
        _tuned(analysis),
        _hold_out(analysis),
        _frontier(analysis),
        _resources(analysis),
        *map(_also, analysis.also.values()),
    ]
    parts += [_checks(analysis), _notes(analysis)]
    return "\n".join([*(part for part in parts if part), *([last] if last else [])])


def header(analysis: Analysis) -> str:
    """The name, what was run, and what did not finish."""
    counts = analysis.runs.counts
    out = f"{analysis.name}: {plural(counts[DONE], 'run')} done, {counts[DIVERGED]} diverged, {counts[FAILED]} failed"
    if analysis.used < counts[DONE]:
        if analysis.runs.ours or (analysis.runs.sweep is not None and analysis.runs.sweep.best_taken):
            out += f"; the best of every (scale, budget) is used: {analysis.used} runs"
        else:
            out += f"; {analysis.used} of them are fitted"
    if analysis.runs.noise is not None:
        out += f"; seeds differ by {analysis.runs.noise:.2%} (one standard deviation)"
    return out


def objective(fit: fitting.Fit) -> str:
    """The objective, its value at the optimum, and how sure the optimum is."""
    state = "converged" if fit.converged else "NOT CONVERGED"
    return f"{fit.objective} = {fit.objective_value:.8g}, {state}, {fit.certificate}"


def inputs(analysis: Analysis) -> str:
    """The columns of the law's inputs and of y."""
    if analysis.fit is None:
        return ""
    names = dict(analysis.runs.names)
    if analysis.fit.law.from_nd is not None and "M" not in names:
        names["M"] = f"{names.get('D', 'D')} / {names.get('N', 'N')}"
    shown = [f"{k} = {names.get(k, k)}" for k in (*analysis.fit.law.inputs, "y") if k in names or k != "y"]
    return ", ".join(shown) + (f"; C = {names['C']}" if analysis.runs.has_compute and "C" in names else "")


def ranking(analysis: Analysis) -> str:
    """The ranking that chose the law, where the settings left it open."""
    if analysis.selection is None:
        return ""
    scores = ", ".join(f"{c.name} {c.score:.2%}" for c in analysis.selection.candidates)
    return f"chosen by the error of extrapolation within the runs below the hold-out cut: {scores}"


def next_step(analysis: Analysis) -> str:
    """The next step, in a sentence."""
    if analysis.verdict == "no answer":
        return f"do not size a model by this: {analysis.runs.too_few or 'fix the first reason above'}, then fit again"
    if not len(analysis.frontier):
        return "" if analysis.verdict == "trust" else "fix the first reason above before extrapolating"
    row = target_row(analysis)
    plan = (
        f"for {tables.flops(row.C)} FLOPs train {short(row.N)} parameters on {short(row.D)} {analysis.unit} and expect "
        f"{analysis.metric} {tables.loss(row.loss)} {tables.interval(row.loss_low, row.loss_high, '{:.4g}'.format)}"
    ).rstrip()
    if analysis.verdict == "trust":
        return plan
    return f"fix the first reason above before spending much; as it is, {plan}"


def withheld(analysis: Analysis) -> str:
    """What is missing for a frontier, where the verdict is "no answer"; "" elsewhere.

    A number is remembered when the sentence beside it is not.
    """
    missing = [check.detail for check in analysis.checks if check.decisive and check.status == "fail"]
    return "; ".join(missing) if analysis.verdict == "no answer" else ""


def target_row(analysis: Analysis) -> pd.Series:
    """The frontier at the first target."""
    rows = analysis.frontier[np.isclose(analysis.frontier.C, analysis.targets[0])]
    return (rows if len(rows) else analysis.frontier.tail(1)).iloc[0]


def _verdict(analysis: Analysis) -> str:
    lines = [_wrap(f"verdict: {analysis.verdict}   {header(analysis)}")]
    lines += [_wrap(f"- {reason}", "  ") for reason in analysis.reasons[:MAX_REASONS]]
    if len(analysis.reasons) > MAX_REASONS:
        lines.append(f"  - and {len(analysis.reasons) - MAX_REASONS} more, below or in the report")
    return "\n".join(lines)


def _answer(analysis: Analysis) -> str:
    if not len(analysis.frontier):
        return "\n" + _wrap(f"no frontier: {analysis.no_frontier}") if analysis.no_frontier and analysis.fit else ""
    if reason := withheld(analysis):
        return "\n" + _wrap(f"no N*, D* or {analysis.metric} at {tables.flops(analysis.targets[0])} FLOPs: {reason}")
    row = target_row(analysis)
    held = "".join(f", {k} = {_number(v)}" for k, v in analysis.settings.inputs.items())
    cost = "C = 6 N D" if analysis.cost is None else "C as the runs count it"
    lines = [f"frontier at C = {row.C:.3g} FLOPs ({cost}{held})", f"  {tables.kind(analysis)}"]
    width = max(len("D*/N*"), len(analysis.metric))
    for key, label, show in (("N", "N*", short), ("D", "D*", short), ("loss", analysis.metric, "{:.4f}".format)):
        span = tables.interval(row[f"{key}_low"], row[f"{key}_high"], show)
        lines.append(f"  {label:<{width}} {show(row[key]):>8}  {span}".rstrip())
    with np.errstate(all="ignore"):
        lines.append(f"  {'D*/N*':<{width}} {np.divide(row.D, row.N):>8.1f}")
    return "\n" + "\n".join(lines)


def _number(text: str) -> str:
    try:
        return format(float(text), ".4g")
    except ValueError:
        return text


def _next(analysis: Analysis) -> str:
    step = next_step(analysis)
    return "\n" + _wrap(f"next: {step}") if step else ""


def _law(analysis: Analysis) -> str:
    if analysis.fitted is None:
        return "\n" + _wrap(f"no law fitted: {analysis.no_fit}")
    fit = analysis.fitted.fit
    lines = [f"{fit.law.name}: {fit.law.equation}"]
    lines += textwrap.wrap(
        f"{inputs(analysis)}; {analysis.used} of {plural(len(analysis.runs.table), 'row')}", WIDTH - 2
    )
    if fit.law.reference:
        lines += textwrap.wrap(fit.law.reference, WIDTH - 2)
    # A value and its interval stay on one line.
    cells = [f"{name} {value} {span}".rstrip() for name, value, span in tables.params(analysis).rows]
    wrapped = textwrap.wrap("   ".join(cell.replace(" ", "\0") for cell in cells), WIDTH - 2)
    lines += [line.replace("\0", " ") for line in wrapped]
    lines += textwrap.wrap(f"{analysis.settings.level:.0%} intervals of the law: {analysis.fitted.source}", WIDTH - 2)
    lines += textwrap.wrap(objective(fit), WIDTH - 2) + textwrap.wrap(ranking(analysis), WIDTH - 2)
    return "\n" + "\n".join([lines[0], *(f"  {line}" for line in lines[1:])])


def _tuned(analysis: Analysis) -> str:
    if analysis.runs.tuned is None:
        return ""
    first, *others = analysis.runs.tuned.sentences()
    return "\n" + "\n".join([_wrap(first), *(_wrap(line, "  ") for line in others)])


def _hold_out(analysis: Analysis) -> str:
    if analysis.hold_out is None:
        return "" if analysis.fit is None else "\n" + _wrap(f"no hold-out: {analysis.no_hold_out}")
    return "\n" + _wrap(_score(analysis)) + "\n" + _table(tables.hold_out(analysis))


def _frontier(analysis: Analysis) -> str:
    if not len(analysis.frontier) or withheld(analysis):
        return ""
    lines = [_wrap(f"frontier; {analysis.cost_note}"), _table(tables.frontier(analysis))]
    by = ", ".join(f"{row.approach} {short(row.N)} (a = {row.a:.3f})" for row in rows_of(analysis.approaches))
    if by:
        target = tables.flops(analysis.frontier.C.iloc[-1])
        lines.append(_wrap(f"N* at {target} FLOPs (N* ~ C^a) by {by}", "  "))
    found = analysis.sensitivity
    spread = found.size_ratio() if found is not None else None
    if found is not None and spread is not None:
        objectives = listed(dict.fromkeys(row["objective"].removesuffix(", SUM over points") for row in found.rows))
        counts = listed(dict.fromkeys(row["N"] for row in found.rows))
        choices = (
            f"{plural(len(found.rows), 'choice')} of objective ({objectives}), influential points and N ({counts})"
        )
        lines.append(_wrap(f"N* there varies {spread:.2f}x over {choices}", "  "))
    return "\n" + "\n".join(lines)


def _resources(analysis: Analysis) -> str:
    """Laws of time and memory in a line, and the best model of every other kind of budget in one each."""
    laws = [str(law) for name, law in analysis.resources[0].items() if name in ("step_s", "memory_bytes")]
    lines = [_wrap("; ".join(laws))] if laws else []
    for b in () if withheld(analysis) else analysis.budgets[0][1:]:
        span = tables.interval(b.loss_low, b.loss_high, "{:.4g}".format)
        best = f"N* {short(b.N)}, D* {short(b.D)}, {analysis.metric} {tables.loss(b.loss)} {span}"
        lines.append(_wrap(f"the same budget as {b.kind}, {b.amount}: {best}", "  "))
    return "\n" + "\n".join(lines) if lines else ""


def _also(other: Analysis) -> str:
    """A further metric in a few lines: its law, how well it predicts, its frontier's end."""
    if other.fit is None:
        return "\n" + _wrap(f"{other.metric}: no law fitted: {other.no_fit}")
    values = " ".join(f"{name} {value:.4g}" for name, value in other.fit.params.items())
    lines = [_wrap(f"{other.metric}  {other.fit.law.equation.replace('L =', other.metric + ' =')}   {values}", "")]
    if other.hold_out is not None:
        lines.append(_wrap(_score(other), "  "))
    if reason := withheld(other):
        lines.append(_wrap(f"no frontier: {reason}", "  "))
    elif len(other.frontier):
        far = other.frontier.iloc[-1]
        at = f"at {tables.flops(far.C)} FLOPs {tables.loss(far.loss)} {tables.interval(far.loss_low, far.loss_high)}"
        lines.append(_wrap(f"{at} with N* {short(far.N)} and D* {short(far.D)}", "  "))
    return "\n" + "\n".join(lines)


def _score(analysis: Analysis) -> str:
    found = analysis.hold_out
    assert found is not None
    unit = " FLOPs" if analysis.runs.has_compute else ""
    return (
        f"hold-out: {plural(len(found.rows), 'run')} of {tables.flops(found.cut)}{unit} or more, predicted from the "
        f"others: {errors(found)}"
    )


def errors(found: HoldOut) -> str:
    """Errors of the prediction of held-out runs."""
    seeds = " (means over seeds)" if found.rows.duplicated(["scale", "D"]).any() else ""
    return f"RMSLE {found.rmsle:.2%}, bias {found.bias:+.2%}, worst {found.worst:+.2%}{seeds}"


def _checks(analysis: Analysis) -> str:
    count = {
        status: sum(c.status == status for c in analysis.checks) for status in ("pass", "warn", "fail", "cannot tell")
    }
    lines = [f"checks: {', '.join(f'{n} {status}' for status, n in count.items() if n)}"]
    open_checks = [c.name for c in analysis.checks if c.status == "cannot tell"]
    if open_checks:
        lines.append(_wrap(f"cannot tell: {', '.join(open_checks)}", "  "))
    lines += [_wrap(f"! {warning}", "  ") for warning in _first(analysis.warnings, MAX_WARNINGS)]
    return "\n" + "\n".join(lines)


def _notes(analysis: Analysis) -> str:
    lines = [_wrap(f"- {note}", "  ") for note in _first(analysis.notes, MAX_NOTES)]
    return "\n".join(["notes on the table", *lines]) if lines else ""


def _first(sentences: Iterable[str], limit: int) -> list[str]:
    every = list(sentences)
    more = [f"{len(every) - limit} more in the report"] if len(every) > limit else []
    return every[:limit] + more


def _table(table: tables.Table) -> str:
    """Aligned columns; of long tables the first and the last rows."""
    rows = list(table.rows)
    if len(rows) > MAX_ROWS:
        left_out = len(rows) - MAX_ROWS + 1
        rows[3 : 3 + left_out] = [(f"... {left_out} more", *[""] * (len(table.header) - 1))]
    return aligned(table.header, rows)


def _wrap(line: str, indent: str = "") -> str:
    return textwrap.fill(line, WIDTH, initial_indent=indent, subsequent_indent=indent + "    ")
