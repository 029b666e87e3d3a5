"""Bytes of text to tokens and back."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import numpy as np

from scaling_jax.errors import UserError


class Tokenizer(Protocol):
    """Every document is followed by one separator token, which counts as one byte of text.

    Attributes:
      name: as in the study.
      vocab_size: tokens of the vocabulary.
      separator: the token between documents.
      identity: hash of what determines the tokens; "" when the name does.
    """

    name: str
    vocab_size: int
    separator: int
    identity: str

    def encode(self, text: bytes) -> np.ndarray:
        """Tokens of a document, without separator."""

    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of tokens."""


@dataclasses.dataclass(frozen=True)
class Bytes:
    """A token is a byte; the separator is byte 0, which no text contains."""

    name: str = "bytes"
    vocab_size: int = 256
    separator: int = 0
    identity: str = ""

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, np.uint8)

    def decode(self, tokens: np.ndarray) -> bytes:
        return np.asarray(tokens, np.uint8).tobytes()


def vocab_size(name: str) -> int:
    """Vocabulary of the tokenizer a study names, without loading any text.

    Raises:
      UserError: there is no such tokenizer.
    """
    return make(name).vocab_size


def make(name: str) -> Tokenizer:
    """The tokenizer a study names.

    Raises:
      UserError: there is no such tokenizer.
    """
    if name == "bytes":
        return Bytes()
    raise UserError(f"data.tokenizer {name!r} is unknown; use 'bytes'")


def dtype(vocab: int) -> Any:
    """Smallest unsigned integer type that holds every token of a vocabulary."""
    return np.uint8 if vocab <= 2**8 else np.uint16 if vocab <= 2**16 else np.uint32
