"""A user's own text: one file, or a folder with everything below it.

Files are cut at line ends into blocks of at most 64 kB or so; equal blocks are kept once, and one in twenty, by hash
of its file's path and its number, is validation. Files come in the order of the hash of their path, so that a cap on
unique tokens takes a sample of the folder and not its beginning.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator

from scaling_jax.data import tokenizers
from scaling_jax.data.sources import Reader, Source
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
            if _is_binary(path):
                raise UserError(f"data.source {str(path)!r} is a binary file, not UTF-8 text")
            names = [path]
        elif path.is_dir():
            names = [p for p in _walk(path) if p.is_file()]
        else:
            raise UserError(f"data.source {str(path)!r} does not exist: give an existing file or folder")
        text = [p for p in names if p.stat().st_size and not _is_binary(p)]
        files = []
        for p in text:
            stat, name = p.stat(), p.relative_to(path).as_posix() if path.is_dir() else p.name
            files.append(TextFile(name, p, stat.st_size, stat.st_mtime_ns))
    except PermissionError as error:
        raise UserError(f"data.source {str(path)!r}: no permission to read {error.filename!r}") from None
    if not files:
        what = "folder holds no text files" if path.is_dir() else "file is empty"
        raise UserError(f"data.source {str(path)!r}: the {what}")
    return sorted(files, key=lambda file: _hash(file.name)), len(names) - len(text)


def reader(path: pathlib.Path, files: list[TextFile]) -> Reader:
    """Reads the blocks of `files` by split; validation is to be read first, its blocks are then not trained on."""
    size = sum(file.size for file in files)
    block_size = min(MAX_BLOCK, max(MIN_BLOCK, size // BLOCKS))
    limit = VALIDATION_SHARE * 2**64
    if size < FEW_BYTES:
        # So few blocks that chance could leave none to validate on: the lowest hashes, not those below a threshold.
        hashes = sorted(_hash(f"{file.name}:{i}") for file in files for i, _ in enumerate(_blocks(file, block_size)))
        if len(hashes) < 2:
            raise UserError(f"data.source {str(path)!r}: {size} bytes are too few to train and validate on")
        limit = hashes[max(1, round(VALIDATION_SHARE * len(hashes)))]
    seen: set[bytes] = set()

    def read(split: str) -> Iterator[bytes]:
        for file in files:
            for i, block in enumerate(_blocks(file, block_size)):
                if (_hash(f"{file.name}:{i}") < limit) == (split == "validation"):
                    digest = hashlib.sha256(block).digest()[:16]
                    if digest not in seen:
                        seen.add(digest)
                        yield _checked(file, block)

    return read


def _blocks(file: TextFile, size: int) -> Iterator[bytes]:
    with open(file.path, "rb") as stream:
        while block := stream.read(size):
            block += stream.readline(MAX_BLOCK)
            # A line without end is cut, but never inside a character.
            while (following := stream.peek(1)[:1]) and following[0] & 0xC0 == 0x80:
                block += stream.read(1)
            yield block


def _checked(file: TextFile, block: bytes) -> bytes:
    try:
        block.decode()
    except UnicodeDecodeError:
        raise UserError(f"{str(file.path)!r} is not UTF-8 text: convert it (iconv -t UTF-8) or move it away") from None
    if b"\0" in block:
        raise UserError(f"{str(file.path)!r} has zero bytes and is no text: move it away")
    return block


def _walk(path: pathlib.Path) -> Iterator[pathlib.Path]:
    for directory, folders, files in os.walk(path):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (pathlib.Path(directory) / file for file in sorted(files) if not file.startswith("."))


def _is_binary(path: pathlib.Path) -> bool:
    with open(path, "rb") as stream:
        return b"\0" in stream.read(8192)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
