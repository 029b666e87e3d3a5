"""Checkpoints come back bit by bit, on any mesh, or not at all: what is damaged is noticed and the one before taken."""

import importlib
import os
import pathlib
import random
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from scaling_jax.errors import UserError
from scaling_jax.planning import branch_name
from scaling_jax.training import fingerprint as fingerprints
from scaling_jax.training.checkpoint import TRUNK, PackCheckpoints, Saved
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


def saved(step, state):
    return Saved(step, 1.5, 1 / 3, state)


def opened(folder, keep_latest=2, forks=(), lanes=3):
    return PackCheckpoints(folder, keep_latest, forks, [f"lane{i}" for i in range(lanes)])


def assert_equal(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def lanes_of(groups, lanes=3):
    whole = jax.tree.map(lambda *x: np.concatenate(x), *jax.device_get(groups))
    return {name: x[:lanes] for name, x in whole.items()}, {name: x[lanes:] for name, x in whole.items()}


def test_restores_trunk_and_branches_bit_by_bit(tmp_path):
    trunk, like = states(seed=1)
    branch, _ = states(seed=2)
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(TRUNK, like) is None
        for step, state in ((20, trunk), (30, branch), (40, trunk)):
            checkpoints.save(TRUNK, saved(step, state))
        checkpoints.save(branch_name(50), saved(45, branch))
    with opened(tmp_path / "c") as checkpoints:
        got = checkpoints.restore(TRUNK, like)
        assert (got.step, got.trunk_seconds, got.branch_seconds) == (40, 1.5, 1 / 3)
        assert_equal(got.state, trunk)
        assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(got.state), jax.tree.leaves(like)))
        got = checkpoints.restore(branch_name(50), like)
        assert got.step == 45
        assert_equal(got.state, branch)
        assert checkpoints.restore(branch_name(60), like) is None
        assert checkpoints.restore(TRUNK, like, until=39).step == 30
        assert checkpoints.restore(TRUNK, like, after=30, until=39) is None


def test_lanes_are_restored_by_their_identity(tmp_path, caplog):
    trunk, _ = states(lanes=3)
    with opened(tmp_path / "c", lanes=3) as checkpoints:
        checkpoints.save(TRUNK, saved(10, trunk))
    _, like = states((2, 1, 1), lanes=2)
    with PackCheckpoints(tmp_path / "c", 2, (), ["lane2", "lane0"]) as checkpoints:
        lanes, _ = lanes_of(checkpoints.restore(TRUNK, like).state, 2)
    whole, _ = lanes_of(trunk)
    assert_equal(lanes, {name: x[[2, 0]] for name, x in whole.items()})
    caplog.set_level("INFO")
    with PackCheckpoints(tmp_path / "c", 2, (), ["lane0", "other"]) as checkpoints:
        assert checkpoints.restore(TRUNK, like) is None
        assert "is of other runs" in caplog.text
        other, like = states(lanes=2, seed=5)
        checkpoints.save(TRUNK, saved(10, other))  # beside one that cannot serve
        checkpoints.wait()
        assert_equal(checkpoints.restore(TRUNK, like).state, other)


MESHES = [((1, 1, 1), False), ((1, 1, 1), True), ((2, 1, 1), False), ((4, 1, 1), True), ((2, 1, 2), False)]


@pytest.mark.parametrize(("there", "there_sequential"), MESHES)
def test_restores_on_other_meshes(tmp_path, there, there_sequential):
    for number, (here, sequential) in enumerate(MESHES):
        here_states, _ = states(here, sequential=sequential)
        wanted, like = states(there, sequential=there_sequential)
        with opened(tmp_path / str(number)) as checkpoints:
            checkpoints.save(TRUNK, saved(1, here_states))
            checkpoints.save(branch_name(9), saved(1, here_states))
            checkpoints.wait()
            restored = [checkpoints.restore(part, like).state for part in (TRUNK, branch_name(9))]
        for got in restored:
            lanes, padding = lanes_of(got)
            assert_equal(lanes, lanes_of(wanted)[0])
            assert (padding["diverged_step"] == 0).all()
            assert (padding["w"] == lanes["w"][-1:]).all()
            assert jax.tree.map(lambda x: (x.shape, x.sharding), got) == jax.tree.map(
                lambda x: (x.shape, x.sharding), like
            )


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_keeps_forks_and_the_latest_on_the_way_to_the_next(tmp_path):
    trunk, _ = states()
    for numbers in ((10, 20, 30), (40, 50)):  # a new process keeps what the one before kept
        with opened(tmp_path / "c", keep_latest=2, forks={20, 60}) as checkpoints:
            for number in numbers:
                checkpoints.save(TRUNK, saved(number, trunk))
    assert steps(tmp_path / "c" / TRUNK) == [20, 40, 50]
    with opened(tmp_path / "c", keep_latest=1, forks={20, 55, 60}) as checkpoints:
        checkpoints.save(TRUNK, saved(60, trunk))
        checkpoints.save(TRUNK, saved(52, trunk))  # an earlier fork that was not there, trained after a later one
    assert steps(tmp_path / "c" / TRUNK) == [20, 52, 60]


def test_of_a_finished_branch_only_its_end_is_kept(tmp_path):
    branch, _ = states()
    with opened(tmp_path / "c") as checkpoints:
        for number in (10, 20, 30, 40):
            checkpoints.save(branch_name(40), saved(number, branch))
    assert steps(tmp_path / "c" / "branch-40") == [40]


def test_a_number_that_is_there_is_not_saved_again(tmp_path):
    first, like = states(seed=1)
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(TRUNK, saved(10, first))
        checkpoints.wait()
        checkpoints.save(TRUNK, saved(10, states(seed=2)[0]))
        assert_equal(checkpoints.restore(TRUNK, like).state, first)


DAMAGES = ("truncate", "empty", "zeros", "remove", "flip", "flip")


def test_saving_does_not_ask_for_preemption(tmp_path, monkeypatch):
    """JAX agrees on a number above all that any process has asked with: a step would put the stop off for hours."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step) or False)
    state, _ = states()
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(TRUNK, saved(1000, state))
    assert steps(tmp_path / "c" / TRUNK) == [1000]
    assert asked == []


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
        checkpoints.save(TRUNK, saved(10, older))
        checkpoints.save(TRUNK, saved(20, newer))
    paths = sorted(p.relative_to(tmp_path / "c") for p in (tmp_path / "c" / TRUNK / "20").rglob("*") if p.is_file())
    assert 12 < len(paths) <= 18  # docs/operations.md counts them; how many hold the arrays depends on timing
    rng, fallbacks = random.Random(0), 0
    for path in paths:
        for kind in DAMAGES:
            copy = tmp_path / "copy"
            shutil.copytree(tmp_path / "c", copy / "c")
            damage(copy / "c" / path, kind, rng)
            with opened(copy / "c", lanes=8) as checkpoints:
                got = checkpoints.restore(TRUNK, like)
                fallbacks += got.step == 10
                assert_equal(got.state, newer if got.step == 20 else older)
                assert (got.trunk_seconds, got.branch_seconds) == (1.5, 1 / 3)
            shutil.rmtree(copy)
    assert fallbacks > 25


def test_an_unreadable_checkpoint_is_set_aside_and_its_number_is_free_again(tmp_path, caplog):
    older, like = states(seed=1)
    newer, _ = states(seed=2)
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(TRUNK, saved(10, older))
        checkpoints.save(TRUNK, saved(20, newer))
    for path in (tmp_path / "c" / TRUNK / "20").rglob("manifest.ocdbt"):
        path.write_bytes(b"torn")
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(TRUNK, like).step == 10
        assert "20 is unreadable" in caplog.text
        assert "falling back to the one before" in caplog.text
        assert (tmp_path / "c.unreadable" / "trunk-20" / "state").is_dir()
        checkpoints.save(TRUNK, saved(20, newer))
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(TRUNK, like).step == 20
    for number in (10, 20):
        (tmp_path / "c" / TRUNK / str(number) / "head" / "metadata").unlink()
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(TRUNK, like) is None  # from the beginning, then


def test_what_is_not_damage_stops_instead_of_falling_back(tmp_path, monkeypatch):
    trunk, like = states()
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(TRUNK, saved(10, trunk))
        checkpoints.wait()
        other = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape, 2), x.dtype, sharding=x.sharding), like)
        with pytest.raises(UserError, match="other arrays than this version trains"):
            checkpoints.restore(TRUNK, other)
        with monkeypatch.context() as patch:
            for error in (ValueError("RESOURCE_EXHAUSTED: out of memory"), MemoryError()):

                def fail(*args, error=error, **kwargs):
                    raise error

                patch.setattr(checkpoints._manager(TRUNK), "restore", fail)
                with pytest.raises(type(error)):
                    checkpoints.restore(TRUNK, like)
        assert checkpoints.restore(TRUNK, like).step == 10


def test_a_save_that_was_killed_leaves_nothing(tmp_path):
    trunk, like = states()
    with opened(tmp_path / "c") as checkpoints:
        checkpoints.save(TRUNK, saved(10, trunk))
    torn = tmp_path / "c" / TRUNK / "20.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "c" / TRUNK / "10", torn)
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(TRUNK, like).step == 10
        checkpoints.save(TRUNK, saved(20, trunk))
    assert not torn.exists()


def test_parts_that_save_at_the_same_time_share_no_barrier(tmp_path, monkeypatch):
    """Orbax's managers wait for the other processes under fixed names: one name twice at once is an error."""
    source = "orbax.checkpoint._src.multihost.multihost"
    named, name_of = [], importlib.import_module(source).unique_barrier_key

    def record(key, **kwargs):
        named.append(name_of(key, **kwargs))
        return named[-1]

    monkeypatch.setattr(f"{source}.unique_barrier_key", record)
    state, _ = states()

    def barriers(folder, part):
        with opened(tmp_path / folder) as checkpoints:
            named.clear()
            checkpoints.save(part, saved(20, state))
        return set(named)

    used = [barriers("a", TRUNK), barriers("a", branch_name(50)), barriers("a", branch_name(90)), barriers("b", TRUNK)]
    assert all(any("set_value_start" in name for name in names) for names in used)
    assert len(set.union(*used)) == sum(map(len, used))


def test_packs_save_side_by_side(tmp_path):
    # Orbax counts operations per process; its managers must not mix up each other's folders.
    trunk, like = states()
    errors = []

    def save(name):
        try:
            with opened(tmp_path / name) as checkpoints:
                for number in range(1, 16):
                    checkpoints.save(TRUNK, saved(number, trunk))
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
            got = checkpoints.restore(TRUNK, like)
            assert got.step == 15
            assert_equal(got.state, trunk)


def test_a_failed_save_is_raised_and_what_was_saved_before_stands(tmp_path, monkeypatch):
    trunk, like = states()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"), opened(tmp_path / "c") as checkpoints:
        checkpoints.save(TRUNK, saved(10, trunk))
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", full)
            checkpoints.save(TRUNK, saved(20, trunk))
            checkpoints.wait()
    with opened(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(TRUNK, like).step == 10


@pytest.fixture(params=["host", "devices"])
def place(request, monkeypatch):
    """Where fingerprints are taken: by NumPy, as on a CPU, or by programs, as on accelerators and by several hosts."""
    if request.param == "devices":
        monkeypatch.setattr(fingerprints, "_on_this_host", lambda x: False)


@pytest.mark.usefixtures("place")
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


@pytest.mark.usefixtures("place")
def test_fingerprint_is_what_it_always_was():
    """Another value would set every checkpoint of earlier versions aside as damaged."""
    rng = np.random.default_rng(0)
    large = fingerprints.BLOCK // 2 + 1  # more than a block in all
    tree = {"a": rng.normal(size=(3, 4)), "b": np.arange(3), "c": np.int32(7), "d": rng.normal(size=(3, large, 2))}
    tree = jax.tree.map(lambda x: jnp.asarray(x, jnp.int32 if np.ndim(x) < 2 else jnp.float32), tree)

    def mix(bits):
        bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
        bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
        return bits ^ (bits >> 16)

    expected = 0
    for number, x in enumerate(jax.tree.leaves(tree)):
        place = np.arange(x.size, dtype=np.uint32) + np.uint32(number * 0x9E3779B9 % 2**32)
        expected += int(mix(np.asarray(x).reshape(-1).view(np.uint32) ^ mix(place)).sum(dtype=np.uint32))
    assert int(fingerprint(tree)) == expected % 2**32
