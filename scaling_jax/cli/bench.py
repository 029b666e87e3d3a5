"""`scaling-jax bench`: what this machine does, in a few minutes; `plan` uses it afterwards."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

from absl import flags

from scaling_jax.cli.out_file import check_writable, write_text
from scaling_jax.engines import bench, compile_cache, speeds
from scaling_jax.errors import UserError
from scaling_jax.training import hardware


def define_flags() -> None:
    """Defines the flags of `scaling-jax bench`."""
    flags.DEFINE_bool("quick", False, "A few small shapes, in seconds: to see that it works. Nothing is kept.")
    flags.DEFINE_float("seconds", 300.0, "Time to spend; what is left then is skipped.", lower_bound=1.0)
    flags.DEFINE_string("out", None, "Also write the numbers to this .json file.")
    flags.DEFINE_integer("num_cpu_devices", None, "CPU devices; default one per core.", lower_bound=1)


def main(args: list[str], values: Any) -> int:
    """Measures and prints; returns the exit code."""
    if args:
        raise UserError(f"unexpected argument {args[0]!r}; usage: scaling-jax bench [--quick] [--out=FILE.json]")
    if values.out is not None:
        if not values.out.endswith(".json"):
            raise UserError(f"--out={values.out[:200]}: the numbers are written as .json, e.g. --out=bench.json")
        check_writable("out", pathlib.Path(values.out))
    hardware.use_cpu_devices(values.num_cpu_devices)
    compile_cache.use()
    settings = bench.QUICK if values.quick else dataclasses.replace(bench.Settings(), seconds=values.seconds)
    report = bench.measure(settings, lambda line: print(f"bench: {line}", file=sys.stderr, flush=True))
    print(bench.report_text(report))
    if values.out is not None:
        write_text("out", values.out, speeds.as_json(report))
    if not values.quick:
        speeds.save(report)
        print(f"\nkept for scaling-jax plan in {speeds.path()}")
    return 0
