"""`scaling-jax evaluate`: score finished runs on another validation set, compressed, or as ensembles."""

from __future__ import annotations

import pathlib
import re
import sys
from typing import Any

from absl import flags

from scaling_jax import trained
from scaling_jax.errors import UserError
from scaling_jax.settings import ValidationSet
from scaling_jax.storage.paths import as_path
from scaling_jax.storage.records import load_table, save_table
from scaling_jax.study_file import located
from scaling_jax.text import table as aligned
from scaling_jax.trained.compress import treatments
from scaling_jax.training import hardware


def define_flags() -> None:
    """Defines the flags of `scaling-jax evaluate`."""
    flags.DEFINE_string("workdir", None, "Workdir of the runs.")
    flags.DEFINE_string("source", None, "Data to score on, named as data.source is; default the study's own.")
    flags.DEFINE_string("name", None, "Ending of the columns; default made from --source.")
    flags.DEFINE_string("data_dir", None, "Where TFDS finds prepared data.")
    flags.DEFINE_string("split", "train", "TFDS split that a source without a validation split is divided from.")
    flags.DEFINE_string("validation_split", None, "TFDS split to score on.")
    flags.DEFINE_list("quantize", [], "Round weights first: int8, int4 or both, a column each.")
    flags.DEFINE_list("prune", [], "Zero this share of the weights first, e.g. 0.5; several make a column each.")
    flags.DEFINE_bool("ensemble", False, "Average the predictions of a scale's seeds.")
    flags.DEFINE_integer("num_cpu_devices", None, "CPU devices; default one per core.", lower_bound=1, upper_bound=1024)


def main(args: list[str], values: Any) -> int:
    """Scores what is missing, prints the largest budget of every scale; returns the exit code."""
    if args:
        raise UserError(f"unexpected argument {args[0]!r}; flags are --name=value")
    if not values.workdir:
        raise UserError("no workdir; give --workdir=W of finished runs")
    wanted = treatments(values.quantize, values.prune, values.ensemble)
    sets = _sets(values)
    hardware.use_cpu_devices(values.num_cpu_devices)
    columns = trained.evaluate(values.workdir, sets, wanted, lambda line: print(line, file=sys.stderr, flush=True))
    table, out = load_table(values.workdir), as_path(values.workdir) / "results.csv"
    save_table(table, out)
    losses = ["loss", *(name for name in columns if name.startswith("loss_"))]
    done = table[table.status == "done"].sort_values(["params_matmul", "tokens"], kind="stable")
    rows = [
        [scale, *(f"{x:.4f}" if x == x else "" for x in group[group.tokens == group.tokens.max()][losses].mean())]
        for scale, group in done.groupby("scale", sort=False)
    ]
    print("means at the largest budget of each scale")
    print(aligned(["scale", *losses], rows))
    print(f"columns {', '.join(columns)} are in {out}")
    print(f"fit one: scaling-jax fit --results={values.workdir} --y={losses[-1]}")
    return 0


def _sets(values: Any) -> tuple[ValidationSet, ...]:
    """The set of the flags.

    Raises:
      UserError: a name that is none, or flags that need --source.
    """
    if not values.source:
        for name in ("name", "data_dir", "split", "validation_split"):
            if values[name].present:
                raise UserError(f"--{name} is of a --source; give both")
        return ()
    name = values.name or re.sub(r"\W+", "_", values.source.rstrip("/").rpartition("/")[2].partition(".")[0]).strip("_")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", name):
        raise UserError(f"--name={name}: give letters, digits and underscores, beginning with a letter")
    source = located(values.source, "--source", pathlib.Path.cwd())
    return (
        ValidationSet(
            name=name,
            source=source,
            data_dir=values.data_dir,
            split=values.split,
            validation_split=values.validation_split,
        ),
    )
