"""`scaling-jax data list | prepare | show | clear`: the data sources, and the arrays in the cache."""

from __future__ import annotations

import pathlib
import shutil
import sys
import time
from typing import Any, cast

from absl import flags

from scaling_jax.data import cache, inspect, materialize
from scaling_jax.data.resolve import resolve
from scaling_jax.data.sources.registry import registered
from scaling_jax.errors import UserError
from scaling_jax.storage import paths
from scaling_jax.study import Data
from scaling_jax.study_file import load_study, override

ACTIONS = ("list", "prepare", "show", "clear")


def define_flags() -> None:
    """Defines the flags of `scaling-jax data`."""
    flags.DEFINE_string("study", None, "Take the data of this study.")
    flags.DEFINE_multi_string(
        "set", [], "Override of a field, such as data.tokenizer=bpe:4096. May be given many times."
    )
    flags.DEFINE_string("cache_dir", None, "The cache folder; default $SCALING_JAX_CACHE or ~/.cache/scaling_jax.")
    flags.DEFINE_bool("verify", False, "show: compare the whole contents with their checksums.")
    flags.DEFINE_string("out", None, "show: the file for the contact sheet of images; default NAME.png.")


def main(args: list[str], values: Any) -> int:
    """Runs one action; returns the exit code."""
    action, name = (args + [None, None])[:2]
    if action not in ACTIONS or len(args) > (1 if action == "list" else 2):
        raise UserError(
            f"usage: scaling-jax data {{{'|'.join(ACTIONS)}}} [NAME]; NAME is a source or a folder of `list`"
        )
    if action == "list":
        print(_list(values.cache_dir))
    elif action == "clear":
        _clear(name, values)
    else:
        if values.out:
            _check_out(pathlib.Path(values.out))
        entry = _entry(name, values)
        if action == "prepare":
            print(f"{entry.meta['name']} is prepared in {entry.directory}")
        else:
            print(inspect.text(entry, values.cache_dir))
            if entry.meta["kind"] == "images":
                out = pathlib.Path(values.out or f"{entry.directory.name.rpartition('-')[0]}.png")
                inspect.contact_sheet(entry, out)
                print(f"contact sheet {out}")
    return 0


def _check_out(path: pathlib.Path) -> None:
    if path.suffix.lower() != ".png" or not path.parent.is_dir() or path.is_dir():
        raise UserError(f"--out={str(path)[:200]!r}: give the name of a .png file in an existing folder")


def _list(cache_dir: str | None) -> str:
    lines = ["Registered (--set data.source=NAME; or any TFDS name, or a local path):"]
    lines += [f"  {name:<16} {source.description}" for name, source in registered().items()]
    folders = cache.entries(cache_dir)
    lines.append(f"\nCached in {cache.arrays_folder(cache_dir)}:" if folders else "\nNothing is cached yet.")
    for folder in folders:
        day = time.strftime("%Y-%m-%d", time.localtime((folder / "meta.json").stat().st_mtime))
        lines.append(f"  {folder.name:<64} {cache.size(folder) / 1e6:9.2f} MB  {day}")
    return "\n".join(lines)


def _entry(name: str | None, values: Any) -> cache.Entry:
    """The entry of a cached folder, a source or a study; made now if it is not in the cache."""
    folder = next((path for path in cache.entries(values.cache_dir) if path.name == name), None)
    if folder is not None:
        return cache.open_entry(folder, verify=values.verify)
    show = cache.progress_lines(lambda line: print(line, file=sys.stderr, flush=True), seconds=2.0)
    entry = materialize.entry(resolve(_data(name, values)), values.cache_dir, show)
    return cache.open_entry(entry.directory, verify=True) if values.verify else entry


def _data(name: str | None, values: Any) -> Data:
    if values.study:
        if name:
            raise UserError(f"either --study or {name!r}, not both")
        return load_study(values.study, values.set).data
    if not name and not any(assignment.startswith("data.source=") for assignment in values.set):
        raise UserError("which data? give a source, such as `scaling-jax data show python_sources`, or --study=FILE.py")
    chosen = Data(source=name) if name else Data()
    fields = [assignment.removeprefix("data.") for assignment in values.set]
    return cast(Data, override(cast(Any, chosen), fields))


def _clear(name: str | None, values: Any) -> None:
    root = paths.cache_dir(values.cache_dir)
    if name == "all":
        doomed = [path for part in ("arrays", "tfds", "tokenizers") if (path := root / part).is_dir()]
    else:
        folders = cache.entries(values.cache_dir)
        doomed = [path for path in folders if path.name == name]
        if not doomed and (name or values.study or values.set):
            key = materialize.key(resolve(_data(name, values)))
            doomed = [path for path in folders if path.name == key]
        if not doomed:
            raise UserError(f"nothing is cached of {name!r}: see `scaling-jax data list`, or `clear all`")
    for path in doomed:
        size = cache.size(path)
        shutil.rmtree(path)
        print(f"removed {path} ({size / 1e6:.2f} MB)")
