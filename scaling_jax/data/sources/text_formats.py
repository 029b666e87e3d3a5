"""Documents of one text file: plain text in blocks, JSON lines or Parquet rows; plain and JSON lines also compressed.

Plain text and JSON lines are UTF-8, or UTF-16 or UTF-32 with a byte order mark.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import itertools
import json
import lzma
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from scaling_jax.data.sources.source import Tally
from scaling_jax.errors import UserError

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
TEXT_KEYS = ("text", "content")
CHUNK = 65_536
ZSTD_INPUT = 2_048  # bytes decompressed at a time: an RLE block of four bytes may expand to 128 kB
MAX_LINE = 65_536  # plain text: how far beyond the size of a block its line may end
MAX_RECORD = 32 << 20  # bytes of a line of JSON
BOMB_BYTES, BOMB_RATIO = 256 << 20, 200  # no text expands this much
NULL, LIST = "null", "list"  # kinds of records in the tally
# UTF-32's mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def documents(
    path: pathlib.Path, block_size: int, *, cut: bool = False, tally: Tally | None = None, name: str = ""
) -> Iterator[bytes]:
    """UTF-8 texts of a file in its order, none empty, none with a zero byte.

    Args:
      path: the file.
      block_size: plain text is cut at the first line end after this many bytes.
      cut: also cut long lines and long records, between characters.
      tally: counts the records whose text is null (`NULL`) or a list of strings (`LIST`).
      name: of the file, in the tally.

    Raises:
      UserError: the file is not text, damaged, expands beyond reason, or a record has no text.
    """
    if is_parquet(path):
        texts = _parquet(path)
    elif is_json_lines(path):
        texts = _json_lines(path, _as_utf8(path, _chunks(path)))
    else:
        yield from _blocks(path, _as_utf8(path, _chunks(path)), block_size, block_size if cut else MAX_LINE)
        return
    for text in _strings(path, texts, Tally() if tally is None else tally, name):
        yield from _pieces(text, block_size) if cut else (text,)


def is_json_lines(path: pathlib.Path) -> bool:
    """True for .jsonl and .ndjson, compressed or not."""
    return _suffixes(path)[0] in JSON_LINES


def is_parquet(path: pathlib.Path) -> bool:
    """True for .parquet."""
    return path.suffix.lower() == PARQUET


def is_binary(path: pathlib.Path) -> bool:
    """True for a file with a zero byte among the first 8 kB, unless a byte order mark explains it."""
    if is_parquet(path) or _suffixes(path)[1]:
        return False
    with open(path, "rb") as stream:
        start = stream.read(8192)
    return b"\0" in start and encoding(start) is None


def encoding(start: bytes) -> str | None:
    """The encoding that the byte order mark at the start of a file names, or None without a mark."""
    return next((name for mark, name in MARKS if start.startswith(mark)), None)


def _suffixes(path: pathlib.Path) -> tuple[str, str]:
    """(suffix of the contents, suffix of the compression or "")."""
    outer = path.suffix.lower()
    if outer in COMPRESSED:
        return path.with_suffix("").suffix.lower(), outer
    return outer, ""


def _chunks(path: pathlib.Path) -> Iterator[bytes]:
    """The file's bytes, decompressed, in pieces that fit in memory."""
    kind = _suffixes(path)[1]
    try:
        opener = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(kind)
        chunks = _zstd(path) if opener is None else _read(opener(path, "rb"))
        if not kind:
            yield from chunks
            return
        size, limit = 0, max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise UserError(
                    f"{str(path)!r} expands more than {BOMB_RATIO}-fold, as no text does: decompress it and look inside"
                )
            yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise UserError(f"{str(path)!r} is a damaged archive ({error}): copy or compress it again") from None
    except OSError as error:
        if kind and error.errno is None:  # bz2's complaint
            raise UserError(f"{str(path)!r} is a damaged archive ({error}): copy or compress it again") from None
        raise


def _read(stream: Any) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def _zstd(path: pathlib.Path) -> Iterator[bytes]:
    """All frames of a .zst; `ZstdDecompressor.stream_reader` would end at the first and take a torn one for whole."""
    try:
        import zstandard
    except ImportError:
        raise UserError(f"{str(path)!r} needs zstandard: pip install 'scaling_jax[tokenizers]'") from None
    try:
        with open(path, "rb") as file:
            pending, frame = file.read(ZSTD_INPUT), None
            while pending:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                if chunk := frame.decompress(pending):
                    yield chunk
                pending, ended = frame.unused_data if frame.eof else b"", frame.eof
                pending = pending or file.read(ZSTD_INPUT)
                frame = None if ended else frame
            if frame is not None:
                raise EOFError("it ends in the middle of a frame")
    except zstandard.ZstdError as error:
        raise UserError(f"{str(path)!r} is a damaged archive ({error}): copy or compress it again") from None


def _as_utf8(path: pathlib.Path, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks without a byte order mark; UTF-16 and UTF-32 are converted."""
    start = b""
    while len(start) < 4 and (chunk := next(chunks, None)):
        start += chunk
    name = encoding(start)
    if name in (None, "utf-8"):
        yield start.removeprefix(codecs.BOM_UTF8)
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(name)()
    try:
        for chunk in itertools.chain([start], chunks):
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:
        raise UserError(
            f"{str(path)!r} begins as {name.upper()} text and does not continue so: repair it or move it away"
        ) from None


def _blocks(path: pathlib.Path, chunks: Iterator[bytes], size: int, reach: int) -> Iterator[bytes]:
    """Blocks of `size` bytes and the rest of their last line, if that ends within `reach` bytes."""
    data = b""
    while True:
        while len(data) <= size + reach and (chunk := next(chunks, None)) is not None:
            data += chunk
        if not data:
            return
        end = _line_end(data, size, reach)
        block, data = data[:end], data[end:]
        try:
            block.decode()
        except UnicodeDecodeError:
            raise UserError(
                f"{str(path)!r} is not UTF-8 text: convert it, such as by `iconv -f LATIN1 -t UTF-8`, or move it away"
            ) from None
        if b"\0" in block:
            raise UserError(f"{str(path)!r} has zero bytes, so it is not text: move it away")
        yield block


def _line_end(data: bytes, size: int, reach: int) -> int:
    """Where a block of about `size` bytes ends."""
    if len(data) <= size:
        return len(data)
    for sign in (b"\n", b"\r"):
        if (found := data.find(sign, size, size + reach)) >= 0:
            return found + 1
    # A line without end is cut, but never inside a character.
    return _between_characters(data, min(len(data), size + (reach if reach == MAX_LINE else 0)))


def _between_characters(data: bytes, end: int) -> int:
    while end < len(data) and data[end] & 0xC0 == 0x80:
        end += 1
    return end


def _pieces(text: bytes, size: int) -> Iterator[bytes]:
    while text:
        end = _line_end(text, size, size)
        yield text[:end]
        text = text[end:]


def _json_lines(path: pathlib.Path, chunks: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    """(where, value) of the texts of the records."""
    for number, line in enumerate(_lines(path, chunks), 1):
        if not line.strip():
            continue
        where = f"{str(path)!r} line {number}"
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError:
            raise UserError(
                f"{where} is not UTF-8 text: convert the file, such as by `iconv -f LATIN1 -t UTF-8`"
            ) from None
        except (ValueError, RecursionError):
            raise UserError(f"{where} is not JSON: each line must be one object with a 'text' or 'content'") from None
        if not isinstance(record, dict):
            raise UserError(f"{where} is a {type(record).__name__}, not an object with a 'text' or 'content'")
        keys = [key for key in TEXT_KEYS if key in record]
        if not keys:
            has = ", ".join(record)[:200] or "no fields"
            raise UserError(f"{where} has no 'text' or 'content'; it has {has}: rename the field of the text")
        values = [record[key] for key in keys]
        yield where, next((value for value in values if not _is_null(value)), None)


def _lines(path: pathlib.Path, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that end with LF, CR or CR LF, without their ends."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        if b"\n" in chunk or b"\r" in chunk or (parts and parts[-1].endswith(b"\r")):
            *whole, last = b"".join([*parts, chunk]).replace(b"\r\n", b"\n").splitlines(keepends=True) or [b""]
            # Held back even where complete: its CR may be the first half of a CR LF.
            parts, size = [last], len(last)
            yield from (line.rstrip(b"\r\n") for line in whole)
        else:
            parts.append(chunk)
            size += len(chunk)
        if size > MAX_RECORD:
            raise UserError(f"{str(path)!r} has a line of more than {MAX_RECORD >> 20} MB: one record per line is read")
    if size:
        yield b"".join(parts).rstrip(b"\r\n")


def _parquet(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as table:
            names = table.schema_arrow.names
            key = next((key for key in TEXT_KEYS if key in names), None)
            if key is None:
                has = ", ".join(names)[:200] or "no columns"
                raise UserError(f"{str(path)!r} has no column 'text' or 'content'; it has {has}: rename the text's")
            row = 0
            for batch in table.iter_batches(batch_size=256, columns=[key]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield f"{str(path)!r} row {row}", value
    except UserError:
        raise
    except Exception as error:  # Arrow raises many types for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{str(path)!r} cannot be read as Parquet ({reason}): write or copy it again") from None


def _strings(path: pathlib.Path, values: Iterator[tuple[str, Any]], tally: Tally, name: str) -> Iterator[bytes]:
    """The texts that are not null or empty; lists of strings are joined by line ends."""
    nulls = lists = 0
    for where, value in values:
        if _is_null(value):
            nulls += 1
            continue
        if isinstance(value, list) and all(isinstance(part, str) or part is None for part in value):
            lists += 1
            value = "\n".join(part for part in value if part)
        if isinstance(value, bytes):
            value = _decoded(where, value)
        if not isinstance(value, str):
            kind = {"dict": "an object", "list": "a list of other things than strings"}.get(type(value).__name__)
            raise UserError(f"{where}: the text is {kind or repr(value)[:50]}, not a string: convert it")
        if text := value.replace("\0", "").encode("utf-8", "replace"):
            yield text
    tally.set(NULL, name, nulls)
    tally.set(LIST, name, lists)


def _decoded(where: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UserError(f"{where}: the text is not UTF-8: convert it") from None


def _is_null(value: Any) -> bool:
    """True for null, and for NaN, which tables write for a missing text."""
    return value is None or (isinstance(value, float) and value != value)
