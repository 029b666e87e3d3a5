"""`scaling-jax report`: fits and draws the results of a workdir again."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from scaling_jax import analysis, report, results
from scaling_jax.cli import fit as fit_command
from scaling_jax.cli.results_source import Source, read_source
from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study_file import override


def define_flags() -> None:
    """Defines the flags of `scaling-jax report`."""
    flags.DEFINE_multi_string("workdir", [], "Folder (or gs:// path) of a study's runs; may be given several times.")
    flags.DEFINE_string("out", None, "Folder of the report; default WORKDIR/report of the first workdir.")
    flags.DEFINE_string("metric", None, "The column that is fitted, e.g. bits_per_byte; default as in the study.")
    flags.DEFINE_multi_string("set", [], "Override of a setting: fit.FIELD=VALUE or hold_out.FIELD=VALUE.")
    flags.DEFINE_list("figures", [], f"Also write every figure as {', '.join(report.FORMATS)}.")
    fit_command.define_fit_flags()


def main(args: list[str], values: Any) -> int:
    """Runs the command; args must be empty."""
    if args or not values.workdir:
        raise UserError("report needs --workdir=W, and no other arguments than flags")
    fit_command.check_numbers(values)
    report.check_formats(values.figures)
    if not values.out:
        Workdir(values.workdir[0]).check_links()
    source = read_source(values.workdir)
    if source.folder is None:
        raise UserError(
            f"{values.workdir[0]!r} is not a workdir; fit a table with scaling-jax fit --results={values.workdir[0]}"
        )
    print(write(source, values))
    return 0


def write(source: Source | Any, values: Any = None) -> str:
    """Fits, draws and writes the report; returns the summary for the terminal.

    Args:
      source: runs of one or more workdirs, or the path of one.
      values: flags; None takes the study's own settings.

    Raises:
      UserError: no finished run, or a setting that cannot be.
    """
    if not isinstance(source, Source):
        source = read_source([str(source)])
    if source.folder is not None and not (source.folder / "study.json").exists():
        raise UserError(f"{str(source.folder)!r} is not a study workdir (no study.json)")
    fit, cut = source.fit, source.hold_out
    if values is not None:
        fit, cut = _overridden(fit, cut, values.set)
        fit = fit_command.fit_settings(fit, values)
        cut = fit_command.cut_settings(cut, values)
        if values.metric:
            fit = dataclasses.replace(fit, metric=values.metric)
    found = analysis.analyse(source.table, source.curves, fit=fit, hold_out=cut, name=source.name)
    found, notes = _next_steps(source.folder, found)
    if values is not None:
        fit_command.check_budgets(found, values)
    out = values.out if values is not None and values.out else as_path(source.folder) / "report"
    formats = values.figures if values is not None else ()
    return report.write_report(found, out, formats, results.about(source.folder) | notes)


def _next_steps(folder: Any, found: analysis.Analysis) -> tuple[analysis.Analysis, dict[str, str]]:
    try:
        from scaling_jax import api
    except ModuleNotFoundError:  # the plain install has nothing to plan models with
        return found, {}
    return api.next_steps(folder, found)


def _overridden(fit: Any, cut: Any, assignments: list[str]) -> tuple[Any, Any]:
    """The settings with every --set fit.FIELD=VALUE and hold_out.FIELD=VALUE."""
    for assignment in assignments:
        group, dot, field = assignment.partition(".")
        if not dot or group.strip() not in ("fit", "hold_out"):
            raise UserError(f"--set {assignment!r}: report takes fit.FIELD=VALUE and hold_out.FIELD=VALUE")
        if group.strip() == "fit":
            fit = override(fit, [field])
        else:
            cut = override(cut, [field])
    return fit, cut
