"""Selects rows by conditions such as `source=c4` or `not (seed in 0,1) or lr != 0.1`, without running code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from scaling_jax.analysis import numerals
from scaling_jax.errors import UserError
from scaling_jax.text import listed

MAX_LENGTH = 4000
_OPERATORS = ("==", "!=", "<=", ">=", "=", "<", ">")
_WORD = {"and": re.compile(r"\s+and\s+|\s*&&?\s*", re.I), "or": re.compile(r"\s+or\s+|\s*\|\|?\s*", re.I)}


def rows_where(table: pd.DataFrame, condition: str, find: Callable[[str], str | None]) -> pd.Series:
    """The rows of a table that meet a condition.

    Args:
      table: any.
      condition: COLUMN=VALUE; also != < <= > >=, `in a,b`, `not in a,b`, joined by `and`, `or`, `not` and
        parentheses; VALUE may be quoted and may contain commas and equals signs.
      find: name as written -> column of the table, or None.

    Returns:
      (rows,) booleans.

    Raises:
      UserError: a column that the table does not have, or a condition that cannot be read.
    """
    if len(condition) > MAX_LENGTH:
        raise UserError(f"--where is longer than {MAX_LENGTH} characters")
    parser = _Parser(table, find, condition)
    try:
        return parser.any_of(condition.strip())
    except RecursionError:
        raise UserError(f"--where={condition[:40]}...: nested too deeply") from None


class _Parser:
    def __init__(self, table: pd.DataFrame, find: Callable[[str], str | None], whole: str):
        self.table, self.find, self.whole = table, find, whole

    def any_of(self, text: str) -> pd.Series:
        chosen = pd.Series(False, index=self.table.index)
        for part in self._split(text, "or"):
            chosen |= self.all_of(part)
        return chosen

    def all_of(self, text: str) -> pd.Series:
        chosen = pd.Series(True, index=self.table.index)
        for part in self._split(text, "and"):
            chosen &= self.one(part.strip())
        return chosen

    def one(self, text: str) -> pd.Series:
        negated = re.match(r"not\b\s*(?=\S)", text, re.I)
        if negated and self._comparison(text) is None:
            return ~self.one(text[negated.end() :].strip())
        if text.startswith("(") and _closes(text) == len(text) - 1:
            return self.any_of(text[1:-1].strip())
        found = self._comparison(text)
        if found is None:
            name = re.split(r"[=<>!]|\s+(?:not\s+)?in\b", text)[0].strip().strip("`")
            if name and name != text.strip():
                raise UserError(f"--where={self.whole}: the table has {listed(self.table.columns, 30)}")
            raise UserError(
                f"--where: {text!r} is not COLUMN=VALUE; write e.g. --where=source=c4, --where='lr != 0.1' or "
                "--where='seed in 0,1'"
            )
        column, operator, value = found
        return self._compare(self.table[column], operator, value)

    def _split(self, text: str, word: str) -> list[str]:
        """Parts between the word, outside of quotes and parentheses, where both sides are conditions."""
        parts, start = [], 0
        for match in _WORD[word].finditer(text):
            before, after = text[start : match.start()], text[match.end() :]
            if _balanced(before) and self._begins_a_condition(after):
                parts.append(before)
                start = match.end()
        return [*parts, text[start:]]

    def _begins_a_condition(self, text: str) -> bool:
        text = re.sub(r"^(?:not\b\s*|\(\s*)+", "", text.strip(), flags=re.I)
        return self._comparison(text) is not None

    def _comparison(self, text: str) -> tuple[str, str, str] | None:
        """(column, operator, value), with the longest column name that the text begins with."""
        quoted = re.match(r"`([^`]*)`\s*", text)
        names = [quoted.group(1)] if quoted else _prefixes(text)
        for name in names:
            column = self.find(name.strip())
            if column is None:
                continue
            rest = text[quoted.end() if quoted else len(name) :].lstrip()
            for operator in _OPERATORS:
                if rest.startswith(operator):
                    return column, operator, rest[len(operator) :].strip()
            if match := re.match(r"(not\s+)?in\b\s*", rest, re.I):
                return column, "not in" if match.group(1) else "in", rest[match.end() :].strip()
        return None

    def _compare(self, column: pd.Series, operator: str, value: str) -> pd.Series:
        if operator in ("in", "not in"):
            inside = value[1:-1] if value[:1] + value[-1:] in ("()", "[]", "{}") else value
            chosen = pd.Series(False, index=column.index)
            for item in re.findall(r"\"[^\"]*\"|'[^']*'|[^,]+", inside):
                chosen |= equals(column, _unquoted(item.strip()))
            return ~chosen if operator == "not in" else chosen
        if operator in ("=", "==", "!="):
            chosen = equals(column, _unquoted(value))
            return ~chosen if operator == "!=" else chosen
        numbers, number = _numbers(column, self.table.attrs.get("decimal")), _number(_unquoted(value))
        if number is None:
            raise UserError(f"--where={self.whole}: {value!r} is not a number to compare with {operator}")
        return {"<": numbers < number, "<=": numbers <= number, ">": numbers > number, ">=": numbers >= number}[
            operator
        ]


def equals(column: pd.Series, value: str) -> pd.Series:
    """Rows equal to a value given as text: as numbers where both are numbers ("0" is 0.0), else as text.

    An empty value, "nan" or "none" means an empty cell.
    """
    if pd.api.types.is_bool_dtype(column):
        return column.map(lambda c: str(c).lower()) == value.lower().replace("1", "true").replace("0", "false")
    number, as_text = _number(value), column.map(lambda c: str(c).strip()) == value.strip()
    if number is not None:
        numbers = _numbers(column)
        if numbers.notna().any():
            return pd.Series(np.asarray(numbers == number, bool), index=column.index) | as_text
    if value.lower() in ("", "nan", "none", "null"):
        return column.isna() | (column.map(str) == value)
    return as_text


def asks_for(condition: str, column: str) -> bool:
    """Returns True where a condition compares this column."""
    name = re.escape(column)
    return re.search(rf"(?<![\w./]){name}`?\s*(?:[=<>!]|(?:not\s+)?in\b)", condition, re.I) is not None


def _number(text: str, mark: str | None = None) -> float | None:
    """A number as people write them (70M); None for anything else."""
    try:
        value = numerals.parse(text, mark)
    except (ValueError, OverflowError):
        return None
    return None if np.isnan(value) else value


def _numbers(column: pd.Series, mark: str | None = None) -> pd.Series:
    """A column as numbers; nan where a cell is not one."""
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    found = [_number(str(cell), mark) for cell in column]
    return pd.Series([np.nan if n is None else n for n in found], index=column.index, dtype=float)


def split_pairs(text: str, table: pd.DataFrame, find: Callable[[str], str | None]) -> Sequence[str]:
    """a=1,b=2 as two conditions where b is a column, unless some cell of `a` is "1,b=2"."""
    column, separator, value = text.partition("=")
    name = find(column.strip())
    if separator and name is not None and equals(table[name], _unquoted(value.strip())).any():
        return [text]
    parts = re.split(r",\s*(?=[^,=<>!]+(?:==|!=|<=|>=|=|<|>))", text)
    if len(parts) > 1 and all(find(re.split(r"[=<>!]", part)[0].strip()) is not None for part in parts):
        return parts
    return [text]


def _prefixes(text: str) -> list[str]:
    """Possible column names at the start of the text: up to each operator, the longest first."""
    ends = [m.start() for m in re.finditer(r"\s*(?:==|!=|<=|>=|=|<|>|\s(?:not\s+)?in\b)", text)]
    return [text[:end] for end in reversed(ends)]


def _closes(text: str) -> int:
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return i
    return -1


def _balanced(text: str) -> bool:
    return text.count("(") == text.count(")") and text.count('"') % 2 == 0


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
