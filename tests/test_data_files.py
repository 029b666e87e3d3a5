"""A user's files that are not plain text: JSON lines, archives, tokens. Mock data."""

import gzip
import json

import numpy as np
import pytest

from scaling_jax import data
from scaling_jax.data.sources import text_formats
from scaling_jax.errors import UserError
from scaling_jax.study import Data

RECORDS = [f"record {i}: naïve\ntext with a second line {i % 13}" for i in range(300)]


def load(path, tmp_path, **options):
    return data.load(Data(source=str(path), **options), cache_dir=tmp_path / "cache")


def documents(loaded):
    return sorted(part for array in (loaded.train, loaded.validation) for part in bytes(array).split(b"\0")[:-1])


def json_lines(key="text"):
    return "\n".join(json.dumps({"id": i, key: text}) for i, text in enumerate(RECORDS)).encode()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_json_lines(suffix, tmp_path):
    path, content = tmp_path / f"data{suffix}", json_lines("content" if suffix == ".jsonl" else "text")
    if suffix.endswith("gz"):
        content = gzip.compress(content)
    elif suffix.endswith("zst"):
        content = pytest.importorskip("zstandard").compress(content)
    path.write_bytes(content)
    loaded = load(path, tmp_path)
    assert documents(loaded) == sorted(text.encode() for text in RECORDS)
    assert loaded.info["documents"]["validation"] == 15


def test_folder_of_archives_and_text(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(json_lines())
    (folder / "b.txt.gz").write_bytes(gzip.compress(b"plain, compressed\n" * 500, mtime=0))
    loaded = load(folder, tmp_path)
    found = documents(loaded)
    assert {text.encode() for text in RECORDS} <= set(found)
    assert any(text.startswith(b"plain, compressed") for text in found)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": ', "line 2 is not JSON"),
        ("a.jsonl", b'{"text": "fine"}\n{"body": "x"}', "line 2 has no 'text' or 'content'; it has body: rename"),
        ("a.jsonl", b'{"text": "fine"}\n[1]', "line 2 is a list, not an object with a 'text'"),
        ("a.txt.gz", b"no archive", "damaged archive"),
        ("a.txt.gz", gzip.compress(b"text " * 1000, mtime=0)[:40], "damaged archive"),
        ("a.txt.zst", b"no archive", "damaged archive"),
    ],
)
def test_wrong_files(name, content, match, tmp_path):
    if name.endswith("zst"):
        pytest.importorskip("zstandard")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=match) as error:
        load(tmp_path / name, tmp_path)
    assert "\n" not in str(error.value)


def test_zero_bytes_inside_json_text_are_dropped(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a\0b"}) + "\n" + json.dumps({"text": ""}))
    assert list(text_formats.documents(path, 10)) == [b"ab"]


def tokens(count=20_000, vocab=1000, seed=0):
    return np.random.default_rng(seed).integers(0, vocab, count)


@pytest.mark.parametrize("suffix", [".npy", ".bin"])
def test_tokens_with_a_json_beside(suffix, tmp_path):
    path, written = tmp_path / f"train{suffix}", tokens().astype(np.uint16)
    np.save(path, written) if suffix == ".npy" else written.tofile(path)
    described = {"vocab_size": 1000, "bytes_per_token": 3.5}
    path.with_suffix(".json").write_text(json.dumps(described | ({"dtype": "uint16"} if suffix == ".bin" else {})))
    loaded = load(path, tmp_path, context=32)
    assert (loaded.spec.kind, loaded.spec.vocab_size, loaded.spec.context) == ("tokens", 1000, 32)
    assert loaded.bytes_per_token == 3.5
    assert loaded.info["leak"] is None
    assert len(loaded.validation) == pytest.approx(1000, rel=0.1)
    both = np.concatenate([loaded.train, loaded.validation])
    np.testing.assert_array_equal(np.bincount(both, minlength=1000), np.bincount(written, minlength=1000))


def test_tokens_with_a_validation_file(tmp_path):
    train, validation = tokens().astype(np.uint32), tokens(3000, seed=1).astype(np.uint32)
    train.tofile(tmp_path / "train.bin")
    validation.tofile(tmp_path / "val.bin")
    (tmp_path / "train.json").write_text('{"vocab_size": 70000, "dtype": "uint32", "validation": "val.bin"}')
    loaded = load(tmp_path / "train.bin", tmp_path)
    np.testing.assert_array_equal(loaded.train, train)
    np.testing.assert_array_equal(loaded.validation, validation)
    assert loaded.train.dtype == np.uint32
    assert np.isnan(loaded.bytes_per_token)


@pytest.mark.parametrize(
    ("sidecar", "options", "match"),
    [
        (None, {}, "needs 'train.json' beside it"),
        ("{nonsense", {}, "is not JSON"),
        ('{"dtype": "uint16"}', {}, "has no vocab_size"),
        ('{"vocab_size": 1000}', {}, "has no dtype"),
        ('{"vocab_size": 1000, "dtype": "words"}', {}, 'dtype is "words", not an integer type'),
        ('{"vocab_size": 1000, "dtype": "float32"}', {}, 'dtype is "float32", not an integer type'),
        ('{"vocab_size": 1000, "dtype": "uint16", "vocab": 3}', {}, "unknown fields"),
        ('{"vocab_size": 1000, "dtype": "uint16", "validation": "none.bin"}', {}, "cannot be read"),
        ('{"vocab_size": 500, "dtype": "uint16"}', {}, "outside the vocabulary of 500"),
        ('{"vocab_size": 1000, "dtype": "uint16"}', {"tokenizer": "bpe:400"}, "does not match data.tokenizer"),
    ],
)
def test_wrong_tokens(sidecar, options, match, tmp_path):
    tokens().astype(np.uint16).tofile(tmp_path / "train.bin")
    if sidecar is not None:
        (tmp_path / "train.json").write_text(sidecar)
    with pytest.raises(UserError, match=match) as error:
        load(tmp_path / "train.bin", tmp_path, **options)
    assert "\n" not in str(error.value)


def test_missing_token_file(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        data.describe(Data(source=str(tmp_path / "train.bin")))
