"""Augmentation against a loop over images in numpy, and as a pure function of (seed, step)."""

import jax
import numpy as np
import packs

from scaling_jax.data.augment import augment, augment_key
from scaling_jax.planning import Phase
from scaling_jax.training.feed import ResidentFeed


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


class RecordingFeed(ResidentFeed):
    """Reports the key that training hands to every batch."""

    keys: list = []  # noqa: RUF012

    def make_batch(self, arrays, windows_B, key=None):
        if key is not None:
            jax.debug.callback(lambda data: self.keys.append(tuple(data.tolist())), jax.random.key_data(key))
        return super().make_batch(arrays, windows_B, key)


def test_training_uses_the_key_of_its_seed_and_step():
    study = packs.make_study(rates=(0.01,), seeds=(3, 4))
    feed = RecordingFeed(packs.make_dataset())
    program = packs.make_program(study, feed=feed)
    packs.run_phase(program, Phase("branch", 5, 8, 8, 8, 0))
    jax.effects_barrier()
    expected = {(seed, step): augment_key(seed, step) for seed in (3, 4) for step in (5, 6, 7)}
    keys = {place: tuple(jax.random.key_data(key).tolist()) for place, key in expected.items()}
    assert len(set(keys.values())) == 6
    assert set(feed.keys) == set(keys.values())


def test_keys_differ_from_those_that_initialization_draws_from():
    seeds = [tuple(jax.random.key_data(jax.random.key(s)).tolist()) for s in range(4)]
    folded = [
        tuple(jax.random.key_data(jax.random.fold_in(jax.random.key(s), i)).tolist())
        for s in range(4)
        for i in range(64)
    ]
    ours = [tuple(jax.random.key_data(augment_key(s, i)).tolist()) for s in range(4) for i in range(64)]
    assert len({*seeds, *folded, *ours}) == len(seeds) + len(folded) + len(ours)
