"""Text from a trained model: a prompt is read at once, then a token at a time with a cache."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scaling_jax.data import tokenizers
from scaling_jax.errors import UserError
from scaling_jax.models import decoding
from scaling_jax.trained.models import TrainedModel, need_logits

MAX_BYTES = 4  # of a character in UTF-8


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
      temperature: divides the logits; 0 takes the most probable token.
      top_k: only the k most probable tokens; 0 for all.
      top_p: only the most probable tokens whose probabilities, after the temperature, add up to this.
      seed: the same seed gives the same text.
      max_tokens: at most so many; None continues to the end of the context.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, right, asked in (
            ("temperature", math.isfinite(self.temperature) and 0 <= self.temperature <= 100, "0 to 100"),
            ("top_k", self.top_k >= 0, "0 (all) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("seed", 0 <= self.seed < 2**32, "0 to 2^32 - 1"),
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "1 or more"),
        ):
            if not right:
                raise UserError(f"{name}={getattr(self, name)}: give {asked}")


@dataclasses.dataclass(frozen=True)
class Token:
    """One generated token.

    Attributes:
      number: in the vocabulary.
      text: that it adds, "" while a character is incomplete.
      log_p: ln of its probability under the model (temperature 1, every token allowed).
    """

    number: int
    text: str
    log_p: float


class Generator:
    """Generates from one model; its programs compile once. Not for several threads at a time.

    Example:
      generator = Generator(models.load("w96-d2"), models.tokenizer)
      print("".join(token.text for token in generator("def ", Sampling(temperature=0.8))))

    Args:
      trained: a model of text.
      tokenizer: that it was trained with.

    Raises:
      UserError: not a model of text, or one without logits.
    """

    def __init__(self, trained: TrainedModel, tokenizer: Any):
        if trained.spec.kind != "tokens":
            raise UserError(f"the models of study {trained.study.name!r} classify images: use scaling-jax classify")
        self.trained, self.tokenizer, self.context = trained, tokenizer, trained.spec.context
        logits = need_logits(trained.model, trained.study)
        self._decoding = trained.model.decoding or decoding.from_logits(logits, self.context)
        self._read = jax.jit(self._decoding.step)
        self._next = jax.jit(self._choose_and_step)

    def encode(self, prompt: str) -> list[int]:
        """The tokens of a prompt, after the separator that begins a document.

        Raises:
          UserError: it cannot be tokenized, or leaves no room in the context.
        """
        tokens = encode(self.tokenizer, prompt)
        if len(tokens) >= self.context:
            raise UserError(
                f"the prompt has {len(tokens)} tokens and the models were trained on contexts of {self.context}: give "
                f"at most {self.context - 1}"
            )
        return tokens

    def __call__(self, prompt: str, sampling: Sampling = Sampling()) -> Iterator[Token]:
        """Yields tokens until the separator, `max_tokens` or the end of the context.

        Raises:
          UserError: as `encode`.
        """
        tokens = self.encode(prompt)
        room = self.context - len(tokens)
        if sampling.max_tokens is not None and sampling.max_tokens > room:
            raise UserError(
                f"max_tokens={sampling.max_tokens} and a prompt of {len(tokens)} tokens exceed the context of "
                f"{self.context} that the model was trained on: at most {room}"
            )
        return self._generate(tokens, sampling, sampling.max_tokens or room)

    def _generate(self, tokens: list[int], sampling: Sampling, count: int) -> Iterator[Token]:
        logits_V, cache = self._start(tokens)
        key = jax.random.key(sampling.seed)
        controls = (
            np.float32(sampling.temperature), np.int32(sampling.top_k or self.trained.spec.vocab_size),
            np.float32(sampling.top_p),
        )  # fmt: skip
        params, text = self.trained.params, _Text(self.tokenizer)
        end = None if isinstance(self.tokenizer, tokenizers.Ready) else _separator(self.tokenizer)
        for position in range(len(tokens), len(tokens) + count):
            token, log_p, logits_V, cache = self._next(
                params, cache, logits_V, jax.random.fold_in(key, position), np.int32(position), controls
            )
            number = int(token)
            if number == end:
                return
            yield Token(number, text.add(number), float(log_p))

    def _start(self, tokens: list[int]) -> tuple[Any, Any]:
        """(logits after the prompt, cache); prompts are padded to powers of two, so that few programs compile."""
        size = min(self.context, 1 << (len(tokens) - 1).bit_length())
        padded = np.zeros((1, size), np.int32)
        padded[0, : len(tokens)] = tokens
        cache = self._decoding.start(self.trained.params, 1)
        logits_1xTxV, cache = self._read(self.trained.params, cache, padded, np.int32(0))
        return logits_1xTxV[0, len(tokens) - 1], cache

    def _choose_and_step(
        self, params: Any, cache: Any, logits_V: Any, key: Any, position: Any, controls: Any
    ) -> tuple[Any, ...]:
        token = choose(key, logits_V, *controls)
        log_p = jax.nn.log_softmax(logits_V)[token]
        logits_1x1xV, cache = self._decoding.step(params, cache, token[None, None], position)
        return token, log_p, logits_1x1xV[0, 0], cache


def choose(key: Any, logits_V: Any, temperature: Any, top_k: Any, top_p: Any) -> Any:
    """A token, int32: of the `top_k` most probable ones, those that together reach `top_p` (Holtzman et al. 2020,
    arXiv:1904.09751), by probability after the temperature; at temperature 0 the most probable."""
    scaled_V = logits_V / jnp.maximum(temperature, 1e-6)
    sorted_V = jnp.sort(scaled_V, descending=True)
    rank_V = jnp.arange(len(sorted_V))
    p_V = jax.nn.softmax(jnp.where(rank_V < top_k, sorted_V, -jnp.inf))
    kept_V = (rank_V < top_k) & (jnp.cumsum(p_V) - p_V < top_p)
    threshold = jnp.min(jnp.where(kept_V, sorted_V, jnp.inf))
    drawn = jax.random.categorical(key, jnp.where(scaled_V >= threshold, scaled_V, -jnp.inf))
    return jnp.where(temperature == 0, jnp.argmax(logits_V), drawn).astype(jnp.int32)


def encode(tokenizer: Any, prompt: str) -> list[int]:
    """Tokens of a prompt, after the separator that begins a document.

    Raises:
      UserError: text that the tokenizer has no tokens for, or words where the data were tokens.
    """
    if isinstance(tokenizer, tokenizers.Ready):
        words = prompt.replace(",", " ").split()
        numbers = [int(w) for w in words if w.isascii() and w.isdigit() and int(w) < tokenizer.vocab_size]
        if len(numbers) < len(words) or not numbers:
            raise UserError(
                f"prompt {prompt[:60]!r}: these models read tokens, give numbers from 0 to {tokenizer.vocab_size - 1}"
            )
        return numbers
    try:
        content = prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"prompt {prompt[:60]!r} is not text: {error.reason}") from error
    if isinstance(tokenizer, tokenizers.Bytes) and b"\0" in content:
        raise UserError("the prompt contains byte 0, which separates documents")
    if not content:
        return [_separator(tokenizer)]
    tokens = tokenizer.encode_batch([content])[0].tolist()[:-1]
    if not tokens:
        raise UserError(f"prompt {prompt[:60]!r}: the tokenizer has no tokens for it")
    return [_separator(tokenizer), *tokens]


def _separator(tokenizer: Any) -> int:
    return 0 if isinstance(tokenizer, tokenizers.Bytes) else int(tokenizer.separator)


class _Text:
    """Text of a growing sequence, in whole characters: a token may end within one."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self._tokens, self._shown, self._waiting = tokenizer, [], 0, 0

    def add(self, token: int) -> str:
        """The text that a token completes."""
        self._tokens.append(token)
        if isinstance(self._tokenizer, tokenizers.Ready):
            return f"{token} "
        text = self._tokenizer.decode(np.asarray(self._tokens)).decode("utf-8", "replace")
        self._waiting += 1
        if text.endswith("\ufffd") and self._waiting < MAX_BYTES:
            return ""
        new, self._shown, self._waiting = text[self._shown :], len(text), 0
        return new
