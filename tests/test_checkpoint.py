"""Checkpoints come back bit by bit, on any mesh, or not at all: what is damaged is noticed and the one before taken."""

import os
import pathlib
import random
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling_jax.errors import UserError
from scaling_jax.training.checkpoint import PackCheckpoints, Position
from scaling_jax.training.fingerprint import fingerprint
from scaling_jax.training.program import make_mesh

P = jax.sharding.PartitionSpec


def states(mesh_shape=(1, 1, 1), lanes=3, sequential=False, seed=0):
    """Groups of lanes as LaneProgram holds them: padded to the run axis, `w` split over fsdp; and how they lie."""
    mesh = make_mesh(jax.devices()[: np.prod(mesh_shape)], mesh_shape)
    run = mesh_shape[0]
    places = -(-lanes // run) * run
    per_group = run if sequential else places
    specs = {"w": P("run", None, "fsdp"), "count": P("run"), "diverged_step": P("run")}
    shardings = {name: jax.NamedSharding(mesh, spec) for name, spec in specs.items()}

    def lane(i):
        rng = np.random.default_rng((seed, min(i, lanes - 1)))
        frozen = 0 if i >= lanes else -1
        return {"w": rng.normal(size=(5, 4)).astype("f4"), "count": np.int32(i), "diverged_step": np.int32(frozen)}

    def group(first):
        stacked = jax.tree.map(lambda *x: np.stack(x), *(lane(i) for i in range(first, first + per_group)))
        return {name: jax.device_put(stacked[name], shardings[name]) for name in stacked}

    groups = tuple(group(first) for first in range(0, places, per_group))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), groups)
    return groups, like


def position(number, phase=0):
    return Position(phase, number, number, (1.5, 1 / 3))


def opened(folder, keep_latest=2, keep=(), lanes=3):
    return PackCheckpoints(folder, keep_latest, keep, lanes)


def assert_equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def lanes_of(groups, lanes=3):
    whole = jax.tree.map(lambda *x: np.concatenate(x), *jax.device_get(groups))
    return {name: x[:lanes] for name, x in whole.items()}, {name: x[lanes:] for name, x in whole.items()}


def test_restores_bit_by_bit_with_and_without_a_branch(tmp_path):
    trunk, like = states(seed=1)
    branch, _ = states(seed=2)
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(like, 9) is None
        checkpoints.save(position(20), trunk, None)
        checkpoints.save(position(40, phase=1), trunk, branch)
    with opened(tmp_path / "c") as checkpoints:
        at, got_trunk, got_branch = checkpoints.restore(like, 9)
        assert at == position(40, phase=1)
        assert_equal(got_trunk, trunk)
        assert_equal(got_branch, branch)
        assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(got_trunk), jax.tree.leaves(like)))
        at, got_trunk, got_branch = checkpoints.restore(like, 0)  # the later phase builds on a result that is missing
        assert at == position(20)
        assert got_branch is None


MESHES = [((1, 1, 1), False), ((1, 1, 1), True), ((2, 1, 1), False), ((4, 1, 1), True), ((2, 1, 2), False)]


@pytest.mark.parametrize(("there", "there_sequential"), MESHES)
def test_restores_on_other_meshes(tmp_path, there, there_sequential):
    for number, (here, sequential) in enumerate(MESHES):
        saved, _ = states(here, sequential=sequential)
        wanted, like = states(there, sequential=there_sequential)
        with opened(tmp_path / str(number)) as checkpoints:
            checkpoints.save(position(1), saved, saved)
            checkpoints.wait()
            _, trunk, branch = checkpoints.restore(like, 9)
        for got in (trunk, branch):
            lanes, padding = lanes_of(got)
            assert_equal(lanes, lanes_of(wanted)[0])
            assert (padding["diverged_step"] == 0).all()
            assert (padding["w"] == lanes["w"][-1:]).all()
            assert jax.tree.map(lambda x: (x.shape, x.sharding), got) == jax.tree.map(
                lambda x: (x.shape, x.sharding), like
            )


def test_keeps_the_latest_and_those_it_was_told_to(tmp_path):
    trunk, _ = states()
    for numbers in ((10, 20, 30), (40, 50)):  # a new process keeps what the one before kept
        with opened(tmp_path / "c", keep_latest=2, keep={20, 60}) as checkpoints:
            for number in numbers:
                checkpoints.save(position(number), trunk, None)
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir() if p.name.isdigit()) == [20, 40, 50]


def test_a_number_that_is_there_is_not_saved_again(tmp_path):
    first, like = states(seed=1)
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(position(10), first, None)
        checkpoints.wait()
        checkpoints.save(position(10), states(seed=2)[0], None)
        assert_equal(checkpoints.restore(like, 9)[1], first)


DAMAGES = ("truncate", "empty", "zeros", "remove", "flip", "flip")


def damage(path: pathlib.Path, kind: str, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if kind == "remove":
        path.unlink()
        return
    if kind == "truncate":
        data = data[: len(data) // 2]
    elif kind == "empty":
        data = bytearray()
    elif kind == "zeros":
        data = bytearray(len(data))
    elif data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


@pytest.mark.slow
def test_damage_anywhere_is_noticed_or_harmless(tmp_path):
    # Whatever happens to whichever file of the newest checkpoint, a restore gives its bits or those of the one before.
    older, like = states(lanes=8, seed=1)
    newer, _ = states(lanes=8, seed=2)
    with opened(tmp_path / "c", lanes=8) as checkpoints:
        checkpoints.save(position(10), older, None)
        checkpoints.save(position(20, phase=1), newer, newer)
    paths = sorted(p.relative_to(tmp_path / "c") for p in (tmp_path / "c" / "20").rglob("*") if p.is_file())
    assert len(paths) > 20
    rng, fallbacks = random.Random(0), 0
    for path in paths:
        for kind in DAMAGES:
            copy = tmp_path / "copy"
            shutil.copytree(tmp_path / "c", copy / "c")
            damage(copy / "c" / path, kind, rng)
            with opened(copy / "c", lanes=8) as checkpoints:
                at, trunk, branch = checkpoints.restore(like, 9)
                if at == position(20, phase=1):
                    assert_equal((trunk, branch), (newer, newer))
                else:
                    fallbacks += 1
                    assert at == position(10), (path, kind)
                    assert_equal(trunk, older)
            shutil.rmtree(copy)
    assert fallbacks > 40


def test_an_unreadable_checkpoint_is_set_aside_and_its_number_is_free_again(tmp_path, caplog):
    older, like = states(seed=1)
    newer, _ = states(seed=2)
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(position(10), older, None)
        checkpoints.save(position(20), newer, None)
    for path in (tmp_path / "c" / "20" / "trunk").rglob("manifest.ocdbt"):
        path.write_bytes(b"torn")
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(like, 9)[0] == position(10)
        assert "20 is unreadable" in caplog.text
        assert "falling back to the one before" in caplog.text
        assert (tmp_path / "c.unreadable" / "20" / "trunk").is_dir()
        checkpoints.save(position(20), newer, None)
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(like, 9)[0] == position(20)
    for number in (10, 20):
        (tmp_path / "c" / str(number) / "position" / "metadata").unlink()
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(like, 9) is None  # from the beginning, then


def test_what_is_not_damage_stops_instead_of_falling_back(tmp_path, monkeypatch):
    trunk, like = states()
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(position(10), trunk, None)
        checkpoints.wait()
        other = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape, 2), x.dtype, sharding=x.sharding), like)
        with pytest.raises(UserError, match="other arrays than this version trains"):
            checkpoints.restore(other, 9)
        with monkeypatch.context() as patch:
            for error in (ValueError("RESOURCE_EXHAUSTED: out of memory"), MemoryError()):

                def fail(*args, error=error, **kwargs):
                    raise error

                patch.setattr(checkpoints._manager, "restore", fail)
                with pytest.raises(type(error)):
                    checkpoints.restore(like, 9)
        assert checkpoints.restore(like, 9)[0] == position(10)


def test_a_save_that_was_killed_leaves_nothing(tmp_path):
    trunk, like = states()
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(position(10), trunk, None)
    torn = tmp_path / "c" / "20.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "c" / "10", torn)
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(like, 9)[0] == position(10)
        checkpoints.save(position(20), trunk, None)
    assert not torn.exists()


def test_packs_save_side_by_side(tmp_path):
    # Orbax counts operations per process; its managers must not mix up each other's folders.
    trunk, like = states()
    errors = []

    def save(name):
        try:
            with opened(tmp_path / name) as checkpoints:
                for number in range(1, 16):
                    checkpoints.save(position(number), trunk, trunk if number % 2 else None)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for name in ("a", "b", "c"):
        with opened(tmp_path / name) as checkpoints:
            at, got, _ = checkpoints.restore(like, 9)
            assert at == position(15)
            assert_equal(got, trunk)


def test_a_failed_save_is_raised_and_what_was_saved_before_stands(tmp_path, monkeypatch):
    trunk, like = states()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), opened(tmp_path / "c") as checkpoints:
        checkpoints.save(position(10), trunk, None)
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", full)
            checkpoints.save(position(20), trunk, None)
            checkpoints.wait()
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(like, 9)[0] == position(10)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_fingerprint_sees_every_bit_and_no_sharding(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 2, (6, 8)), dtype)
    bits = np.asarray(x).view(np.uint8).reshape(-1)
    seen = {int(fingerprint({"x": x}))}
    for place in range(0, bits.size, 7):
        for bit in range(1 if dtype == "bool" else 8):
            flipped = bits.copy()
            flipped[place] ^= 1 << bit
            seen.add(int(fingerprint({"x": flipped.view(np.asarray(x).dtype).reshape(x.shape)})))
    assert len(seen) == 1 + len(range(0, bits.size, 7)) * (1 if dtype == "bool" else 8)
    swapped = jnp.concatenate([x[1:], x[:1]])
    assert int(fingerprint((x, swapped))) != int(fingerprint((swapped, x)))
    mesh = make_mesh(jax.devices(), (2, 1, 2))
    spread = jax.device_put(x, jax.NamedSharding(mesh, P("run", "fsdp")))
    assert int(fingerprint({"x": spread})) == int(fingerprint({"x": x}))
