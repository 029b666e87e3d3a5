"""A user's own text: one file, or a folder with everything below it; .txt, .jsonl and others, also as .gz or .zst.

Plain text is cut at line ends into blocks of about 64 kB at most, a .jsonl into its records. Equal ones are kept once,
and one in twenty, by hash of its file's path and its number, is validation. Files come in the order of the hash of
their path, so that a cap on unique tokens takes a sample of the folder and not its beginning.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator

from scaling_jax.data import tokenizers
from scaling_jax.data.sources import text_formats
from scaling_jax.data.sources.registry import Reader, Source, no_splits, unit_hash
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data, content_hash

VALIDATION_SHARE = 0.05
MIN_BLOCK, MAX_BLOCK, BLOCKS = 2_048, 65_536, 400
FEW_BYTES = 50_000_000


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file of text and its name relative to the folder that was given."""

    name: str
    path: pathlib.Path
    size: int
    mtime_ns: int


def source(data: Data) -> Source:
    """The text of a file or folder.

    Raises:
      UserError: it does not exist, cannot be read, holds no text, or is binary.
    """
    no_splits(data)
    path = pathlib.Path(data.source).expanduser()
    files, binary = find(path)
    size = sum(file.size for file in files)
    return Source(
        name="text_files",
        spec=Spec("tokens", tokenizers.vocab_size(data.tokenizer), data.context),
        splits={"train": "by hash", "validation": f"by hash, {VALIDATION_SHARE:.0%}"},
        identity={"files": content_hash([[file.name, file.size, file.mtime_ns] for file in files])},
        open=lambda root, on_progress: reader(path, files),
        tokenizer=data.tokenizer,
        size_hint=size,
        info={"path": str(path), "files": len(files), "binary_files_skipped": binary},
    )


def find(path: pathlib.Path) -> tuple[list[TextFile], int]:
    """The text files at or below `path` in the order of the hash of their names, and how many binary ones are left out.

    Hidden files and folders are left out; binary means a zero byte among the first 8 kB.

    Raises:
      UserError: nothing is there, or no text.
    """
    try:
        if path.is_file():
            if text_formats.is_binary(path):
                raise UserError(f"data.source {str(path)!r} is a binary file, not UTF-8 text")
            names = [path]
        elif path.is_dir():
            names = [p for p in _walk(path) if p.is_file()]
        else:
            raise UserError(f"data.source {str(path)!r} does not exist: give an existing file or folder")
        text = [p for p in names if p.stat().st_size and not text_formats.is_binary(p)]
        files = []
        for p in text:
            stat, name = p.stat(), p.relative_to(path).as_posix() if path.is_dir() else p.name
            files.append(TextFile(name, p, stat.st_size, stat.st_mtime_ns))
    except PermissionError as error:
        raise UserError(f"data.source {str(path)!r}: no permission to read {error.filename!r}") from None
    if not files:
        what = "folder holds no text files" if path.is_dir() else "file is empty"
        raise UserError(f"data.source {str(path)!r}: the {what}")
    return sorted(files, key=lambda file: unit_hash(file.name)), len(names) - len(text)


def reader(path: pathlib.Path, files: list[TextFile]) -> Reader:
    """Reads the blocks of `files` by split; what stands in validation is not trained on."""
    size = sum(file.size for file in files)
    block_size = min(MAX_BLOCK, max(MIN_BLOCK, size // BLOCKS))
    limit = VALIDATION_SHARE
    if size < FEW_BYTES:
        # So few blocks that chance could leave none to validate on: the lowest hashes instead of a threshold.
        hashes = sorted(unit_hash(name) for name, _ in _named_blocks(files, block_size))
        if len(hashes) < 2:
            raise UserError(f"data.source {str(path)!r}: {size} bytes are too few to train and validate on")
        limit = hashes[max(1, round(VALIDATION_SHARE * len(hashes)))]

    def select(split: str, seen: set[bytes]) -> Iterator[bytes]:
        for name, block in _named_blocks(files, block_size):
            if (unit_hash(name) < limit) == (split == "validation"):
                digest = hashlib.sha256(block).digest()[:16]
                if digest not in seen:
                    seen.add(digest)
                    yield block

    def read(split: str) -> Iterator[bytes]:
        seen: set[bytes] = set()
        if split == "train":
            collections.deque(select("validation", seen), maxlen=0)
        return select(split, seen)

    return read


def _named_blocks(files: list[TextFile], size: int) -> Iterator[tuple[str, bytes]]:
    for file in files:
        for i, block in enumerate(text_formats.documents(file.path, size)):
            yield f"{file.name}:{i}", block


def _walk(path: pathlib.Path) -> Iterator[pathlib.Path]:
    for directory, folders, files in os.walk(path):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (pathlib.Path(directory) / file for file in sorted(files) if not file.startswith("."))
