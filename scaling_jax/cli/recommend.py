"""`scaling-jax recommend`: what to train with a budget, or what a goal costs."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax import decide, decisions
from scaling_jax.cli import out_file
from scaling_jax.cli.fit import memory_of
from scaling_jax.decide.chips import UTILIZATION, Chip, find_chip
from scaling_jax.decide.source import study_source
from scaling_jax.errors import UserError
from scaling_jax.results import load

ASKED = ("target_flops", "device_hours", "target_loss", "target_accuracy", "target_metric")


def define_flags() -> None:
    """Defines the flags of `scaling-jax recommend`."""
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) of a study's runs.")
    flags.DEFINE_string("published", None, "Instead of runs, a published fit; `scaling-jax fit --published=list`.")
    flags.DEFINE_float("target_flops", None, "Training FLOPs of the run.")
    flags.DEFINE_float("device_hours", None, "The same as hours of one --chip.")
    flags.DEFINE_float("target_loss", None, "The other way round: the cheapest run that reaches this loss.")
    flags.DEFINE_float("target_accuracy", None, "The same for an accuracy, e.g. 0.9.")
    flags.DEFINE_string("target_metric", None, "The same for any column of the results, e.g. bits_per_byte=1.1.")
    flags.DEFINE_float("max_params", None, "Cap on N.")
    flags.DEFINE_string("max_memory", None, "Cap on the memory of one device, e.g. 80GB.")
    flags.DEFINE_float("inference_tokens", None, "Tokens the model will be used for: also the over-trained optimum.")
    flags.DEFINE_string("chip", None, "For the time: v5e, v5p, v6e, H100, A100, ...")
    flags.DEFINE_float("utilization", UTILIZATION, "Share of the chip's peak that training reaches.")
    flags.DEFINE_float("price", None, "Dollars per chip-hour.", lower_bound=0)
    flags.DEFINE_string("out", None, "Python file to write: the study of the recommended run.")


def main(args: list[str], values: Any) -> int:
    """Prints the answer; returns the exit code.

    Raises:
      UserError: flags that contradict each other, or no answer can be computed; nothing has been written.
    """
    if args or bool(values.workdir) == bool(values.published):
        raise UserError("recommend needs --workdir=W or --published=NAME, and flags only")
    asked = [name for name in ASKED if getattr(values, name) is not None]
    if len(asked) != 1:
        raise UserError(f"recommend needs one of {', '.join(f'--{name}' for name in ASKED)}; {len(asked)} were given")
    out_file.check_study_file("out", values.out)
    chip = _chip(values)
    if asked[0] not in ("target_flops", "device_hours"):
        _refuse(values, asked[0], ("out", "inference_tokens", "max_memory"))
        print(_reach(values, asked[0], chip).text())
        return 0
    flops = values.target_flops
    if flops is None:
        if chip is None:
            raise UserError("--device_hours needs --chip=NAME, e.g. --chip=H100")
        flops = chip.flops(values.device_hours)
    if not 0 < flops < 1e36:
        raise UserError(f"--{asked[0]}={getattr(values, asked[0]):g}: give a positive number, e.g. 1e21 FLOPs")
    options = {
        "max_params": values.max_params,
        "inference_tokens": values.inference_tokens,
        "max_memory": memory_of(values.max_memory),
        "chip": chip,
    }
    if values.published:
        _refuse(values, "published", ("out",))
        found = decide.recommend(decide.Surface.published(values.published), flops, **options)
    else:
        found = decisions.recommend(load(values.workdir), flops, **options)
    if values.out and found.study is not None:
        title = f"The run that `scaling-jax recommend` found for {flops:.3g} FLOPs, from {found.source}."
        wrote = out_file.write_text("out", values.out, study_source(found.study, title))
        print(f"{found.text()}\n{wrote}; next: scaling-jax plan --study={values.out}")
        return 0
    print(found.text())
    if values.out:
        print(f"{values.out} was not written: there is no run to recommend")
    return 0


def _reach(values: Any, asked: str, chip: Chip | None) -> decide.Reach:
    """The answer to --target_loss, --target_accuracy or --target_metric."""
    metric, goal = asked.removeprefix("target_"), getattr(values, asked)
    if asked == "target_metric":
        metric, _, text = goal.partition("=")
        try:
            goal = float(text)
        except ValueError:
            raise UserError(f"--target_metric={values.target_metric}: give NAME=VALUE, e.g. accuracy=0.9") from None
    if values.published:
        if metric != "loss":
            raise UserError(f"--published={values.published} is a fit of a loss: give --target_loss")
        surface = decide.Surface.published(values.published)
        return decide.reach(surface, goal, max_params=values.max_params, chip=chip)
    results = load(values.workdir)
    if asked == "target_accuracy" and metric not in results.table:
        others = [c for c in results.table if isinstance(c, str) and "accuracy" in c]
        way = f"give --target_metric={others[0]}={goal:g}" if others else "it is of classifiers; give --target_loss"
        raise UserError(f"--target_accuracy: these runs have no accuracy{f' but {others[0]}' if others else ''}: {way}")
    return decisions.reach(results, goal, metric=metric, max_params=values.max_params, chip=chip)


def _refuse(values: Any, given: str, others: tuple[str, ...]) -> None:
    for name in others:
        if getattr(values, name) is not None:
            raise UserError(f"--{name} does not go with --{given}")


def _chip(values: Any) -> Chip | None:
    if values.chip is None:
        if values.price is not None:
            raise UserError("--price needs --chip=NAME, e.g. --chip=H100")
        return None
    if not 0 < values.utilization <= 1:
        raise UserError(f"--utilization={values.utilization:g}: give a share of the peak, e.g. 0.4")
    return find_chip(values.chip, values.utilization, values.price)
