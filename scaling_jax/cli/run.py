"""`scaling-jax run`: train what is missing, collect, fit, report. Run again: it goes on, or says what is done."""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from scaling_jax.cli import study_flags
from scaling_jax.engines import ENGINES, cluster


def define_flags() -> None:
    study_flags.define_flags()
    cluster.define_flags()
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) for everything; default runs/<study name>.")
    flags.DEFINE_enum("engine", "local", ["local", *ENGINES], "Where packs run: here, or on a cluster.")
    flags.DEFINE_list("only_packs", [], "Train these packs only (scale names of the plan); what every engine repeats.")
    flags.DEFINE_multi_string("engine_option", [], "Handed to sbatch or xpk as it is. May be given many times.")
    flags.DEFINE_integer("max_retries", 1000, "Preemptions that one pack survives on a cluster.", lower_bound=0)
    flags.DEFINE_bool("dry_run", False, "Show what the engine would do, and do nothing.")


def main(args: list[str], values: Any) -> int:
    if values.engine == "local" and cluster.wanted(values) and not cluster.is_member():
        return cluster.supervise(sys.argv[1:])
    from scaling_jax.cli import train  # brings JAX, which a supervisor does without

    return train.main(args, values)
