"""Flags and start-up that `plan` and `run` share."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax.errors import UserError
from scaling_jax.study import Study, load_study


def define_flags() -> None:
    flags.DEFINE_string("study", None, "Python file with get_study().")
    flags.DEFINE_multi_string("set", [], "Override of a field: field.path=value. May be given many times.")
    flags.DEFINE_integer("num_cpu_devices", None, "CPU devices; default one per core.", lower_bound=1)


def read_study(args: list[str], values: Any) -> Study:
    """The study that the flags name.

    Raises:
      UserError: no study, stray arguments, or the study is wrong.
    """
    if args:
        raise UserError(f"unexpected argument {args[0]!r}; flags are --name=value")
    if not values.study:
        raise UserError("which study? give --study=FILE.py, for example --study=experiments/text_quickstart.py")
    study = load_study(values.study, values.set)
    check_law(study.fit.law)
    return study


def check_law(name: str) -> None:
    """Raises UserError when there is no such law, before hours of training rather than after."""
    from scaling_jax import analysis, fitting

    try:
        if name != analysis.AUTO:
            fitting.laws[name]
    except fitting.FitError as error:
        raise UserError(f"fit.law: {error}") from error


def start_jax(values: Any) -> None:
    """Devices of the CPU backend, before JAX makes it."""
    from scaling_jax.training.hardware import use_cpu_devices

    use_cpu_devices(values.num_cpu_devices)
