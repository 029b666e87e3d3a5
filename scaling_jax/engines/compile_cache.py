"""JAX's persistent compilation cache: the user's own, so that a resumed run does not compile again.

JAX loads what it finds there as machine code: whoever can write into it can run anything as whoever reads from it. So
it is not in the workdir, which may come from a stranger. Machines of one user, or of people who trust each other,
share one through JAX_COMPILATION_CACHE_DIR.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
import zlib
from typing import Any

import jax
from absl import logging

from scaling_jax.storage.paths import as_path, cache_dir, is_remote

MIN_COMPILE = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
MIN_COMPILE_SECONDS = 0.3
WRITING_SECONDS = 60.0  # an entry may have been under way at the last look
HASH_OPTIONS = "_hash_serialized_compile_options"  # of jax._src.cache_key
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def use() -> None:
    """Points JAX at $JAX_COMPILATION_CACHE_DIR, else at `xla` in the user's cache folder."""
    share_between_devices()
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(cache_dir() / "xla")
    remove_torn(folder)
    jax.config.update("jax_compilation_cache_dir", folder)
    if MIN_COMPILE not in os.environ:
        jax.config.update(MIN_COMPILE.lower(), MIN_COMPILE_SECONDS)


def share_between_devices() -> None:
    """Makes what was compiled for one device serve the others, where JAX has a program for each of them.

    JAX keys entries by device numbers except on GPUs, and loads them for the devices at hand on every backend.
    """
    try:
        from jax._src import cache_key

        original = getattr(cache_key, HASH_OPTIONS)
    except (ImportError, AttributeError) as error:
        logging.info("every device compiles its own programs: %s", error)
        return
    if getattr(original, "shares_devices", False):
        return

    def without_devices(hash_obj: Any, options: Any, strip_device_assignment: bool = True) -> Any:
        del strip_device_assignment
        return original(hash_obj, options, strip_device_assignment=True)

    without_devices.shares_devices = True  # type: ignore[attr-defined]
    setattr(cache_key, HASH_OPTIONS, without_devices)


def remove_torn(folder: Any) -> None:
    """Removes entries that a kill or a full disk cut short: JAX never replaces an entry that is there, good or not.

    Looks only at those since the last look, as a cache of many studies is large.
    """
    if is_remote(folder) or not as_path(folder).exists():
        return
    marker = pathlib.Path(folder) / ".checked"
    since, now = marker.stat().st_mtime if marker.exists() else 0.0, time.time()
    for path in pathlib.Path(folder).glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process looks, too
            if path.stat().st_mtime >= since - WRITING_SECONDS and not _whole(path.read_bytes()):
                path.unlink()
    with contextlib.suppress(OSError):  # a full disk, or a cache that may only be read
        marker.touch()
        os.utime(marker, (now, now))


def _whole(data: bytes) -> bool:
    """Whether `data` decompresses; JAX writes zstd where it is installed and zlib elsewhere."""
    try:
        if data.startswith(ZSTD_MAGIC):
            import zstandard

            zstandard.ZstdDecompressor().decompress(data)
        else:
            zlib.decompress(data)
    except ImportError:
        return True  # unknown; JAX recompiles what it cannot read
    except Exception:  # zlib.error or zstandard.ZstdError
        return False
    return True
