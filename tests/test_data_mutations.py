"""Every kind of file that the data room reads back, damaged at random: the right answer or one line, never another.

An answer is right where an independent reader of the format gives the same for the damaged file. Formats without
checksums (text, .npy, .bin, Parquet, JPEG) cannot tell a changed letter from the one that was written.
"""

import bz2
import gzip
import io
import json
import lzma

import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from mutations import mutated, outcome

from scaling_jax.data import cache, tokenizers, writers
from scaling_jax.data.sources import images, text_formats, tokens
from scaling_jax.data.sources import tfds as tfds_source
from scaling_jax.data.sources.source import Tally
from scaling_jax.study import Data

LINES = [f"record {i}: naïve text, {'long ' * (i % 7)}" for i in range(60)]
TOKENS = np.random.default_rng(0).integers(0, 250, 600).astype(np.uint16)


def read_by_hand(function, *args):
    """The result of an independent reader, or None if it fails."""
    try:
        return function(*args)
    except Exception:
        return None


def records_by_hand(content):
    """Texts of JSON lines, by the standard library."""
    found = []
    for line in content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if line.strip(" \t\n\r\x0b\x0c"):
            record = json.loads(line)
            value = next((record[key] for key in ("text", "content") if record.get(key) is not None), None)
            assert "text" in record or "content" in record
            found.append("\n".join(part for part in value if part) if isinstance(value, list) else value)
    return [text.replace("\0", "").encode("utf-8", "replace") for text in found if text]


def text_by_hand(content):
    assert b"\0" not in content
    return content.decode("utf-8-sig").encode()


def zstd_by_hand(content):
    """All frames, each by the one-shot function."""
    import zstandard

    out = b""
    while content:
        frame = zstandard.ZstdDecompressor().decompressobj()
        out += frame.decompress(content)
        assert frame.eof
        content = frame.unused_data
    return out


PLAIN = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
OPENED = {"": bytes, ".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress, ".zst": zstd_by_hand}


@pytest.mark.parametrize("suffix", [*PLAIN, ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".txt"])
@mutated
def test_text(kind, suffix, tmp_path, change):
    zstandard = pytest.importorskip("zstandard")
    compress = (PLAIN | {".zst": zstandard.ZstdCompressor(write_checksum=True).compress})[suffix]
    lines = [json.dumps({"text": line}, ensure_ascii=False) if kind == ".jsonl" else line for line in LINES]
    path = tmp_path / f"a{kind}{suffix}"
    path.write_bytes(change(compress("\n".join(lines).encode())))
    got = outcome(lambda: list(text_formats.documents(path, 100)))
    opened = read_by_hand(OPENED[suffix], path.read_bytes())
    if kind == ".jsonl":
        assert got is None or got == read_by_hand(records_by_hand, opened)
    else:
        assert got is None or b"".join(got) == read_by_hand(text_by_hand, opened)


@mutated
def test_utf_16(tmp_path, change):
    path = tmp_path / "a.txt"
    path.write_bytes(change("\n".join(LINES).encode("utf-16")))
    got = outcome(lambda: list(text_formats.documents(path, 100)))
    marked = text_formats.encoding(path.read_bytes())
    expected = read_by_hand(lambda: path.read_bytes().decode(marked or "utf-8").encode())
    assert got is None or b"".join(got) == expected


@mutated
def test_parquet(tmp_path, change):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": LINES}), buffer)
    path = tmp_path / "a.parquet"
    path.write_bytes(change(buffer.getvalue()))
    got = outcome(lambda: list(text_formats.documents(path, 100)))
    expected = read_by_hand(lambda: pyarrow.parquet.read_table(path)["text"].to_pylist())
    assert got is None or got == [text.replace("\0", "").encode() for text in expected or () if text]


def read_tokens(path):
    reader = tokens.source(Data(source=str(path))).open(path, cache.silent)
    parts = [part for split in ("train", "validation") for part in reader(split)]
    return np.sort(tokenizers.Ready(250).encode_batch(parts)[0])


@mutated
def test_npy(tmp_path, change):
    buffer = io.BytesIO()
    np.save(buffer, TOKENS)
    path = tmp_path / "a.npy"
    path.write_bytes(change(buffer.getvalue()))
    path.with_suffix(".json").write_text('{"vocab_size": 250}')
    got, expected = outcome(read_tokens, path), read_by_hand(np.load, path)
    assert got is None or (got == np.sort(expected)).all()


@mutated
def test_bin(tmp_path, change):
    path = tmp_path / "a.bin"
    path.write_bytes(change(TOKENS.tobytes()))
    path.with_suffix(".json").write_text('{"vocab_size": 250, "dtype": "uint16"}')
    got, expected = outcome(read_tokens, path), read_by_hand(np.fromfile, path, np.uint16)
    assert got is None or (got == np.sort(expected)).all()


@mutated
def test_json_beside_tokens(tmp_path, change):
    path, fields = tmp_path / "a.bin", {"vocab_size": 250, "dtype": "uint16", "bytes_per_token": 4.25}
    path.write_bytes(TOKENS.tobytes())
    path.with_suffix(".json").write_bytes(change(json.dumps(fields).encode()))
    got = outcome(lambda: tokens.source(Data(source=str(path))))
    if got is not None:
        said = json.loads(path.with_suffix(".json").read_bytes())
        assert (got.spec.vocab_size, got.identity["json"]) == (said["vocab_size"], said)
        assert 2 <= got.spec.vocab_size <= tokenizers.MAX_VOCAB


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tiff", ".webp"])
@mutated
def test_images(suffix, tmp_path, change):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    PIL.Image.fromarray(pixels).save(path)
    with PIL.Image.open(path) as image:
        written = np.asarray(image.convert("RGB"))
    path.write_bytes(change(path.read_bytes()))
    got = outcome(images._open, path, 3, Tally())
    if got is not None and suffix == ".png":  # the only one with checksums
        np.testing.assert_array_equal(got, written)
    assert got is None or (got.dtype == np.uint8 and got.shape[-1] == 3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer.json and a sentencepiece model."""
    pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tokenizers")
    made = tokenizers.train(tokenizers.Untrained(300), [line.encode() for line in LINES], folder, cache.silent)
    return made.text.encode()


@mutated
def test_tokenizer_json(trained, tmp_path, change):
    import tokenizers as library

    path = tmp_path / "tokenizer.json"
    path.write_bytes(change(trained))
    made = outcome(tokenizers.make, str(path))
    if made is not None:
        got = outcome(made.encode_batch, [b"record 3: text"])
        whole = library.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        expected = read_by_hand(lambda: whole.encode("record 3: text", add_special_tokens=False).ids)
        assert got is None or got[0][:-1].tolist() == expected
        assert got is None or got[0].max() < made.vocab_size <= tokenizers.MAX_VOCAB


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "text").write_text("\n".join(LINES))
    options = {"vocab_size": 285, "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=str(folder / "text"), model_prefix=str(folder / "m"), **options)
    return (folder / "m.model").read_bytes()


@mutated
def test_sentencepiece_model(sentencepiece_model, tmp_path, change):
    path = tmp_path / "a.model"
    path.write_bytes(change(sentencepiece_model))
    made = outcome(tokenizers.make, str(path))
    if made is not None:
        got = outcome(made.encode_batch, [b"record 3: text"])
        assert got is None or 0 <= got[0].min() <= got[0].max() < made.vocab_size <= tokenizers.MAX_VOCAB


def make_entry(folder):
    folder.mkdir(exist_ok=True)
    TOKENS.tofile(folder / "train.bin")
    part = cache.describe_file(folder / "train.bin", np.uint16, TOKENS.shape, cache.file_sha256(folder / "train.bin"))
    meta = {"name": "x", "bytes_per_token": float("nan"), "files": {"train": part}, "info": {"é": [1, 2.5, None]}}
    cache.write_meta(folder, meta)
    return folder


@mutated
def test_meta_json_of_the_cache(tmp_path, change):
    folder = make_entry(tmp_path / "entry")
    written = cache.open_entry(folder)
    path = folder / "meta.json"
    path.write_bytes(change(path.read_bytes()))
    got = outcome(cache.open_entry, folder)
    assert got is None or json.dumps(got.meta) == json.dumps(written.meta)


@mutated
def test_arrays_of_the_cache(tmp_path, change):
    folder = make_entry(tmp_path / "entry")
    path = folder / "train.bin"
    path.write_bytes(change(path.read_bytes()))
    got = outcome(cache.open_entry, folder)
    assert got is None or (got.arrays["train"] == TOKENS).all()


@mutated
def test_position_of_an_interrupted_write(tmp_path, change):
    """Damaged, it is not resumed from: the file is the same in the end."""
    documents = [line.encode() for line in LINES]
    writer = writers.TokenWriter(tmp_path / "train.bin", tokenizers.Bytes())
    with open(writer.path, "wb") as file:
        writer._append(file, documents[:20])
        writer._save(file)
    writer.state.write_bytes(change(writer.state.read_bytes()))
    again = writers.TokenWriter(tmp_path / "train.bin", tokenizers.Bytes())
    again.write(documents, None, lambda size: None)
    expected = tokenizers.Bytes().encode_batch(documents)[0]
    assert (np.fromfile(writer.path, np.uint8) == expected).all()
    assert (again.documents, again.bytes, again.tokens) == (60, expected.size, expected.size)
    assert (again.counts == np.bincount(expected, minlength=256)).all()


class MutatedLines(tfds.core.GeneratorBasedBuilder):
    """Mock texts."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        return {"train": ((i, {"text": line}) for i, line in enumerate(LINES))}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    tfds.builder("mutated_lines", data_dir=folder, file_format="array_record").download_and_prepare()
    (directory,) = folder.glob("mutated_lines/1.0.0")
    return directory


@pytest.mark.parametrize("name", ["*array_record*", "dataset_info.json", "features.json"])
@mutated
def test_prepared_tfds_directory(name, prepared, change):
    (path,) = prepared.glob(name)
    whole = path.read_bytes()

    def read():
        reader = tfds_source.source(Data(source=str(prepared))).open(prepared, cache.silent)
        return sorted(text for split in ("train", "validation") for text in reader(split))

    try:
        path.write_bytes(change(whole))
        got = outcome(read)
    finally:
        path.write_bytes(whole)
    if name == "*array_record*":
        assert got is None or got == sorted(line.encode() for line in LINES)
