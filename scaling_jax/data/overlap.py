"""How much of the validation text stands in the training text."""

from __future__ import annotations

import re

from absl import logging

MIN_CHARS = 30
WARN_ABOVE = 0.1
# A line without the blanks around it, if at least MIN_CHARS long: the same code indented otherwise is the same.
_LINE = re.compile(rb"\S[^\r\n]{%d,}\S" % (MIN_CHARS - 2))


def lines(text: bytes) -> list[bytes]:
    """Lines of at least 30 bytes, stripped."""
    return _LINE.findall(text)


class Check:
    """Counts the validation lines that occur in training; exact, in memory of the validation text's size."""

    def __init__(self):
        self._count: dict[bytes, int] = {}
        self._found: set[bytes] = set()
        self.lines = 0

    def validation(self, text: bytes) -> None:
        """Takes in a validation document; all of them come before the first training document."""
        for line in lines(text):
            self._count[line] = self._count.get(line, 0) + 1
            self.lines += 1

    def train(self, text: bytes) -> None:
        """Looks for the validation lines in a training document."""
        self._found |= self._count.keys() & lines(text)

    def share(self) -> float:
        """Share of the validation lines (repeated ones as often as they stand there) that occur in training."""
        return sum(self._count[line] for line in self._found) / max(1, self.lines)


def message(share: float) -> str:
    """One line about the leak; also logged, as a warning above 10%."""
    text = f"{share:.2%} of the validation lines (>= {MIN_CHARS} characters) occur in training"
    if share > WARN_ABOVE:
        logging.warning("leak: %s; the validation loss is flattering", text)
    return text
