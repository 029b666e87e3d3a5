"""Augmentation against a loop over images in numpy, and as a pure function of (seed, step)."""

import jax
import numpy as np

from scaling_jax.data.augment import augment, augment_key


def images(dtype=np.uint8):
    return np.random.default_rng(0).integers(1, 256, (64, 16, 12, 3)).astype(dtype)


def test_every_image_is_a_shifted_maybe_mirrored_copy():
    given = images()
    got = np.asarray(jax.jit(augment)(augment_key(0, 3), given))
    assert got.dtype == given.dtype
    assert got.shape == given.shape
    seen = set()
    for image, augmented in zip(given, got):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        matches = [
            (y, x, flip)
            for y in range(5)
            for x in range(5)
            for flip in (1, -1)
            if np.array_equal(padded[y : y + 16, x : x + 12][:, ::flip], augmented)
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert {flip for _, _, flip in seen} == {1, -1}
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(5))


def test_without_flip_and_padding_nothing_changes():
    given = images(np.float32)
    np.testing.assert_array_equal(augment(augment_key(0, 0), given, flip=False, padding=0), given)


def test_pure_function_of_seed_and_step():
    given = images()
    whole = jax.jit(lambda steps: jax.lax.map(lambda s: augment(augment_key(5, s), given), steps))(np.arange(4))
    np.testing.assert_array_equal(whole[2], augment(augment_key(5, 2), given))
    assert (np.asarray(whole[2]) != np.asarray(whole[3])).any()
    assert (np.asarray(augment(augment_key(6, 2), given)) != np.asarray(whole[2])).any()
