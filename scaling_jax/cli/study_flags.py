"""Flags that `plan` and `run` share."""

from __future__ import annotations

from typing import Any

from absl import flags

from scaling_jax.errors import UserError
from scaling_jax.study import Study
from scaling_jax.study_file import load_study


def define_flags() -> None:
    """Defines --study, --set, --force and --num_cpu_devices."""
    flags.DEFINE_string("study", None, "Python file with get_study().")
    flags.DEFINE_multi_string("set", [], "Override of a field: field.path=value. May be repeated.")
    flags.DEFINE_bool("force", False, "Go on with a study that cannot answer, such as D = 20 N throughout.")
    flags.DEFINE_integer("num_cpu_devices", None, "CPU devices; default one per core.", lower_bound=1, upper_bound=1024)


def read_study(args: list[str], values: Any, need_source: bool = True) -> Study:
    """The study that the flags name; `need_source` as in `load_study`.

    Raises:
      UserError: no study, stray arguments, or the study is wrong.
    """
    if args:
        raise UserError(f"unexpected argument {args[0]!r}; flags are --name=value")
    if not values.study:
        raise UserError("no study; give --study=FILE.py, for example --study=experiments/text_quickstart.py")
    return load_study(values.study, values.set, need_source)
