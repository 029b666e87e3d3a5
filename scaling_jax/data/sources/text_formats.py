"""Documents of one text file: blocks of plain text, or the texts of a .jsonl, either also as .gz or .zst."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO

from scaling_jax.errors import UserError

COMPRESSED = (".gz", ".zst")
JSON_LINES = (".jsonl", ".ndjson")
TEXT_KEYS = ("text", "content")
MAX_LINE = 65_536


def documents(path: pathlib.Path, block_size: int) -> Iterator[bytes]:
    """UTF-8 texts of a file in its order, none with a zero byte.

    Args:
      path: the file.
      block_size: plain text is cut at the first line end after this many bytes.

    Raises:
      UserError: the file is not UTF-8, not text, damaged, or a line is no JSON object with a text.
    """
    with _open(path) as stream:
        try:
            yield from _json_lines(path, stream) if is_json_lines(path) else _blocks(path, stream, block_size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{str(path)!r} is a damaged archive: {error}") from None


def is_json_lines(path: pathlib.Path) -> bool:
    """Whether the file is .jsonl, compressed or not."""
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix in JSON_LINES


def is_binary(path: pathlib.Path) -> bool:
    """Whether a zero byte stands among the first 8 kB of what is not an archive."""
    if path.suffix in COMPRESSED:
        return False
    with open(path, "rb") as stream:
        return b"\0" in stream.read(8192)


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            yield stream
    elif path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise UserError(f"{str(path)!r} needs zstandard: pip install 'scaling_jax[tokenizers]'") from None
        with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            try:
                yield io.BufferedReader(stream)
            except zstandard.ZstdError as error:
                raise UserError(f"{str(path)!r} is a damaged archive: {error}") from None
    else:
        with open(path, "rb") as stream:
            yield stream


def _blocks(path: pathlib.Path, stream: IO[bytes], size: int) -> Iterator[bytes]:
    while block := stream.read(size):
        block += stream.readline(MAX_LINE)
        # A line without end is cut, but never inside a character.
        while (following := stream.peek(1)[:1]) and following[0] & 0xC0 == 0x80:
            block += stream.read(1)
        try:
            block.decode()
        except UnicodeDecodeError:
            raise UserError(f"{str(path)!r} is not UTF-8 text: convert it (iconv -t UTF-8) or move it away") from None
        if b"\0" in block:
            raise UserError(f"{str(path)!r} has zero bytes and is no text: move it away")
        yield block


def _json_lines(path: pathlib.Path, stream: IO[bytes]) -> Iterator[bytes]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            raise UserError(f"{str(path)!r} line {number} is not JSON") from None
        text = next((record[key] for key in TEXT_KEYS if key in record), None) if isinstance(record, dict) else None
        if not isinstance(text, str):
            has = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise UserError(f"{str(path)!r} line {number} has no string 'text' or 'content'; it has {has}")
        if text:
            yield text.replace("\0", "").encode("utf-8", "replace")
