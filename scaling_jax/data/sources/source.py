"""The contract between a data source and the code that turns it into arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scaling_jax.data.cache import Progress
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data

SPLITS = ("validation", "train")
Reader = Callable[[str], Iterator[Any]]


def no_notes() -> Sequence[str]:
    """The notes of a source that uses all of its data as it is."""
    return ()


@dataclasses.dataclass(frozen=True)
class Source:
    """Data that can be described cheaply and read into arrays.

    Attributes:
      name: full name, version included; enters `dataset_hash`.
      spec: what the data looks like to a model.
      splits: descriptions of the "train" and "validation" splits; enter `dataset_hash`.
      identity: JSON of what would be read, cheap to get (versions, sizes, modification times). Together with name,
        splits and tokenizer it is the key under which the arrays are cached.
      open: (cache folder, on_progress) -> reader. For text, reader("train" | "validation") yields documents as UTF-8
        bytes; for tokens, integer arrays; for images, pairs of uint8 [H, W, C] and label. Called with "validation"
        first; a split may be read more than once. None where `prepare` is set.
      tokenizer: `Data.tokenizer` for text; None for images and for data that is tokenized already.
      size_hint: bytes that the arrays will take, where known.
      disk_hint: bytes that making them takes in the cache, prepared records included, where that is more.
      info: further facts, shown by `scaling-jax data show`. "flip" (bool): mirrored images keep their class.
      prepare: for a source that must be downloaded first: (cache folder, on_progress) -> the source that can be read.
      notes: sentences about data that was left out or converted, as far as known when it is called: before reading,
        and again after it. They are shown by `data show`, `plan` and `run`.
    """

    name: str
    spec: Spec
    splits: dict[str, str]
    identity: dict[str, Any]
    open: Callable[[pathlib.Path, Progress], Reader] | None
    tokenizer: str | None = None
    size_hint: int | None = None
    disk_hint: int | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    prepare: Callable[[pathlib.Path, Progress], Source] | None = None
    notes: Callable[[], Sequence[str]] = no_notes

    def reader(self, root: pathlib.Path, on_progress: Progress) -> Reader:
        """Opens the source; see `open`.

        Raises:
          ValueError: it must be prepared first.
        """
        if self.open is None:
            raise ValueError(f"{self.name} must be prepared before it can be read")
        return self.open(root, on_progress)


class Tally:
    """Counts by kind and file; counting a file again replaces its count, so that reading twice counts once."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def set(self, kind: str, file: str, count: int) -> None:
        """Records that `file` has `count` items of `kind`."""
        if count:
            self._counts.setdefault(kind, {})[file] = count

    def total(self, kind: str) -> int:
        """Items of `kind` over all files."""
        return sum(self._counts.get(kind, {}).values())

    def kinds(self) -> tuple[str, ...]:
        """The kinds that were found, in the order of their discovery."""
        return tuple(self._counts)

    def files(self, kind: str) -> list[str]:
        """The files that have items of `kind`."""
        return list(self._counts.get(kind, {}))


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are: "a, b, c and 4 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """A count and its noun: "1 file", "2 files"."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def no_splits(data: Data) -> None:
    """Raises UserError when splits are requested of a source that has none to choose from."""
    if data.split != "train" or data.validation_split is not None:
        raise UserError(
            f"data.source {data.source!r} is divided by hash: data.split and data.validation_split are for TFDS names"
        )


def unit_hash(name: str) -> float:
    """A number in [0, 1) that depends on the name only; splits are divided by it."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def visible_files(folder: pathlib.Path, links: list[str] | None = None) -> Iterator[pathlib.Path]:
    """All files below a folder in the order of their names, without hidden ones and what is in hidden folders.

    Args:
      folder: where to look.
      links: takes the names of links to other folders, which are not followed.

    Raises:
      OSError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for directory, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = pathlib.Path(directory)
        if links is not None:
            links += [(here / name).relative_to(folder).as_posix() for name in folders if (here / name).is_symlink()]
        yield from (here / name for name in sorted(files) if not name.startswith("."))
