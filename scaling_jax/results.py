"""Results of a workdir: for now the names of `storage.records` and `storage.paths`."""

from scaling_jax.storage.paths import as_path, is_remote, is_temporary, write_atomic
from scaling_jax.storage.records import (
    COLUMNS,
    DIVERGED,
    DONE,
    FAILED,
    Records,
    load_curves,
    load_table,
    save_table,
)

__all__ = [
    "COLUMNS",
    "DIVERGED",
    "DONE",
    "FAILED",
    "Records",
    "as_path",
    "is_remote",
    "is_temporary",
    "load_curves",
    "load_table",
    "save_table",
    "write_atomic",
]
