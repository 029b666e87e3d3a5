"""`scaling-jax fit`: fits a law to a table of runs from any source, with a verdict on how far to trust it."""

from __future__ import annotations

import dataclasses
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from absl import flags

from scaling_jax import analysis, fitting
from scaling_jax.charts import picture_of
from scaling_jax.cli.out_file import check_writable
from scaling_jax.cli.published import published_plan
from scaling_jax.cli.results_source import read_source
from scaling_jax.errors import UserError, is_disk_full
from scaling_jax.report import figures, text
from scaling_jax.study import Fit, HoldOut
from scaling_jax.text import to_bytes

RESAMPLING = ("pairs", "residual", "wild")
OBJECTIVES = ("huber", "lad", "least_squares", "log_least_squares")
# Flag -> field of `study.Fit`. A flag that is not given leaves the workdir's own setting.
FIELDS = {
    "law": "law", "objective": "objective", "delta": "huber_delta", "overestimate_penalty": "overestimate_penalty",
    "level": "level", "resampling": "resampling", "resamples": "bootstrap", "seed": "seed",
    "price": "price",
}  # fmt: skip
MAX_POINTS = 2000  # runs in a figure: more hide each other
COSTS = ("flops", "device_hours", "dollars")


def define_flags() -> None:
    """Defines the flags of `scaling-jax fit`."""
    flags.DEFINE_multi_string("results", [], "A table of runs (.csv, .tsv, .json, .parquet, .xlsx ...), or workdirs.")
    flags.DEFINE_string(
        "published", "", "Plan from a published fit instead of a table, e.g. besiroglu2024; `list` shows them all."
    )
    flags.DEFINE_string("out", "fit.json", "Where the fit is written; figures go beside it.")
    define_fit_flags()
    flags.DEFINE_multi_string(
        "columns", [], "Columns of the table, e.g. N=params,D=tokens,C=flops,y=loss; also arithmetic, e.g. N=n*1e6 "
        "or N=blocks+head.",
    )  # fmt: skip
    flags.DEFINE_string("n_column", None, "Short for --columns=N=...: which count of parameters is N.")
    flags.DEFINE_string("y", None, "Short for --columns=y=...: the metric to fit.")
    flags.DEFINE_multi_string(
        "where", [], "Only rows with COLUMN=VALUE; also !=, <, >, `in a,b`, and, or, not. May be repeated."
    )
    flags.DEFINE_bool(
        "best", False, "Keep the best row of each (N, D, seed): for tables of sweeps over tuned quantities."
    )
    flags.DEFINE_string("cluster_column", "", "Rows that share its value are not independent, e.g. the training trunk.")
    flags.DEFINE_string("weight_column", "", "Weights of the rows.")


def define_fit_flags() -> None:
    """Defines the flags that `fit` and `report` share."""
    flags.DEFINE_string("law", None, "Which law; `scaling-jax fit --law=list` shows them all.")
    flags.DEFINE_multi_float(
        "target_flops", None, "Compute of the run to plan; by default 10 and 100 times the largest in the table."
    )
    flags.DEFINE_multi_string(
        "at", [], "The law's other inputs at the target, as numbers or arithmetic of N and D, e.g. U=1e11, or "
        "depth=24,width=sqrt(N/288).",
    )  # fmt: skip
    flags.DEFINE_multi_string("fix", [], "Parameters fixed at a value, e.g. E=1.69,alpha=0.34.")
    flags.DEFINE_enum("objective", None, OBJECTIVES, "Minimized, summed over rows; default huber.")
    flags.DEFINE_float("delta", None, "Where Huber's cost turns linear, in ln y; default 1e-3.", lower_bound=1e-300)
    flags.DEFINE_float(
        "overestimate_penalty", None, "Cost of points below the law times this; 10 follows the lower edge of losses.",
        lower_bound=1e-300,
    )  # fmt: skip
    flags.DEFINE_enum(
        "cost", None, COSTS, "Asks for the best model of as many device-hours (or dollars) as that of the FLOPs takes, "
        "from the seconds of the runs; shown anyway where these tell it.",
    )  # fmt: skip
    flags.DEFINE_float("price", None, "Dollars of a device-hour, for --cost=dollars.")
    flags.DEFINE_string("max_memory", None, "The best model within the memory of a device, too, e.g. 80GB.")
    flags.DEFINE_float("cut_flops", None, "Hold out runs of at least this compute; default half of the largest run's.")
    flags.DEFINE_list("budgets", [], "Nominal compute budgets of IsoFLOP sweeps, e.g. 6e18,1e19; found when not given.")
    flags.DEFINE_float("level", None, "Of all intervals; default 0.9.")
    flags.DEFINE_enum(
        "resampling", None, RESAMPLING, "The bootstrap redraws pairs (or whole clusters), residuals, or signs of "
        "residuals (wild, one sign per cluster).",
    )  # fmt: skip
    flags.DEFINE_integer("resamples", None, "Bootstrap resamples behind the intervals; default 1000.", lower_bound=0)
    flags.DEFINE_integer("seed", None, "Of starts and resamples.", lower_bound=0)


def main(args: list[str], values: Any) -> int:
    """Runs the command.

    Args:
      args: positional arguments; must be empty.
      values: parsed flags.

    Raises:
      UserError, FitError: the input cannot be fitted; nothing has been written.
    """
    if args:
        raise UserError(f"fit takes flags only, and got {args[0]!r}; e.g. --results={args[0]}")
    if values.law == "list":
        print("\n".join(f"{name:<18} {fitting.laws[name].equation}" for name in fitting.laws))
        return 0
    if values.published:
        print(published_plan(values.published, values.target_flops or [], values.at))
        return 0
    if not values.results:
        raise UserError("fit needs --results=W, where W is a workdir or a table such as runs.csv")
    check_out(values.out)
    names = analysis.parse_mapping(values.columns)
    for name, column in (("N", values.n_column), ("y", values.y)):
        if column:
            names[name] = column
    columns = analysis.Columns(
        names=names,
        where=tuple(values.where),
        cluster=values.cluster_column,
        weight=values.weight_column,
        best=values.best,
    )
    check_numbers(values)
    source = read_source(values.results)
    found = analysis.analyse(
        source.table, source.curves, fit=fit_settings(source.fit, values),
        hold_out=cut_settings(source.hold_out, values), columns=columns, name=source.name,
    )  # fmt: skip
    if found.fit is None:
        raise UserError(f"no law fitted: {found.no_fit}")
    check_budgets(found, values)
    print(write(found, values.out))
    return 0


def fit_settings(settings: Fit, values: Any) -> Fit:
    """The settings with every flag that was given.

    Raises:
      UserError: a value that a setting cannot have.
    """
    given = {field: getattr(values, flag) for flag, field in FIELDS.items() if getattr(values, flag) is not None}
    if values.target_flops:
        given["target_flops"] = tuple(values.target_flops)
    if values.budgets:
        given["isoflop_budgets"] = tuple(_numbers("--budgets", values.budgets))
    if values.at:
        given["inputs"] = analysis.parse_mapping(values.at, "--at")
    if values.fix:
        given["fixed"] = _values("--fix", analysis.parse_mapping(values.fix, "--fix"))
    if values.max_memory is not None:
        given["max_memory"] = memory_of(values.max_memory)
    return dataclasses.replace(settings, **given)


def cut_settings(settings: HoldOut, values: Any) -> HoldOut:
    """The hold-out settings with --cut_flops."""
    return settings if values.cut_flops is None else dataclasses.replace(settings, flops=values.cut_flops)


def check_numbers(values: Any) -> None:
    """Raises UserError for numbers that no setting can have, naming the flag."""
    check_flops("target_flops", values.target_flops or ())
    check_flops("cut_flops", [] if values.cut_flops is None else [values.cut_flops])
    if values.level is not None:
        check_level(values.level)
    if values.resamples is not None and not 2 <= values.resamples <= 1_000_000:
        raise UserError(f"--resamples={values.resamples}: give 2 to a million, e.g. 1000")
    if values.price is not None and not 0 < values.price < np.inf:
        raise UserError(f"--price={values.price:g}: give the dollars of a device-hour, e.g. 2.5")
    if values.cost == "dollars" and values.price is None:
        raise UserError("--cost=dollars needs --price, the dollars of a device-hour, e.g. --price=2.5")
    memory_of(values.max_memory)
    budgets = _numbers("--budgets", values.budgets)
    if any(not (np.isfinite(budget) and budget > 0) for budget in budgets):
        raise UserError(f"--budgets={','.join(values.budgets)}: give positive numbers, e.g. --budgets=6e18,1e19")


def check_budgets(found: analysis.Analysis, values: Any) -> None:
    """Raises UserError where the runs do not tell the kind of budget that a flag asks for."""
    kinds = {"cost": values.cost if values.cost != "flops" else None, "price": values.price}
    asked = [name for name, value in (kinds | {"max_memory": values.max_memory}).items() if value is not None]
    if asked and found.budgets[1]:
        raise UserError(f"--{asked[0]}={getattr(values, asked[0])}: {found.budgets[1]}")


def memory_of(text: str | None) -> float | None:
    """The bytes of --max_memory.

    Raises:
      UserError: not an amount of memory.
    """
    try:
        return None if text is None else to_bytes(text)
    except ValueError:
        raise UserError(f"--max_memory={text}: give bytes, e.g. 80GB") from None


def check_flops(flag: str, given: Iterable[float]) -> None:
    """Raises UserError for a flag whose value is not an amount of compute."""
    for value in given:
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"--{flag}={value}: give a positive number of FLOPs, e.g. 1e21")


def check_level(level: float) -> None:
    """Raises UserError for --level outside of (0, 1)."""
    if not 0 < level < 1:
        raise UserError(f"--level={level}: give a probability between 0 and 1, e.g. 0.9")


def check_out(out: str, what: str = "the fit", example: str = "fit.json") -> None:
    """Raises UserError where no file such as `example` can be written; creates nothing."""
    path, ending = pathlib.Path(out), pathlib.Path(example).suffix
    if path.suffix != ending or out.endswith("/"):
        raise UserError(f"--out={out}: {what} is written as {ending}, e.g. --out={example}")
    check_writable("out", path)


def write(found: Any, out: Any) -> str:
    """Writes the fit as JSON and the figures beside it; returns the text of the terminal.

    Raises:
      UserError: the file cannot be written.
    """
    summary = text.summary(found)
    drawn, reason = _drawn(found)
    path = pathlib.Path(out)
    places = {name: path.with_name(f"{path.stem}_{name}.png") for name in drawn}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found.fit.to_json(path)
        for name, picture in drawn.items():
            places[name].write_bytes(picture)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(f"--out={out} cannot be written: {error.strerror or error}") from None
    return "\n".join([summary + "\n", *(f"wrote {place}" for place in (path, *places.values()))]) + reason


def _drawn(found: Any) -> tuple[dict[str, bytes], str]:
    """(name -> .png of every figure, why there are none): drawn before anything is written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # axes of absurd targets overflow
        try:
            charts = figures.charts(found, figures.OF_A_FIT)
            return {name: picture_of(chart.thinned(MAX_POINTS)) for name, chart in charts.items()}, ""
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            return {}, f"\nno figures: they need {missing}, which is not installed (pip install 'scaling_jax[plot]')"


def _numbers(flag: str, texts: list[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise UserError(f"{flag}={','.join(texts)}: give numbers, e.g. {flag}=6e18,1e19") from None


def _values(flag: str, texts: Mapping[str, str]) -> dict[str, float]:
    try:
        return {name: float(text) for name, text in texts.items()}
    except ValueError:
        given = ",".join(f"{name}={text}" for name, text in texts.items())
        raise UserError(f"{flag}={given}: give numbers, e.g. {flag}=E=1.69") from None
