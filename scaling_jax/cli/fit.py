"""`scaling-jax fit`: a table of runs, from here or from elsewhere, to a law, its doubts and a decision."""

from __future__ import annotations

import functools
import pathlib
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from scaling_jax.cli.fit_at import parse_at
from scaling_jax.cli.fit_columns import Columns, parse_mapping, read_columns
from scaling_jax.errors import UserError, is_disk_full

if TYPE_CHECKING:
    import pandas as pd

RESAMPLING = ("pairs", "residual", "wild")
OBJECTIVES = ("huber", "lad", "least_squares", "log_least_squares")


def define_flags() -> None:
    """Defines the flags of `scaling-jax fit`."""
    flags.DEFINE_string("results", None, "A workdir, or a table of runs as .csv or .parquet.")
    flags.DEFINE_string("law", "chinchilla", "Which law; `scaling-jax fit --law=list` shows them all.")
    flags.DEFINE_string("out", "fit.json", "Where the fit is written; figures go beside it.")
    flags.DEFINE_float(
        "target_flops", None, "Compute of the run to plan; by default ten times the largest in the table."
    )
    flags.DEFINE_multi_string(
        "at", [], "What the law's other inputs are at the target, as numbers or arithmetic of N and D, e.g. U=1e11, or "
        "depth=24,width=sqrt(N/288).",
    )  # fmt: skip
    flags.DEFINE_multi_string("fix", [], "Parameters held at a value, e.g. E=1.69,alpha=0.34.")
    flags.DEFINE_multi_string("columns", [], "Columns of the table, e.g. N=params,D=tokens,C=flops,y=loss.")
    flags.DEFINE_string("n_column", None, "Short for --columns=N=...: which count of parameters is N.")
    flags.DEFINE_string("y", None, "Short for --columns=y=...: the metric to fit.")
    flags.DEFINE_multi_string("where", [], "Only rows with COLUMN=VALUE; may be repeated.")
    flags.DEFINE_string("cluster_column", "", "Rows that share its value are not independent, e.g. the training trunk.")
    flags.DEFINE_string("weight_column", "", "Weights of the rows.")
    flags.DEFINE_enum("objective", "huber", OBJECTIVES, "What is minimised, summed over rows.")
    flags.DEFINE_float("delta", 1e-3, "Where Huber's cost turns linear, in ln y.", lower_bound=1e-300)
    flags.DEFINE_float(
        "overestimate_penalty", 1.0, "Cost of points below the law times this; 10 follows the lower edge of losses.",
        lower_bound=1e-300,
    )  # fmt: skip
    flags.DEFINE_float("cut_flops", None, "Also fit only runs below this compute, and judge the law on the others.")
    flags.DEFINE_list("budgets", [], "Nominal compute budgets of IsoFLOP sweeps, e.g. 6e18,1e19; found when not given.")
    flags.DEFINE_float("level", 0.95, "Of all intervals.", lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_enum(
        "resampling", "pairs", RESAMPLING, "What the bootstrap redraws: pairs (or whole clusters), residuals, or signs "
        "of residuals (wild, one sign per cluster).",
    )  # fmt: skip
    flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples behind the intervals.", lower_bound=20)
    flags.DEFINE_integer("seed", 0, "Of starts and resamples.")


def main(args: list[str], values: Any) -> int:
    """Runs the command with what is no flag (nothing) and the parsed flags; returns the exit code.

    Raises:
      UserError, FitError: what was given cannot be fitted; nothing has been written.
    """
    from scaling_jax import fitting
    from scaling_jax.storage.records import load_table

    if args:
        raise UserError(f"fit takes flags only, and got {args[0]!r}; e.g. --results={args[0]}")
    if values.law == "list":
        print("\n".join(f"{name:<18} {fitting.laws[name].equation}" for name in fitting.laws))
        return 0
    if not values.results:
        raise UserError("fit needs --results=W, where W is a workdir, a .csv or a .parquet")
    columns = parse_mapping(values.columns)
    for name, column in (("N", values.n_column), ("y", values.y)):
        if column:
            columns[name] = column
    text = fit_table(
        load_table(values.results),
        source=values.results,
        law=values.law,
        objective=_objective(values.objective, values.delta, values.overestimate_penalty),
        out=values.out,
        target_flops=values.target_flops,
        at=parse_mapping(values.at, "--at"),
        fixed=_values("--fix", parse_mapping(values.fix, "--fix")),
        columns=columns,
        where=parse_mapping(values.where, "--where"),
        cluster_column=values.cluster_column,
        weight_column=values.weight_column,
        cut_flops=values.cut_flops,
        budgets=_numbers("--budgets", values.budgets),
        level=values.level,
        resamples=values.resamples,
        resampling=values.resampling,
        seed=values.seed,
    )
    print(text)
    return 0


def fit_table(
    table: pd.DataFrame,
    *,
    source: str = "the table",
    law: str = "chinchilla",
    objective=None,
    out: Any = None,
    target_flops: float | None = None,
    at: Mapping[str, str] | None = None,
    fixed: Mapping[str, float] | None = None,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    cluster_column: str = "",
    weight_column: str = "",
    cut_flops: float | None = None,
    budgets: list[float] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    resampling: str = "pairs",
    seed: int = 0,
) -> str:
    """Fits a law to a table, writes `out` and figures beside it, and returns what the terminal shows.

    Args:
      table: one row per run. source: what it is called in the text.
      law: a name in `fitting.laws`. objective: None is Huber(1e-3).
      out: path of the .json; None writes nothing.
      target_flops: compute of the run to plan; None takes ten times the largest in the table.
      at: inputs of the law besides N and D -> what they are on the frontier; see `fit_at.parse_at`.
      fixed: parameters that are held -> their values.
      columns, where, cluster_column, weight_column: see `fit_columns.read_columns`.
      cut_flops: also fit the runs below and judge them by those above.
      budgets: nominal compute budgets of IsoFLOP sweeps; None finds them.
      level, resamples, resampling (pairs, residual or wild), seed: of the intervals.

    Raises:
      UserError, FitError: nothing has been written.
    """
    from scaling_jax import fitting
    from scaling_jax.cli.fit_text import Report, resampled

    for name, value in (("--target_flops", target_flops), ("--cut_flops", cut_flops)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise UserError(f"{name}={value}: give a positive number of FLOPs, e.g. 1e21")
    if not 0 < level < 1:
        raise UserError(f"--level={level}: give a probability between 0 and 1, e.g. 0.95")
    if any(not (np.isfinite(budget) and budget > 0) for budget in budgets or ()):
        raise UserError(f"--budgets={','.join(map(str, budgets))}: give positive numbers, e.g. --budgets=6e18,1e19")
    if out is not None and pathlib.Path(out).suffix != ".json":
        raise UserError(f"--out={out}: the fit is written as .json, e.g. --out=fit.json")
    chosen = fitting.laws[law]
    held = parse_at(chosen, at or {})
    read = read_columns(
        table, chosen, columns=columns, where=where, cluster_column=cluster_column, weight_column=weight_column
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fitting.FitWarning)  # the text says it, among the other warnings
        fit = fitting.fit(
            chosen,
            read.data,
            read.y,
            objective=objective,
            weights=read.weights,
            clusters=read.clusters,
            seed=seed,
            fixed=fixed,
        )
    fit, intervals = resampled(fit, resamples, resampling)
    report = Report(
        fit=fit, read=read, source=source, level=level, intervals=intervals, cut=cut_flops,
        target=_target(read, target_flops), rows=len(table), budgets=budgets, held=held,
    )  # fmt: skip
    text = report.text()
    if out is None:
        return text
    figures, reason = _drawn(report)
    path = pathlib.Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fit.to_json(path)
        for name, picture in figures.items():
            path.with_name(f"{path.stem}_{name}.png").write_bytes(picture)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}") from None
    written = [path, *(path.with_name(f"{path.stem}_{name}.png") for name in figures)]
    return "\n".join([text + "\n", *(f"wrote {place}" for place in written)]) + reason


def _drawn(report) -> tuple[dict[str, bytes], str]:
    """(name -> .png of every picture, why there are none): drawn before anything is written."""
    try:
        from scaling_jax.report import fit_figures
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        return {}, f"\nno figures: they need {missing}, which is not installed (pip install 'scaling_jax[plot]')"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # axes of absurd targets overflow
        return {name: fit_figures.png(figure) for name, figure in report.figures()}, ""


def _objective(name: str, delta: float, overestimate_penalty: float):
    from scaling_jax import fitting

    makers = {
        "huber": functools.partial(fitting.Huber, delta),
        "lad": fitting.LAD,
        "least_squares": fitting.LeastSquares,
        "log_least_squares": functools.partial(fitting.LeastSquares, log=True),
    }
    return makers[name](overestimate_penalty=overestimate_penalty)


def _numbers(flag: str, texts: list[str]) -> list[float] | None:
    try:
        return [float(text) for text in texts] or None
    except ValueError:
        raise UserError(f"{flag}={','.join(texts)}: give numbers, e.g. {flag}=6e18,1e19") from None


def _values(flag: str, texts: Mapping[str, str]) -> dict[str, float]:
    try:
        return {name: float(text) for name, text in texts.items()}
    except ValueError:
        given = ",".join(f"{name}={text}" for name, text in texts.items())
        raise UserError(f"{flag}={given}: give numbers, e.g. {flag}=E=1.69") from None


def _target(read: Columns, target: float | None) -> float | None:
    if read.C is None:
        return None
    return float(10 * read.C.max()) if target is None else float(target)
