"""What ends a study: its table, its report, and `_SUCCESS`, which tells whoever watches the workdir."""

from __future__ import annotations

from typing import Any

from scaling_jax.storage.paths import write_atomic
from scaling_jax.storage.records import load_table, save_table


def finish(workdir: Any) -> None:
    """Collects, fits and reports a workdir whose every run has a result; prints the summary."""
    from scaling_jax.cli import report  # figures load for a second: only the process that draws them waits

    save_table(load_table(workdir), workdir / "results.csv")
    print(report.write(workdir))
    write_atomic(workdir / "_SUCCESS", "")
