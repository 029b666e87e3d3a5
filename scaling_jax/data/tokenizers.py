"""Text to tokens and back: bytes, a BPE trained on the corpus, a tokenizer.json, a sentencepiece model.

A separator follows every document. It counts as one byte of text for every tokenizer, so that bits per byte are
comparable.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from scaling_jax.data.cache import Progress
from scaling_jax.errors import UserError
from scaling_jax.storage import paths

TRAINING_BYTES = 200_000_000
MAX_VOCAB = 10_000_000  # counts are kept per token
MAX_TRAINED_VOCAB = 1_000_000
MAX_FILE = 1 << 30
END = "<|endoftext|>"
SEPARATORS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]")


class Tokenizer(Protocol):
    """The interface that the writer of arrays uses.

    Attributes:
      vocab_size: tokens of the vocabulary.
      needs_training: True where `train` must make it usable first.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def needs_training(self) -> bool: ...

    def encode_batch(self, documents: Sequence[Any]) -> tuple[np.ndarray, int]:
        """Tokens of the documents, each followed by the separator, and their bytes, separators included."""
        ...

    def decode(self, tokens: np.ndarray) -> bytes:
        """The text of tokens."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON that determines the tokens; enters `dataset_hash`."""
        ...


@dataclasses.dataclass(frozen=True)
class Bytes:
    """A token is a byte; the separator is byte 0, which no text contains."""

    vocab_size: int = 256
    needs_training: bool = False

    def encode_batch(self, documents: Sequence[bytes]) -> tuple[np.ndarray, int]:
        tokens = np.frombuffer(b"\0".join([*documents, b""]), np.uint8)
        return tokens, len(tokens)

    def decode(self, tokens: np.ndarray) -> bytes:
        return np.asarray(tokens, np.uint8).tobytes()

    def describe(self) -> dict[str, Any]:
        return {"name": "bytes", "vocab_size": 256, "identity": ""}


@dataclasses.dataclass(frozen=True)
class Ready:
    """For documents that are arrays of tokens already; only checks them against the vocabulary."""

    vocab_size: int
    needs_training: bool = False

    def encode_batch(self, documents: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
        tokens = np.concatenate(documents)
        if tokens.max() >= self.vocab_size or tokens.min() < 0:
            wrong = tokens[(tokens >= self.vocab_size) | (tokens < 0)][0]
            raise UserError(f"token {wrong} is outside the vocabulary of {self.vocab_size}: correct vocab_size")
        return tokens, tokens.nbytes

    def decode(self, tokens: np.ndarray) -> bytes:
        return " ".join(map(str, tokens)).encode()

    def describe(self) -> dict[str, Any]:
        return {"name": "tokens", "vocab_size": self.vocab_size, "identity": ""}


@dataclasses.dataclass(frozen=True)
class Untrained:
    """A byte-level BPE that is still to be trained on the corpus."""

    vocab_size: int
    needs_training: bool = True


@dataclasses.dataclass(frozen=True)
class Fast:
    """A tokenizer.json of Hugging Face's `tokenizers`, trained here (`bpe:VOCAB`) or given."""

    text: str
    needs_training: bool = False

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @functools.cached_property
    def _tokenizer(self) -> Any:
        import tokenizers

        return tokenizers.Tokenizer.from_str(self.text)

    @functools.cached_property
    def _vocab_size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def separator(self) -> int:
        for token in SEPARATORS:
            if (number := self._tokenizer.token_to_id(token)) is not None:
                return number
        return self._tokenizer.encode("\n", add_special_tokens=False).ids[-1]

    def encode_batch(self, documents: Sequence[bytes]) -> tuple[np.ndarray, int]:
        texts = [document.decode("utf-8", "replace") for document in documents]
        parts = []
        with _failures("the tokenizer fails on this text"):
            for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
                parts += encoding.ids, [self.separator]
        return np.concatenate(parts).astype(np.int64), sum(map(len, documents)) + len(documents)

    def decode(self, tokens: np.ndarray) -> bytes:
        return self._tokenizer.decode(np.asarray(tokens).tolist(), skip_special_tokens=False).encode()

    def describe(self) -> dict[str, Any]:
        return {"name": "tokenizer.json", "vocab_size": self.vocab_size, "identity": _sha256(self.text.encode())}


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """A sentencepiece model."""

    model: bytes
    needs_training: bool = False

    @functools.cached_property
    def _processor(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_proto=self.model)

    @property
    def vocab_size(self) -> int:
        return self._processor.vocab_size()

    @functools.cached_property
    def separator(self) -> int:
        end = self._processor.eos_id()
        return end if end >= 0 else self._processor.encode("\n")[-1]

    def encode_batch(self, documents: Sequence[bytes]) -> tuple[np.ndarray, int]:
        parts = []
        with _failures("the tokenizer fails on this text"):
            for ids in self._processor.encode([document.decode("utf-8", "replace") for document in documents]):
                parts += ids, [self.separator]
        return np.concatenate(parts).astype(np.int64), sum(map(len, documents)) + len(documents)

    def decode(self, tokens: np.ndarray) -> bytes:
        return self._processor.decode(np.asarray(tokens).tolist()).encode()

    def describe(self) -> dict[str, Any]:
        return {"name": "sentencepiece", "vocab_size": self.vocab_size, "identity": _sha256(self.model)}


def make(name: str | None, vocab: int | None = None) -> Any:
    """The tokenizer that a study names.

    Args:
      name: "bytes", "bpe:VOCAB", or a path; None for data that is tokenized already.
      vocab: tokens of the vocabulary of such data.

    Raises:
      UserError: there is no such tokenizer, its file cannot be read, or its package is missing.
    """
    if name is None:
        return Ready(vocab or 0)
    if name == "bytes":
        return Bytes()
    if name.startswith("bpe:"):
        size = name.removeprefix("bpe:")
        if not re.fullmatch("[0-9]{1,12}", size) or not 257 <= int(size) <= MAX_TRAINED_VOCAB:
            raise UserError(
                f"data.tokenizer {name[:60]!r}: write bpe:VOCAB with at least 257 and at most {MAX_TRAINED_VOCAB:,} "
                "tokens, such as bpe:4096"
            )
        _need("tokenizers", name)
        return Untrained(int(size))
    path = pathlib.Path(name).expanduser()
    if not os.path.isfile(path):
        raise UserError(f"data.tokenizer {name[:200]!r} is neither 'bytes', 'bpe:VOCAB' nor a file")
    if not 0 < os.path.getsize(path) <= MAX_FILE:
        raise UserError(
            f"data.tokenizer {name[:200]!r} is not a tokenizer: its size is {os.path.getsize(path):,} bytes"
        )
    with _failures(f"data.tokenizer {name!r} cannot be read"):
        made = _read(path, name)
        size = made.vocab_size  # reads the model, so that a wrong file is found here
        if size < 1 or size > MAX_VOCAB or made.separator >= size:
            raise UserError(f"data.tokenizer {name!r} has token {size - 1}: at most {MAX_VOCAB:,} tokens are supported")
    return made


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turns the errors of tokenizer libraries, panics of Rust code included, into a UserError."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic in Rust is not an Exception
        raise UserError(f"{what}: {' '.join(str(error).split())[:200] or type(error).__name__}") from error


def _read(path: pathlib.Path, name: str) -> Fast | SentencePiece:
    if path.suffix != ".json":
        _need("sentencepiece", name)
        return SentencePiece(path.read_bytes())
    _need("tokenizers", name)
    try:
        return Fast(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"data.tokenizer {name!r} is not JSON; a sentencepiece model's name ends in .model") from None


def _need(package: str, name: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"data.tokenizer {name!r} needs the package {package}: pip install 'scaling_jax[tokenizers]'")


def vocab_size(name: str) -> int:
    """Vocabulary of the tokenizer a study names, without reading any text.

    Raises:
      UserError: as `make`.
    """
    return make(name).vocab_size


def identity(name: str | None) -> str:
    """A tokenizer's part of a cache key: its name, or the hash of its file."""
    if name is None or name == "bytes" or name.startswith("bpe:"):
        return name or ""
    return _sha256(pathlib.Path(name).expanduser().read_bytes())


def train(untrained: Untrained, texts: Iterable[bytes], root: pathlib.Path, on_progress: Progress) -> Fast:
    """A byte-level BPE trained on the first 200 MB of `texts`, stored below `root` under its hash.

    Raises:
      UserError: the text has too few distinct pieces for so large a vocabulary.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    def sample() -> Iterable[str]:
        taken = 0
        for text in texts:
            if taken >= TRAINING_BYTES:
                return
            taken += len(text)
            yield text.decode("utf-8", "replace")

    on_progress(f"training a tokenizer of {untrained.vocab_size} tokens", 0, None)
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        sample(),
        trainers.BpeTrainer(
            vocab_size=untrained.vocab_size,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    text = made.to_str()
    trained = Fast(text)
    if trained.vocab_size != untrained.vocab_size:
        raise UserError(
            f"data.tokenizer 'bpe:{untrained.vocab_size}': the text yields only {trained.vocab_size} tokens; ask for "
            "fewer"
        )
    path = root / "tokenizers" / f"{_sha256(text.encode())[:16]}.json"
    paths.write_atomic(path, text)
    return trained


def stored(description: dict[str, Any] | None, root: pathlib.Path) -> Any | None:
    """The tokenizer of cached arrays, to decode them; None where its file is not in the cache."""
    if description is None:
        return None
    if description["name"] == "bytes":
        return Bytes()
    if description["name"] == "tokens":
        return Ready(description["vocab_size"])
    path = root / "tokenizers" / f"{description['identity'][:16]}.json"
    return Fast(path.read_text(encoding="utf-8")) if path.is_file() else None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def dtype(vocab: int) -> Any:
    """Smallest unsigned integer type that holds every token of a vocabulary."""
    return np.uint8 if vocab <= 2**8 else np.uint16 if vocab <= 2**16 else np.uint32
