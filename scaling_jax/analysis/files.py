"""The content of a file -> a table: CSV in its many forms, TSV, JSON, JSON lines, Parquet, Excel; compressed or not."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import warnings
import zlib
from typing import Any

import pandas as pd

from scaling_jax.analysis import numerals
from scaling_jax.analysis.cells import with_objects
from scaling_jax.analysis.excel import read_excel
from scaling_jax.errors import UserError

TEXT, LINES, EXCEL = (".csv", ".tsv", ".txt", ".dat", ".tab"), (".jsonl", ".ndjson"), (".xlsx", ".xlsm", ".xls", ".ods")
PARQUET, JSON = (".parquet", ".pq"), (".json",)
ENDINGS = (*TEXT, *JSON, *LINES, *PARQUET, *EXCEL)
PACKED = (".gz", ".bz2", ".xz")
SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
COMMENTS = ("#", "%", "//")
MAX_BYTES = 256 << 20  # unpacked: a few kilobytes can unpack to gigabytes, and reading takes several times as much
SNIFFED_LINES = 200


def parse_table(content: bytes, name: str) -> pd.DataFrame:
    """A table of runs from the content of a file; names and cells stay as written.

    Args:
      content: of the file.
      name: of the file; its ending says what it is.

    Returns:
      A DataFrame. `.attrs["notes"]` lists in sentences what was not plain about the file, `.attrs["decimal"]` is the
      decimal mark of its numbers where they say so.

    Raises:
      UserError: an unknown ending, or a content that is not what the ending says.

    Example:
      >>> table = parse_table(b"params;loss\\n70M;3,73\\n", "runs.csv")
      >>> table.attrs["notes"][0], table.attrs["decimal"]
      ('columns are separated by semicolons', ',')
    """
    packed, plain = _ending(name)
    content, plain, mistaken = _as_it_is(_unpacked(content, name, packed), name, plain)
    try:
        table, notes = _READERS[plain](content, plain)
    except UserError as error:
        raise UserError(f"results {name!r}: {error}") from None
    except (RecursionError, MemoryError):
        raise UserError(f"results {name!r} cannot be read: nested too deeply or too large") from None
    except ModuleNotFoundError as error:
        raise UserError(f"results {name!r}: reading {plain} needs {error.name}: pip install {error.name}") from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"results {name!r} cannot be read as {plain[1:]}: {reason}") from error
    table, kept = _with_index(table)
    table, opened = with_objects(table)
    if not len(table.columns):
        raise UserError(f"results {name!r} have no columns")
    table.attrs = {"notes": mistaken + notes + kept + opened, "decimal": _mark(table)}
    return table


def check_ending(name: str) -> None:
    """Raises UserError for the name of a file that is not a table, before it is read."""
    _ending(name)


def _ending(name: str) -> tuple[str, str]:
    """(compression or "", what is inside)."""
    lower = name.lower()
    packed = next((p for p in PACKED if lower.endswith(p)), "")
    inner = lower.removesuffix(packed)
    plain = next((e for e in ENDINGS if inner.endswith(e)), None)
    if plain is None:
        ending = re.sub(r".*(\.[^./]*)$", r"\1", lower) if "." in lower.rsplit("/", 1)[-1] else ""
        raise UserError(
            f"results {name!r}: unknown ending {ending!r}; give a workdir, or a table as .csv, .tsv, .json, .jsonl, "
            ".parquet or .xlsx (text also as .gz)"
        )
    return packed, plain


def _as_it_is(content: bytes, name: str, plain: str) -> tuple[bytes, str, list[str]]:
    """The content, its kind and a note, by the first bytes where they contradict the ending."""
    if content.startswith(b"\x1f\x8b"):
        return _unpacked(content, name, ".gz"), plain, ["unpacked with gzip, whatever its name"]
    actual = {b"PAR1": PARQUET, b"PK\x03\x04": EXCEL}.get(content[:4])
    if actual is None or plain in actual or len(content) < 100:
        return content, plain, []
    return content, actual[0], [f"read as {actual[0][1:]}, whatever its name"]


def _unpacked(content: bytes, name: str, packed: str) -> bytes:
    if not packed:
        return content
    opened = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}[packed]
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) if packed == ".gz" else opened(io.BytesIO(content)) as file:
            out = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise UserError(f"results {name!r} cannot be unpacked: {error}") from None
    if len(out) > MAX_BYTES:
        raise UserError(f"results {name!r} unpack to more than {MAX_BYTES >> 20} MiB; unpack and trim it first")
    return out


def _with_index(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Index levels that have names are columns too."""
    if isinstance(table.columns, pd.MultiIndex):
        table = table.set_axis(["/".join(str(p) for p in c if str(p)) for c in table.columns], axis=1)
    levels = [str(n) for n in table.index.names if n is not None and n not in table.columns]
    if not levels:
        return table.reset_index(drop=True), []
    return table.reset_index(), [f"columns read from the index: {', '.join(levels)}"]


def _mark(table: pd.DataFrame) -> str | None:
    """The decimal mark, from all text cells; a column that pandas read as numbers has none to say."""
    cells: list[str] = []
    for i in range(table.shape[1]):
        column = table.iloc[:, i]
        if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
            cells += [c.strip() for c in column.head(2000) if isinstance(c, str) and ("," in c or "." in c)]
    return numerals.decimal_mark(cells)


def _delimited(content: bytes, ending: str) -> tuple[pd.DataFrame, list[str]]:
    text, notes = _decoded(content)
    lines, comments = _without_comments(text)
    if not lines:
        raise UserError("the file is empty")
    lines = _tidied(lines, notes)
    if comments:
        notes.append(f"skipped {len(comments)} comment line{'s' * (len(comments) > 1)}")
    separator = _separator(lines)
    if numerals.all_plain(next(csv.reader([lines[0]], delimiter=separator or " ", skipinitialspace=True), [])):
        named = _commented_header(comments, lines[0], separator)
        if named is None:
            raise UserError("the first row has numbers, not names; add a header row such as params,tokens,loss")
        lines.insert(0, named)
    usual = "\t" if ending in (".tsv", ".tab") else ","
    if separator is None:
        notes.append("columns are separated by blanks")
    elif separator != usual:
        notes.append(f"columns are separated by {SEPARATORS[separator]}")
    header = _header(lines[0], separator)
    frame = _frame(lines, separator)
    if frame.columns.size == len(header):  # pandas renames the second of two equal names
        frame.columns = pd.Index(header)
    if _mark(frame) == ",":  # "2.000" has been read as 2: read again as text
        frame = _frame(lines, separator, dtype=str).set_axis(frame.columns, axis=1)
        notes.append("numbers are written with decimal commas")
    return frame, notes


def _tidied(lines: list[str], notes: list[str]) -> list[str]:
    """Without the `sep=` of Excel, the frame of a Markdown table, and empty cells beyond the header's."""
    if re.fullmatch(r"\"?sep=.\"?", lines[0].strip()) and len(lines) > 1:
        lines = lines[1:]
    rules = [line for line in lines[:4] if re.fullmatch(r"[\s|:+-]*-[\s|:+-]*", line) and ("|" in line or "+" in line)]
    if rules:
        notes.append("read as a Markdown table")
        lines = [line.strip().strip("|") for line in lines if line not in rules]
    lines = _without_titles(lines, notes)
    if repeated := lines[1:].count(lines[0]):
        notes.append(f"left out {repeated} repetition{'s' * (repeated > 1)} of the header")
        lines = [lines[0], *(line for line in lines[1:] if line != lines[0])]
    separator = _separator(lines)
    if separator is None or len(lines) < 2:
        return lines
    width = len(_header(lines[0], separator))
    if not any(line.count(separator) >= width for line in lines[1:]):
        return lines
    rows = [next(csv.reader([line], delimiter=separator), []) for line in lines[1:]]
    if any(len(row) > width for row in rows) and not any(cell.strip() for row in rows for cell in row[width:]):
        notes.append("empty cells beyond the header are left out")
        return [lines[0], *(_cut(line, separator, len(row) - width) for line, row in zip(lines[1:], rows))]
    return lines


def _without_titles(lines: list[str], notes: list[str]) -> list[str]:
    """Without lines above the header that hold one cell, where all others hold the same number of several."""
    for titles in range(1, min(5, len(lines) - 2)):
        rest = lines[titles:]
        separator = _separator(rest)
        if separator is None:
            continue
        above = [sum(map(bool, map(str.strip, row))) for row in csv.reader(lines[:titles], delimiter=separator)]
        if above != [1] * titles:
            continue
        widths = {len(row) for row in csv.reader(rest, delimiter=separator)}
        if len(widths) == 1 and widths != {1}:
            filled = [cell.strip() for cell in next(csv.reader(rest[:1], delimiter=separator))]
            if all(filled) and not any(map(numerals.is_plain, filled)):
                notes.append(f"left out {titles} line{'s' * (titles > 1)} above the header")
                return rest
    return lines


def _cut(line: str, separator: str, cells: int) -> str:
    """A line without its last cells."""
    return line.rsplit(separator, cells)[0] if cells > 0 else line


def _frame(lines: list[str], separator: str | None, **options: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                io.StringIO("\n".join(lines)), sep=r"\s+" if separator is None else separator, skipinitialspace=True,
                index_col=False, low_memory=False, on_bad_lines="error", **options,
            )  # fmt: skip
        except pd.errors.ParserWarning:
            raise UserError(
                "rows hold more cells than the header has names: quote cells that hold the separator, remove lines "
                "above the header, or name every column"
            ) from None


def _decoded(content: bytes) -> tuple[str, list[str]]:
    marks = {
        b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
        b"\xef\xbb\xbf": "utf-8-sig",
    }  # fmt: skip
    encoding = next((e for mark, e in marks.items() if content.startswith(mark)), "utf-8")
    for start, unmarked in ((1, "utf-16-le"), (0, "utf-16-be")):  # every second byte of ASCII text is then zero
        zeros = content[start:400:2]
        if encoding == "utf-8" and len(zeros) > 8 and zeros.count(0) > 0.9 * len(zeros):
            encoding = unmarked
    try:
        text, notes = content.decode(encoding), [] if encoding.startswith("utf-8") else [f"decoded as {encoding}"]
    except UnicodeDecodeError:
        if b"\x00" in content[:4096]:
            raise UserError("a binary file, not text") from None
        text, notes = content.decode("latin-1"), ["decoded as latin-1, since it is not UTF-8"]
    if "\x00" in text:
        raise UserError("a binary file, not text")
    return text.replace("\r\n", "\n").replace("\r", "\n"), notes


def _without_comments(text: str) -> tuple[list[str], list[str]]:
    """(lines that count, comment lines)."""
    lines = [line for line in text.rstrip("\x1a").split("\n") if line.strip()]
    while len(lines) > 1 and lines[0].count('"') % 2:  # a line end inside of a name
        lines[:2] = [f"{lines[0]} {lines[1]}"]
    comments = [line for line in lines if line.lstrip().startswith(COMMENTS)]
    if comments and len(comments) == len(lines):
        raise UserError("every line is a comment")
    return [line for line in lines if not line.lstrip().startswith(COMMENTS)], comments


def _separator(lines: list[str]) -> str | None:
    """The separator that divides every line into the same number of cells; None for blanks."""
    sample = lines[:SNIFFED_LINES]
    best, cells = ",", 1
    for separator in SEPARATORS:
        counts = [len(row) for row in csv.reader(sample, delimiter=separator)]
        if len(set(counts)) == 1 and counts[0] > cells:
            # Of two that both fit, the first: tabs and semicolons seldom occur inside cells, commas do.
            best, cells = separator, counts[0]
            break
    if cells > 1:
        return best
    if not any(s in sample[0] for s in SEPARATORS):
        if {len(line.split()) for line in sample[1:]} == {len(sample[0].split()) + 1}:  # an index without a name
            sample[0] = lines[0] = f"index {sample[0]}"
        widths = {len(line.split()) for line in sample}
        return None if len(widths) == 1 and widths != {1} else ","
    return max(SEPARATORS, key=lambda s: sample[0].count(s))  # ragged: pandas names the line


def _header(line: str, separator: str | None) -> list[str]:
    return line.split() if separator is None else next(csv.reader([line], delimiter=separator, skipinitialspace=True))


def _commented_header(comments: list[str], first: str, separator: str | None) -> str | None:
    """A header that is written as a comment, as numpy.savetxt does."""
    for comment in reversed(comments):
        names = comment.lstrip().lstrip("#%/ ")
        if len(_header(names, separator)) == len(_header(first, separator)):
            return names
    return None


def _json(content: bytes, ending: str) -> tuple[pd.DataFrame, list[str]]:
    text, notes = _decoded(content)
    try:
        value = json.loads(text)
    except ValueError as error:
        try:
            return _lines(content, ending)[0], [*notes, "read as JSON lines"]
        except (ValueError, UserError):
            raise UserError(f"not JSON: {error}") from None
    return _from_json(value), notes


def _lines(content: bytes, ending: str) -> tuple[pd.DataFrame, list[str]]:
    text, notes = _decoded(content)
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"line {number} is not JSON: {error}") from None
    return _from_json(rows), notes


def _from_json(value: Any) -> pd.DataFrame:
    """Records, columns, pandas' "split" layout, or one list of records under a key."""
    if isinstance(value, dict):
        if {"columns", "data"} <= set(value):
            return pd.DataFrame(value["data"], columns=value["columns"])
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        if len(lists) == 1:
            return _from_json(lists[0])
        if value and all(isinstance(v, (list, dict)) for v in value.values()):
            if all(isinstance(v, dict) for v in value.values()) and not _by_column(value):
                return pd.json_normalize(list(value.values()), sep=".").assign(name=list(value))
            return pd.DataFrame(value)
        raise UserError("give a list of runs, one object each, or an object of columns")
    if not isinstance(value, list) or not value:
        raise UserError("give a list of runs, one object each")
    if not all(isinstance(row, dict) for row in value):
        raise UserError("a run is not an object: give one object of names and values per run")
    return pd.json_normalize(value, sep=".")


def _by_column(value: dict) -> bool:
    """Returns True where objects of objects are columns (their keys are row numbers), not runs by name."""
    keys = {str(k) for column in value.values() for k in column}
    return all(key.isdigit() for key in keys)


def _parquet(content: bytes, ending: str) -> tuple[pd.DataFrame, list[str]]:
    return pd.read_parquet(io.BytesIO(content)), []


_READERS = {
    **dict.fromkeys(TEXT, _delimited), **dict.fromkeys(JSON, _json), **dict.fromkeys(LINES, _lines),
    **dict.fromkeys(PARQUET, _parquet), **dict.fromkeys(EXCEL, read_excel),
}  # fmt: skip
