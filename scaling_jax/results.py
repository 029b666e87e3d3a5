"""Results: the study, table, curves, analysis, figures and report of a workdir, or of several of one corpus."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from scaling_jax import analysis, report
from scaling_jax.analysis import Analysis
from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path
from scaling_jax.storage.records import Records, load_curves, load_table
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Fit, HoldOut, Study


@dataclasses.dataclass(frozen=True)
class Results:
    """What one or several workdirs hold; everything is read when it is first used.

    Attributes:
      paths: the workdirs. The first one's study says how the runs of all are fitted.
      every_run: also those runs that the present study of a workdir does not ask for.
    """

    paths: tuple[Any, ...]
    every_run: bool = False

    @property
    def path(self) -> Any:
        """The first workdir."""
        return self.paths[0]

    @functools.cached_property
    def study(self) -> Study:
        """The study. A family that is not registered here is a `StoredFamily`.

        Raises:
          UserError: not a workdir, or a damaged one.
        """
        stored = Workdir(self.path).stored()
        if stored is None:
            raise UserError(f"{str(self.path)!r} is not a workdir (it has no study.json)")
        try:
            return Study.from_dict(stored.study, any_family=True)
        except UserError as error:
            raise UserError(f"workdir {str(self.path)!r}: study.json: {error}") from error

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row per finished run, each run once; the columns are documented in docs/operations.md.

        Raises:
          UserError: no run has finished, or the workdirs are of different corpora.
        """
        tables = [load_table(path, self.every_run) for path in self.paths]
        if len(tables) == 1:
            return tables[0]
        corpora = {str(h): path for table, path in zip(tables, self.paths) for h in table["dataset_hash"].unique()}
        if len(corpora) > 1:
            (one, first), (other, second) = list(corpora.items())[:2]
            raise UserError(
                f"{str(first)!r} and {str(second)!r} were trained on different corpora (dataset_hash {one}, {other}): "
                "losses on different data do not compare; load them one by one"
            )
        table = pd.concat(tables, ignore_index=True).drop_duplicates("run_id", ignore_index=True)
        return table.fillna({"pretrain_tokens": 0.0}) if "pretrain_tokens" in table else table

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """Learning curves: run_id, step, tokens, flops, loss, phase."""
        parts, seen = [], []
        for path in self.paths:
            table = self.table if len(self.paths) == 1 else load_table(path, self.every_run)
            parts.append(load_curves(path, table.query("run_id not in @seen")))
            seen += list(table["run_id"])
        return pd.concat(parts, ignore_index=True)

    @functools.cached_property
    def analysis(self) -> Analysis:
        """The fits, with the settings of the study."""
        return analysis.analyse(self.table, self.curves, study=self.study)

    @property
    def plot(self) -> report.Plots:
        """The figures by name, e.g. `results.plot.frontier()`."""
        return report.Plots(self.analysis)

    def report(
        self,
        out: Any = None,
        formats: Sequence[str] = (),
        notes: Mapping[str, str] | None = None,
        found: Analysis | None = None,
    ) -> str:
        """Writes a page into `out` (default: `report` in the first workdir); returns the summary.

        Args:
          out: folder.
          formats: of "png", "svg", "pdf", in which every figure is written beside it.
          notes: what to do next, of `scaling_jax.decide.notes`; the command adds them by itself.
          found: the analysis that is shown; by default `self.analysis`.

        Raises:
          UserError: as `table`, or the workdir's `report` is a link out of it.
        """
        if out is None:
            Workdir(self.path).check_links()
        folder = as_path(out) if out is not None else self.path / "report"
        return report.write_report(found or self.analysis, folder, formats, about(self.path) | dict(notes or {}))


def about(path: Any) -> dict[str, Any]:
    """What a report says of a workdir beside its runs: the resolved study, and samples that were saved."""
    stored = Workdir(path).stored()
    return {} if stored is None else {"study": stored.study, "samples": Records(path).samples()}


def load(workdir: Any, *more: Any, every_run: bool = False) -> Results:
    """The results of a workdir, or of several of one corpus as one.

    Example:
      results = load("runs/small", "runs/large")
      results.table, results.analysis.verdict, results.plot.frontier()

    Args:
      workdir: local folder or gs:// path.
      *more: further workdirs; a run that is in several counts once.
      every_run: also those runs that the present study of a workdir does not ask for.

    Raises:
      UserError: not a workdir, no run has finished, or the workdirs are of different corpora.
    """
    results = Results(tuple(as_path(path) for path in (workdir, *more)), every_run)
    for path in results.paths:
        _ = Results((path,)).study
    _ = results.table
    return results


def analyse(
    results: Results | pd.DataFrame,
    *,
    fit: Fit | None = None,
    hold_out: HoldOut | None = None,
    columns: Mapping[str, str] | analysis.Columns | None = None,
) -> Analysis:
    """Fits the law, predicts held-out runs, reads off the frontier, checks what can be checked and reaches a verdict.

    Args:
      results: of `load` or `run`, or any table of runs (a DataFrame) with sizes, tokens and losses.
      fit, hold_out: settings; default those of the study, or `Fit()` and `HoldOut()` for a table.
      columns: where N, D, C and y are in somebody else's table, e.g. {"N": "params*1e6"}; usual names are found.

    Raises:
      UserError: the table lacks columns, mixes corpora or holds impossible numbers.

    Example:
      >>> from scaling_jax import fitting
      >>> pairs = [(n, d) for n in (1e7, 4e7, 16e7, 64e7) for d in (1e9, 4e9, 16e9, 64e9)]
      >>> rows = pd.DataFrame(pairs, columns=["N", "D"])
      >>> rows["val_loss"] = fitting.published["besiroglu2024"].predict(rows)
      >>> found = analyse(rows, fit=Fit(bootstrap=0))
      >>> round(found.fit.params["alpha"], 3), found.frontier.columns[:3].tolist()
      (0.348, ['C', 'N', 'D'])
    """
    if isinstance(results, Results):
        table, curves, study = results.table, results.curves, results.study
        return analysis.analyse(table, curves, study=study, fit=fit, hold_out=hold_out, columns=columns)
    return analysis.analyse(results, None, fit=fit, hold_out=hold_out, columns=columns)
