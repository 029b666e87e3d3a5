"""What a request to the server asks for, checked; what is wrong with it, in the form of OpenAI's errors."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import io
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import numpy as np

from scaling_jax.errors import UserError
from scaling_jax.trained.generate import Sampling

MAX_STOPS, MAX_PIXELS = 4, 10_000_000
FIELDS = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stream", "echo", "n", "best_of",
    "logprobs", "suffix", "user", "presence_penalty", "frequency_penalty", "logit_bias", "stream_options",
}  # fmt: skip
UNSUPPORTED = {
    "n": 1, "best_of": 1, "logprobs": None, "suffix": None, "presence_penalty": 0, "frequency_penalty": 0,
    "logit_bias": None,
}  # fmt: skip


class Refused(Exception):
    """A request that is not answered.

    Attributes:
      status: of HTTP.
      kind: of OpenAI's errors.
    """

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.status, self.kind = status, kind

    def content(self) -> dict[str, Any]:
        """OpenAI's JSON of an error."""
        return {"error": {"message": str(self), "type": self.kind, "param": None, "code": self.status}}


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some text of a completion; `count` tokens are made so far, `reason` is why it ends."""

    text: str
    count: int
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Completion:
    """A request for a completion."""

    prompt: str
    sampling: Sampling
    stream: bool = False
    echo: bool = False
    stop: tuple[str, ...] = ()

    async def cut(self, tokens: AsyncGenerator[Any, None]) -> AsyncGenerator[Piece, None]:
        """Text up to the first stop string, held back while it may be the beginning of one."""
        held, count = "", 0
        async with contextlib.aclosing(tokens):
            async for token in tokens:
                held, count = held + token.text, count + 1
                ends = [held.find(stop) for stop in self.stop if stop in held]
                if ends:
                    yield Piece(held[: min(ends)], count, "stop")
                    return
                keep = max((k for stop in self.stop for k in range(1, len(stop)) if held.endswith(stop[:k])), default=0)
                yield Piece(held[: len(held) - keep], count)
                held = held[len(held) - keep :]
        full = self.sampling.max_tokens is not None and count >= self.sampling.max_tokens
        yield Piece(held, count, "length" if full else "stop")


def completion_of(body: Mapping[str, Any], model: str) -> Completion:
    """The completion that a request asks for.

    Raises:
      Refused: a field is unknown, wrong or not supported, or it is of another model.
    """
    if unknown := sorted(set(body) - FIELDS):
        raise Refused(400, f"unknown field {unknown[0][:60]!r}")
    if body.get("model") not in (None, "", model):
        raise Refused(404, f"no model {str(body['model'])[:60]!r}; this server has {model!r}", "model_not_found")
    for name, only in UNSUPPORTED.items():
        if body.get(name) not in (None, only, {}):
            raise Refused(400, f"{name}={body[name]!r} is not supported")
    prompt = body.get("prompt", "")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise Refused(400, "prompt: give one text")
    stops = body.get("stop") or []
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise Refused(400, f"stop: give a text or up to {MAX_STOPS} of them")
    numbers: dict[str, Any] = {
        "temperature": _number(body, "temperature", 1.0),
        "top_p": _number(body, "top_p", 1.0),
        "top_k": _whole(body, "top_k", 0),
        "seed": _whole(body, "seed", 0),
        "max_tokens": None if body.get("max_tokens") is None else _whole(body, "max_tokens", 0),
    }
    try:
        sampling = Sampling(**numbers)
    except UserError as error:
        raise Refused(400, str(error)) from error
    return Completion(prompt, sampling, _yes(body, "stream"), _yes(body, "echo"), tuple(stops))


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = default if body.get(name) is None else body[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused(400, f"{name}: give a number")
    return float(value)


def _whole(body: Mapping[str, Any], name: str, default: int) -> int:
    value = default if body.get(name) is None else body[name]
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(400, f"{name}: give a whole number")
    return value


def _yes(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name) or False
    if not isinstance(value, bool):
        raise Refused(400, f"{name}: give true or false")
    return value


def image_of(body: Mapping[str, Any], shape: tuple[int, int, int]) -> np.ndarray:
    """The image of a request, uint8 [H, W, C].

    Args:
      body: its "image" is a file in base64, or nested lists of pixels from 0 to 255.
      shape: that the model reads.

    Raises:
      Refused: it cannot be read or has another shape.
    """
    import PIL.Image

    image = body.get("image")
    if isinstance(image, list):
        try:
            values = np.asarray(image)
        except ValueError as error:
            raise Refused(400, "image: the lists are not of one shape") from error
        if values.dtype.kind not in "iu" or values.size == 0 or values.min() < 0 or values.max() > 255:
            raise Refused(400, "image: give whole numbers from 0 to 255")
        pixels = values.astype(np.uint8)
    elif isinstance(image, str):
        try:
            with PIL.Image.open(io.BytesIO(base64.b64decode(image, validate=True))) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise Refused(413, f"image: at most {MAX_PIXELS} pixels")
                pixels = np.atleast_3d(np.asarray(opened.convert("L" if shape[2] == 1 else "RGB")))
        except Refused:
            raise
        except (binascii.Error, OSError, ValueError, SyntaxError) as error:
            raise Refused(400, "image: not the base64 of an image file") from error
    else:
        raise Refused(400, "image: give the base64 of a file, or lists of pixels")
    if pixels.shape == shape[:2] and shape[2] == 1:
        pixels = pixels[..., None]
    if pixels.shape != tuple(shape):
        raise Refused(400, f"image: shape {list(pixels.shape)}, and the model reads {list(shape)}")
    return pixels
