"""Maps (seed, step) to the windows of a batch: a pure function, with no state to save.

A flat array of tokens is cut into non-overlapping windows: window i covers tokens [i T, i T + T], T + 1 of them, the
last being only a target. Every epoch visits every window once, in its own order. For images a window is an image.

grain's `index_shuffle` computes the same kind of permutation one index per call; batches are gathered on the device by
whole tables of indices, so the permutation here is vectorized, and also needs no memory.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np

ROUNDS = 8
BLOCK = 1 << 16  # windows computed at once, so that they stay in the processor's cache
# Larger files are read instead of mapped: touched pages of a mapping count as the process's memory.
MAPPED_BYTES = 256 << 20


def count_windows(num_tokens: int, context: int) -> int:
    """Windows of `context` tokens and their shifted targets that fit into `num_tokens`."""
    return max(0, (num_tokens - 1) // context)


def window_starts(seed: int, first_step: int, num_steps: int, batch_size: int, num_windows: int) -> np.ndarray:
    """Windows of the batches of steps first_step, ..., first_step + num_steps - 1.

    Position b of step s is number g = s batch_size + b of an endless sequence whose every run of `num_windows` is a
    permutation of all windows; g // num_windows is its epoch. Any step is computed without the steps before it.

    Args:
      seed: of the order; each epoch of each seed has its own.
      first_step: step of row 0.
      num_steps: rows.
      batch_size: columns.
      num_windows: number of windows (`Dataset.num_train_windows`).

    Returns:
      Window numbers (window i starts at token i x context), int32 [num_steps, batch_size]; int64 beyond 2^31 windows.

    Raises:
      ValueError: a size below 1 or a negative seed or step.
    """
    if min(num_steps, batch_size, num_windows) < 1 or min(seed, first_step) < 0:
        raise ValueError(
            f"need num_steps, batch_size, num_windows >= 1 and seed, first_step >= 0, got "
            f"{num_steps=}, {batch_size=}, {num_windows=}, {seed=}, {first_step=}"
        )
    first, count = first_step * batch_size, num_steps * batch_size
    out = np.empty(count, np.int32 if num_windows <= 2**31 else np.int64)
    done = 0
    while done < count:
        epoch, position = divmod(first + done, num_windows)
        take = min(count - done, num_windows - position, BLOCK)
        out[done : done + take] = _permuted(seed, epoch, position, take, num_windows)
        done += take
    return out.reshape(num_steps, batch_size)


def epochs(step: int, batch_size: int, num_windows: int) -> float:
    """Epochs of the data after `step` steps: 1.0 is every window once."""
    return step * batch_size / num_windows


def validation_windows(num_windows: int, examples: int) -> np.ndarray:
    """The fixed validation set of every run: `examples` evenly spaced windows, or all if there are fewer.

    Returns:
      Window numbers, ascending and distinct, int32 [min(examples, num_windows)] (int64 beyond 2^31 windows).
    """
    count = min(examples, num_windows)
    starts = np.arange(count, dtype=np.int64) * num_windows // max(count, 1)
    return starts.astype(np.int32 if num_windows <= 2**31 else np.int64)


def gather(tokens: Any, starts: Any, context: int) -> Any:
    """Windows of a flat device-resident array of tokens; to be called under `jax.jit`.

    Args:
      tokens: unsigned integers [num_tokens].
      starts: window numbers [...], from `window_starts` or `validation_windows`.
      context: T, static.

    Returns:
      int32 [..., T + 1]: inputs are [..., :-1], targets [..., 1:].

    Raises:
      ValueError: the array is too long for 32-bit offsets.
    """
    import jax.numpy as jnp

    if tokens.shape[0] > 2**31 - 1:
        raise ValueError(f"{tokens.shape[0]} tokens on one device exceed 32-bit offsets: use `stream`")
    offsets = jnp.asarray(starts, jnp.int32)[..., None] * context + jnp.arange(context + 1, dtype=jnp.int32)
    return jnp.asarray(tokens).at[offsets].get(mode="promise_in_bounds").astype(jnp.int32)


def stream(
    dataset: Any,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    num_steps: int | None = None,
    *,
    rows: slice | np.ndarray = slice(None),
    threads: int = 2,
    prefetch: int = 16,
) -> Iterator[Any]:
    """The training batches of steps first_step, first_step + 1, ... for data that does not fit on the device.

    Element s is the batch of step first_step + s, with the windows of `window_starts`, as on the device path. grain's
    threads read `prefetch` batches ahead; one element of the grain data set is one batch.

    Args:
      dataset: a `Dataset`.
      seed: of the order.
      batch_size: windows (images) per step, over all processes.
      first_step: where to begin or to resume.
      num_steps: number of batches; endless by default.
      rows: this process's part of every batch, a slice or row numbers.
      threads: number of reading threads.
      prefetch: batches read ahead.

    Yields:
      int32 [B, T + 1] for tokens, {"image": uint8 [B, H, W, C], "label": int32 [B]} for images.
    """
    import grain

    stop = 2**62 if num_steps is None else first_step + num_steps
    source: Any = BatchSource(dataset, seed, batch_size, rows, stop)
    batches = grain.MapDataset.source(source)[first_step:]
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)))


class BatchSource:
    """Random access to batches by step: a data source in the sense of grain."""

    def __init__(
        self, dataset: Any, seed: int, batch_size: int, rows: Any = slice(None), num_steps: int = 2**62
    ) -> None:
        self._dataset, self._num_steps = dataset, num_steps
        # The windows of many steps cost little more than those of one.
        self._block = max(1, BLOCK // batch_size)

        @functools.lru_cache(maxsize=4)
        def starts(block: int) -> np.ndarray:
            table = window_starts(seed, block * self._block, self._block, batch_size, dataset.num_train_windows)
            return table[:, rows]

        self._starts = starts
        if dataset.spec.kind == "tokens":
            self._read = _reader(dataset.train, dataset.spec.context, dataset.spec.context + 1)
        else:
            pixels = int(np.prod(dataset.train.shape[1:]))
            self._read = _reader(dataset.train, pixels, pixels)

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, record_key: SupportsIndex) -> Any:
        """The batch of step `record_key`, which is the name that grain's protocol has for it."""
        block, row = divmod(int(record_key), self._block)
        starts = self._starts(block)[row]
        records = self._read(starts)
        if self._dataset.spec.kind == "tokens":
            return records.astype(np.int32)
        shape = (len(starts), *self._dataset.train.shape[1:])
        return {"image": records.reshape(shape), "label": self._dataset.train_labels[starts]}


def _reader(array: np.ndarray, stride: int, length: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from record numbers [B] to [B, length]; record i is items i stride, ..., i stride + length - 1."""
    item, dtype = array.dtype.itemsize, array.dtype
    if array.nbytes <= MAPPED_BYTES or not isinstance(array, np.memmap):
        shape, strides = ((array.size - length) // stride + 1, length), (stride * item, item)
        records = np.lib.stride_tricks.as_strided(np.asarray(array), shape, strides, writeable=False)
        return lambda numbers: records[numbers]
    file, pread = open(str(array.filename), "rb"), os.pread  # noqa: SIM115  closed with the last reference to `read`

    def read(numbers: np.ndarray) -> np.ndarray:
        descriptor = file.fileno()
        offsets = (numbers.astype(np.int64) * (stride * item)).tolist()
        parts = b"".join([pread(descriptor, length * item, offset) for offset in offsets])
        return np.frombuffer(parts, dtype).reshape(len(numbers), length)

    return read


def _permuted(seed: int, epoch: int, position: int, count: int, size: int) -> np.ndarray:
    """Elements position, ..., position + count - 1 of the permutation of range(size) of (seed, epoch)."""
    bits = max(1, (size - 1).bit_length())
    dtype = np.uint32 if bits <= 32 else np.uint64
    keys = np.random.SeedSequence([seed, epoch]).generate_state(2 * ROUNDS, dtype)
    values = _mix(np.arange(position, position + count, dtype=dtype), keys, bits)
    # Cycle walking: values beyond `size` are mixed again until they are below it; at worst half of them are.
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _mix(values[outside], keys, bits)
        outside = outside[values[outside] >= size]
    return values


def _mix(x: np.ndarray, keys: np.ndarray, bits: int) -> np.ndarray:
    """A bijection of the integers below 2^bits: rounds of xor-shift and odd multiply-add, each invertible."""
    mask, shift = x.dtype.type((1 << bits) - 1), x.dtype.type((bits + 1) // 2)
    for add, multiply in keys.reshape(ROUNDS, 2):
        x = (x + add) * (multiply | x.dtype.type(1)) & mask
        x ^= x >> shift
    return x
