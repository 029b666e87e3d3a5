"""Overlap of training and validation text, counted by line."""

from __future__ import annotations

import re

from absl import logging

MIN_CHARS = 30
WARN_ABOVE = 0.1
# A line without surrounding blanks, if at least MIN_CHARS long, so that indentation does not matter.
_LINE = re.compile(rb"\S[^\r\n]{%d,}\S" % (MIN_CHARS - 2))


def lines(text: bytes) -> list[bytes]:
    """Lines of at least 30 bytes, stripped."""
    return _LINE.findall(text)


class Check:
    """Counts the validation lines that occur in training, exactly; memory is about the size of the validation text."""

    def __init__(self) -> None:
        self._count: dict[bytes, int] = {}
        self._found: set[bytes] = set()
        self.lines = 0

    def validation(self, text: bytes) -> None:
        """Adds a validation document; all of them must come before the first training document."""
        for line in lines(text):
            self._count[line] = self._count.get(line, 0) + 1
            self.lines += 1

    def train(self, text: bytes) -> None:
        """Searches a training document for the validation lines."""
        self._found |= self._count.keys() & lines(text)

    def share(self) -> float:
        """Share of the validation lines, repeated ones counted repeatedly, that occur in training."""
        return sum(self._count[line] for line in self._found) / max(1, self.lines)


def message(share: float) -> str:
    """One line about the overlap; above 10% it is also logged as a warning."""
    text = f"{share:.2%} of the validation lines (>= {MIN_CHARS} characters) occur in training"
    if share > WARN_ABOVE:
        logging.warning("overlap: %s; the validation loss is too low", text)
    return text
