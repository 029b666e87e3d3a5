"""What one or several workdirs hold: the study, the table of runs, learning curves, the analysis and its figures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling_jax import analysis as analyses
from scaling_jax import report
from scaling_jax.analysis import Analysis
from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path
from scaling_jax.storage.records import load_curves, load_table
from scaling_jax.storage.workdir import Workdir
from scaling_jax.study import Fit, HoldOut, Study


class Results:
    """The results of a study; each part is read when it is first asked for.

    Args:
      workdir: local folder or gs:// path.
      more: further workdirs whose runs are added, such as seeds that were trained elsewhere.
    """

    def __init__(self, workdir: Any, *more: Any):
        self._paths = tuple(as_path(path) for path in (workdir, *more))

    @property
    def path(self) -> Any:
        """The (first) workdir."""
        return self._paths[0]

    @functools.cached_property
    def study(self) -> Study:
        """The study of the (first) workdir. A family that is not registered here can be reported, but not trained.

        Raises:
          UserError: not a workdir, or a damaged one.
        """
        stored = Workdir(self.path).stored()
        if stored is None:
            raise UserError(f"{str(self.path)!r} is not a workdir (it has no study.json)")
        return Study.from_dict(stored.study, any_family=True)

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row per finished run.

        Columns: run_id, study, family, scale, width, depth, seed, status (done, diverged, failed), lr, batch_size,
        params_total, params_non_embedding, params_matmul, tokens, flops, flops_6nd, loss, further metrics,
        dataset_hash, code_version, wall_s (s), device.

        Raises:
          UserError: no run has finished, or the workdirs hold different corpora.
        """
        tables = [load_table(path) for path in self._paths]
        corpora = {str(path): frame["dataset_hash"].iloc[0] for path, frame in zip(self._paths, tables)}
        if len(set(corpora.values())) > 1:
            listed = ", ".join(f"{path} ({corpus})" for path, corpus in corpora.items())
            raise UserError(f"the workdirs hold different corpora: {listed}; load them one by one")
        if len(tables) == 1:
            return tables[0]
        return pd.concat(tables, ignore_index=True).drop_duplicates("run_id", ignore_index=True)

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """Learning curves: run_id, step, tokens, flops, loss, phase."""
        parts = [load_curves(path, load_table(path)) for path in self._paths]
        return pd.concat(parts, ignore_index=True).drop_duplicates(["run_id", "step", "phase"], ignore_index=True)

    @functools.cached_property
    def analysis(self) -> Analysis:
        """The fits, the checks and the verdict, with the settings of the study."""
        return analyse(self)

    @property
    def plot(self) -> report.Plots:
        """The figures by name, e.g. `results.plot.frontier()`."""
        return report.Plots(self.analysis)

    def report(self, out: Any = None) -> str:
        """Writes figures and a page into `out` (default: `report` in the workdir); returns the summary."""
        return report.write_report(self.analysis, as_path(out) if out is not None else self.path / "report")

    def __repr__(self) -> str:
        return f"Results({', '.join(repr(str(path)) for path in self._paths)})"


def load(workdir: Any, *more: Any) -> Results:
    """The results of a workdir; those of further workdirs are added.

    Raises:
      UserError: not a workdir, no run has finished, or the workdirs hold different corpora.
    """
    results = Results(workdir, *more)
    _ = results.study, results.table  # so that what is wrong is found here
    return results


def analyse(
    results: Results | pd.DataFrame,
    *,
    fit: Fit | None = None,
    hold_out: HoldOut | None = None,
    columns: Mapping[str, str] | analyses.Columns | None = None,
) -> Analysis:
    """Fits the law, predicts held-out runs, reads off the frontier, checks what can be checked and reaches a verdict.

    Args:
      results: of `load` or `run`, or any table of runs (a DataFrame) with sizes, tokens and losses.
      fit, hold_out: settings; default those of the study, or `Fit()` and `HoldOut()` for a table.
      columns: where N, D, C and y are in somebody else's table, e.g. {"N": "params*1e6"}; usual names are found.

    Raises:
      UserError: the table lacks columns, mixes corpora or holds impossible numbers.
    """
    if not isinstance(results, Results):
        return analyses.analyse(results, None, fit=fit, hold_out=hold_out, columns=columns)
    study = results.study
    return analyses.analyse(
        results.table,
        results.curves,
        fit=fit or study.fit,
        hold_out=hold_out or study.hold_out,
        columns=columns,
        name=study.name,
    )
