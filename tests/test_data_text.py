"""A user's own text and the built-in Python sources: materialized once, split without leaks, wrong input one line."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

from scaling_jax import data
from scaling_jax.data import overlap as leak
from scaling_jax.data.builtin import python_sources
from scaling_jax.errors import UserError
from scaling_jax.study import Data

WORDS = ["the", "law", "of", "a", "small", "model", "tells", "what", "large", "one", "will", "do", "when", "more"]


def prose(seed: int, size: int) -> str:
    """Lines of random words: mock text, different in every line."""
    rng = np.random.default_rng(seed)
    return "".join(" ".join(rng.choice(WORDS, 12)) + "\n" for _ in range(size // 50))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "corpus"
    (path / "deep").mkdir(parents=True)
    for i in range(4):
        (path / "deep" / f"{i}.txt").write_text(prose(i, 20_000))
    (path / "picture.png").write_bytes(b"\x89PNG\r\n\0\0\0")
    (path / ".hidden").write_text("not this")
    return path


def load(path, cache, **options):
    return data.load(Data(source=str(path), **options), cache_dir=cache)


def test_folder_becomes_two_disjoint_token_arrays(folder, tmp_path):
    loaded = load(folder, tmp_path / "cache", context=64)
    assert loaded.spec == data.describe(Data(source=str(folder), context=64))
    assert isinstance(loaded.train, np.memmap)
    assert loaded.train.dtype == np.uint8
    size = sum(os.path.getsize(p) for p in folder.rglob("*.txt"))
    separators = sum(loaded.info["documents"].values())
    assert len(loaded.train) + len(loaded.validation) == size + separators
    assert 0.02 < len(loaded.validation) / size < 0.1
    assert loaded.bytes_per_token == 1.0
    assert loaded.unique_tokens == len(loaded.train)
    assert loaded.info["binary_files_skipped"] == 1
    train = set(leak.lines(bytes(loaded.train)))
    assert not train & set(leak.lines(bytes(loaded.validation)))
    assert loaded.info["leak"] == 0
    assert loaded.num_train_windows == (len(loaded.train) - 1) // 64


def test_second_load_maps_the_same_files(folder, tmp_path, monkeypatch):
    first = load(folder, tmp_path / "cache")
    monkeypatch.setattr(data.dataset.materialize.writers, "write_tokens", lambda *_: pytest.fail("made again"))
    again = load(folder, tmp_path / "cache")
    assert again.dataset_hash == first.dataset_hash
    np.testing.assert_array_equal(again.train, first.train)


def test_hash_follows_contents_not_place_or_time(folder, tmp_path):
    first = load(folder, tmp_path / "a")
    moved = folder.rename(tmp_path / "moved")
    os.utime(moved / "deep" / "0.txt", (1, 1))
    assert load(moved, tmp_path / "b").dataset_hash == first.dataset_hash
    assert load(moved, tmp_path / "b", unique_tokens=1000).dataset_hash != first.dataset_hash
    assert load(moved, tmp_path / "b", unique_tokens=10**9).dataset_hash == first.dataset_hash
    with open(moved / "deep" / "0.txt", "a") as file:
        file.write("one more line\n")
    assert load(moved, tmp_path / "b").dataset_hash != first.dataset_hash


def test_cap_on_unique_tokens_takes_the_beginning(folder, tmp_path):
    whole, capped = load(folder, tmp_path), load(folder, tmp_path, unique_tokens=5_000, context=100)
    assert capped.unique_tokens == 5_000
    assert capped.num_train_windows == 49
    np.testing.assert_array_equal(capped.train, whole.train[:5_000])
    np.testing.assert_array_equal(capped.validation, whole.validation)


def test_equal_files_are_kept_once(tmp_path):
    path = tmp_path / "corpus"
    path.mkdir()
    for name in ("a", "b", "c"):
        (path / f"{name}.txt").write_text(prose(0, 60_000))
    loaded = load(path, tmp_path / "cache")
    size = os.path.getsize(path / "a.txt")
    assert len(loaded.train) + len(loaded.validation) == size + sum(loaded.info["documents"].values())
    assert loaded.info["leak"] == 0


def test_single_file_with_endless_lines_is_cut_between_characters(tmp_path):
    path = tmp_path / "one.txt"
    text = "".join(map(chr, np.random.default_rng(0).integers(0x100, 0x2000, 500_000)))
    path.write_text(text)
    loaded = load(path, tmp_path / "cache")
    for split in (loaded.train, loaded.validation):
        assert set(bytes(split).decode()) - {"\0"} <= set(text)


def test_leak_is_the_share_of_validation_lines_in_training():
    check = leak.Check()
    long, other = b"x" * 30, b"y" * 40
    check.validation(b"\n".join([long, b"   " + long, other, b"short"]))
    check.train(b"\t" + long + b"\r\nmore")
    assert check.lines == 3
    assert check.share() == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", ["missing", "empty_folder", "empty_file", "binary", "latin1", "tiny", "forbidden"])
def test_wrong_input_is_one_line(kind, tmp_path):
    path, match = tmp_path / "x.txt", "text"
    if kind == "missing":
        match = "does not exist"
    elif kind == "empty_folder":
        path.mkdir()
        match = "no text files"
    elif kind == "empty_file":
        path.write_text("")
        match = "empty"
    elif kind == "binary":
        path.write_bytes(bytes(range(256)) * 100)
        match = "binary"
    elif kind == "latin1":
        path.write_text(prose(0, 50_000) + "é\n" + prose(1, 50_000), encoding="latin-1")
        match = "not UTF-8"
    elif kind == "tiny":
        path.write_text("too short\n")
        match = "too few"
    elif kind == "forbidden":
        if os.getuid() == 0:
            pytest.skip("root may read everything")
        path.write_text("text")
        path.chmod(0)
        match = "permission"
    with pytest.raises(UserError, match=match) as error:
        load(path, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_unknown_tokenizer(folder, tmp_path):
    with pytest.raises(UserError, match="tokenizer"):
        load(folder, tmp_path, tokenizer="words")


@pytest.mark.parametrize("damage", ["truncate", "flip", "flip_quietly", "remove"])
def test_damaged_arrays_are_found(damage, folder, tmp_path):
    first = load(folder, tmp_path / "cache")
    path = next((tmp_path / "cache").rglob("train.bin"))
    del first
    before = path.stat()
    if damage == "remove":
        path.unlink()
    else:
        with open(path, "r+b") as file:
            if damage == "truncate":
                file.truncate(1000)
            else:
                file.seek(-100 if damage == "flip_quietly" else 70_000, 2 if damage == "flip_quietly" else 0)
                file.write(b"!")
    if damage == "flip_quietly":  # a disk error: the time stamp does not tell
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match="data clear"):
        load(folder, tmp_path / "cache")


def test_touched_arrays_are_verified_and_kept(folder, tmp_path):
    first = load(folder, tmp_path / "cache")
    path = next((tmp_path / "cache").rglob("train.bin"))
    recorded = path.stat().st_mtime_ns
    os.utime(path, ns=(1, 1))
    assert load(folder, tmp_path / "cache").dataset_hash == first.dataset_hash
    assert path.stat().st_mtime_ns == recorded


def _load_in_process(arguments):
    path, cache = arguments
    return load(path, cache).dataset_hash


def test_processes_that_prepare_at_once_agree(folder, tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        hashes = pool.map(_load_in_process, [(folder, tmp_path / "cache")] * 3)
    assert len(set(hashes)) == 1
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_python_sources_skip_tests_vendored_and_generated():
    names = [name for name, _ in python_sources._files()]
    assert len(names) > 1000
    for part in ("/tests/", "/test/", "/_vendor/", "/site-packages/", "_pb2.py"):
        assert not [name for name in names if part in name]


def test_license_header_is_cut_and_other_comments_stay():
    code = b"import os\n"
    assert python_sources._without_license(b"# Copyright 2020 X\n# All rights\n\n" + code) == code
    assert python_sources._without_license(b"#!/bin/python\n# What this does.\n" + code).startswith(b"#!")


@pytest.mark.slow
def test_python_sources_whole(tmp_path):
    spec = data.describe(Data())
    assert (spec.kind, spec.vocab_size, spec.context) == ("tokens", 256, 128)
    loaded = data.load(Data(), cache_dir=tmp_path)
    assert len(loaded.train) > 20e6
    assert len(loaded.validation) > 0.2e6
    assert loaded.info["leak"] < 0.1
    assert b"Licensed under the Apache License" not in bytes(loaded.validation[:100_000])
    assert loaded.dataset_hash == data.load(Data(), cache_dir=tmp_path).dataset_hash


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"context": 100_000}, "longer than the training text|longer than the validation text"),
        ({"split": "train[:10%]"}, "for TFDS names"),
        ({"validation_split": "test"}, "for TFDS names"),
        ({"unique_tokens": 10}, "longer than the training text"),
    ],
)
def test_options_that_do_not_fit(options, match, folder, tmp_path):
    with pytest.raises(UserError, match=match):
        load(folder, tmp_path / "cache", **options)


def test_cache_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").write_text("a file where the cache should be")
    with pytest.raises(UserError, match="SCALING_JAX_CACHE"):
        load(folder, tmp_path / "file")


@pytest.mark.parametrize("source", ["python_sources", "english"])
def test_disk_too_small_for_a_built_in_is_said_before_anything_is_written(source, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 20_000_000}))
    with pytest.raises(UserError, match=f"{source}/.* takes about 0.* GB and .* has 0.02 GB free"):
        load(source, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_later_loads_import_nothing_heavy(folder, tmp_path):
    load(folder, tmp_path / "cache")
    code = (
        "import sys; from scaling_jax import data; from scaling_jax.study import Data\n"
        f"data.load(Data(source={str(folder)!r}), cache_dir={str(tmp_path / 'cache')!r}); data.describe(Data())\n"
        "print([m for m in ('tensorflow_datasets', 'grain', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
