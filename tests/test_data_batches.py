"""Batches are a pure function of (seed, step): every epoch a permutation, any step without those before it."""

import jax
import numpy as np
import pytest

from scaling_jax import data
from scaling_jax.data import batches
from scaling_jax.models.family import Spec


@pytest.mark.parametrize("num_windows", [1, 2, 3, 7, 64, 65, 1000, 70_001])
def test_every_epoch_visits_every_window_once(num_windows):
    epochs = batches.window_starts(5, 0, 3, num_windows, num_windows)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_windows))
    if num_windows >= 64:
        assert (epochs[0] != epochs[1]).mean() > 0.9


@pytest.mark.parametrize(("num_windows", "batch_size"), [(10, 4), (1000, 8), (3, 8), (100_003, 64)])
def test_any_step_is_computed_without_those_before(num_windows, batch_size):
    whole = batches.window_starts(1, 0, 60, batch_size, num_windows)
    assert whole.dtype == np.int32
    for first, count in [(0, 1), (17, 5), (59, 1), (3, 57)]:
        part = batches.window_starts(1, first, count, batch_size, num_windows)
        np.testing.assert_array_equal(part, whole[first : first + count])


def test_order_is_the_same_for_every_batch_size():
    a = batches.window_starts(2, 0, 24, 4, 1000).ravel()
    b = batches.window_starts(2, 0, 6, 16, 1000).ravel()
    np.testing.assert_array_equal(a, b)


def test_order_is_fixed_for_good():
    # A change here changes the data of every run, so that the identities of finished runs would be wrong.
    assert batches.window_starts(0, 0, 2, 4, 1000).tolist() == [[454, 7, 952, 868], [638, 253, 576, 851]]


def test_permutations_are_uniform():
    # Chi-squared of (position, value) counts over seeds: 81 degrees of freedom, so 160 is beyond seven sigma.
    counts = np.zeros((10, 10))
    for seed in range(2000):
        counts[np.arange(10), batches.window_starts(seed, 0, 1, 10, 10)[0]] += 1
    assert ((counts - 200) ** 2 / 200).sum() < 160


def test_neighbours_in_the_order_are_no_neighbours_in_the_data():
    order = batches.window_starts(0, 0, 1, 100_000, 100_000)[0].astype(np.int64)
    steps = np.histogram(np.diff(order) % 100_000, 64, (0, 100_000))[0]
    expected = 99_999 / 64
    assert ((steps - expected) ** 2 / expected).sum() < 63 + 7 * np.sqrt(2 * 63)


def test_seeds_and_large_counts():
    assert (batches.window_starts(0, 0, 1, 512, 2**20) != batches.window_starts(1, 0, 1, 512, 2**20)).mean() > 0.99
    large = batches.window_starts(0, 10**9, 2, 8, 2**34)
    assert large.dtype == np.int64
    assert large.max() > 2**31
    assert large.max() < 2**34


@pytest.mark.parametrize("wrong", [{"num_windows": 0}, {"batch_size": 0}, {"num_steps": 0}, {"seed": -1}])
def test_wrong_sizes_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        batches.window_starts(**{"seed": 0, "first_step": 0, "num_steps": 1, "batch_size": 2, "num_windows": 3} | wrong)


def test_gather_gives_tokens_and_shifted_targets():
    tokens = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
    windows = batches.count_windows(1000, 16)
    assert windows == 62
    starts = batches.window_starts(0, 0, 3, 5, windows)
    got = jax.jit(batches.gather, static_argnums=2)(tokens, starts, 16)
    assert got.shape == (3, 5, 17)
    assert got.dtype == np.int32
    for row, start in zip(got.reshape(-1, 17), starts.ravel()):
        np.testing.assert_array_equal(row, tokens[start * 16 : start * 16 + 17])


def test_count_windows_fits_the_last_target():
    assert [batches.count_windows(n, 4) for n in (0, 1, 4, 5, 8, 9)] == [0, 0, 0, 1, 1, 2]


def test_validation_windows_are_fixed_and_evenly_spaced():
    starts = batches.validation_windows(1000, 10)
    np.testing.assert_array_equal(starts, np.arange(10) * 100)
    np.testing.assert_array_equal(batches.validation_windows(7, 100), np.arange(7))
    assert len(np.unique(batches.validation_windows(999, 998))) == 998


def test_epochs_are_exact():
    assert batches.epochs(step=50, batch_size=4, num_windows=100) == 2.0


def dataset(tmp_path, dtype):
    """A data set of random tokens in a file (mock data)."""
    tokens = np.random.default_rng(1).integers(0, 200, 5_000).astype(dtype)
    tokens.tofile(tmp_path / "train.bin")
    tokens = np.memmap(tmp_path / "train.bin", dtype, mode="r")
    return data.Dataset(Spec("tokens", 256, 16), tokens, tokens, "hash", 1.0, 5_000, {})


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stream_gives_the_batches_of_the_device_path(mapped, dtype, tmp_path, monkeypatch):
    if not mapped:
        monkeypatch.setattr(batches, "MAPPED_BYTES", 0)
    made = dataset(tmp_path, dtype=dtype)
    starts = batches.window_starts(3, 0, 60, 8, made.num_train_windows)
    expected = np.asarray(batches.gather(np.asarray(made.train), starts, 16))
    streamed = list(batches.stream(made, 3, 8, num_steps=60))
    assert streamed[0].dtype == np.int32
    np.testing.assert_array_equal(streamed, expected)
    resumed = batches.stream(made, 3, 8, first_step=50)
    np.testing.assert_array_equal([next(resumed) for _ in range(10)], expected[50:])
    part = next(batches.stream(made, 3, 8, rows=slice(2, 5)))
    np.testing.assert_array_equal(part, expected[0, 2:5])


@pytest.mark.parametrize("mapped", [True, False])
def test_stream_of_images(mapped, tmp_path, monkeypatch):
    if not mapped:
        monkeypatch.setattr(batches, "MAPPED_BYTES", 0)
    np.arange(40, dtype=np.uint8).tofile(tmp_path / "train.bin")
    images = np.memmap(tmp_path / "train.bin", np.uint8, mode="r", shape=(10, 2, 2, 1))
    labels = np.arange(10, dtype=np.int32)
    made = data.Dataset(Spec("images", 10, 1, (2, 2, 1)), images, images, "hash", 1.0, 10, {}, labels, labels)
    batch = next(batches.stream(made, 0, 4, first_step=7))
    starts = batches.window_starts(0, 7, 1, 4, 10)[0]
    np.testing.assert_array_equal(batch["image"], images[starts])
    np.testing.assert_array_equal(batch["label"], labels[starts])
