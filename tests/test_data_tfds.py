"""TFDS names: prepared data is read without TensorFlow, and what cannot be had is said in one line, soon.

Mock data: a builder of this file, and a stock builder's download cache seeded with a small text.
"""

import importlib.util
import io
import json
import multiprocessing
import shutil
import socket

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.download import checksums, resource

from scaling_jax import data
from scaling_jax.data.builtin import images as image_sets
from scaling_jax.data.sources import tfds_prepare
from scaling_jax.errors import UserError
from scaling_jax.study import Data


class MockPictures(tfds.core.GeneratorBasedBuilder):
    """Random 6x5 RGB images in three classes; the configuration adds a wrong label to a split."""

    BUILDER_CONFIGS = (
        tfds.core.BuilderConfig(name="right", version="1.2.3"),
        tfds.core.BuilderConfig(name="wrong", version="1.2.3"),
    )

    def _info(self):
        features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(40), "test": self._generate_examples(10)}

    def _generate_examples(self, count):
        rng = np.random.default_rng(count)
        for i in range(count):
            buffer = io.BytesIO()
            PIL.Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(buffer, "PNG")
            label = -1 if self.builder_config.name == "wrong" and i == 7 else i % 3
            yield i, {"image": buffer.getvalue(), "label": label}


class MockLines(tfds.core.GeneratorBasedBuilder):
    """Texts in a single split, each with a number."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"number": np.int64, "text": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(200)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"number": i, "text": f"this is the text of record number {i:05d}, é\0"}


class MockNumbers(MockLines):
    """Neither text nor images."""

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"number": np.int64}))

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"number": i}


@pytest.fixture
def prepared(tmp_path):
    """Prepares a mock builder as array_record and gives the folder."""

    def prepare(name):
        tfds.builder(name, data_dir=tmp_path, file_format="array_record").download_and_prepare()
        return tmp_path

    return prepare


@pytest.fixture
def no_tensorflow():
    """Skips where TensorFlow is installed: it cannot be hidden from those who found it at import."""
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("TensorFlow is installed")


def load(source, data_dir, cache, **options):
    return data.load(Data(source=source, data_dir=str(data_dir), **options), cache_dir=cache)


def test_images_by_name_version_and_directory(prepared, tmp_path):
    folder = prepared("mock_pictures/right")
    loaded = load("mock_pictures", folder, tmp_path / "cache")
    assert loaded.spec == data.describe(Data(source="mock_pictures", data_dir=str(folder)))
    assert (loaded.spec.kind, loaded.spec.vocab_size, loaded.spec.image_shape) == ("images", 3, (6, 5, 3))
    assert loaded.train.shape == (40, 6, 5, 3)
    assert loaded.validation.shape == (10, 6, 5, 3)
    assert loaded.info["leak"] == 0
    builder = tfds.builder("mock_pictures", data_dir=folder)
    for i, example in enumerate(builder.as_data_source("train")):
        np.testing.assert_array_equal(loaded.train[i], example["image"])
        assert loaded.train_labels[i] == example["label"]
    assert loaded.info["mean"] == pytest.approx((np.asarray(loaded.train) / 255).mean((0, 1, 2)).tolist())
    assert loaded.info["std"] == pytest.approx((np.asarray(loaded.train) / 255).std((0, 1, 2)).tolist())
    again = load("mock_pictures/right:1.2.3", folder, tmp_path / "cache")
    direct = data.load(Data(source=str(folder / "mock_pictures" / "right" / "1.2.3")), cache_dir=tmp_path / "cache")
    assert loaded.dataset_hash == again.dataset_hash == direct.dataset_hash
    part = load("mock_pictures", folder, tmp_path / "cache", split="train[:10]", validation_split="train[30:]")
    assert (len(part.train), len(part.validation)) == (10, 10)
    assert part.dataset_hash != loaded.dataset_hash


def test_text_without_validation_split_is_divided(prepared, tmp_path):
    loaded = load("mock_lines", prepared("mock_lines"), tmp_path / "cache")
    validation, train = bytes(loaded.validation).split(b"\0")[:-1], bytes(loaded.train).split(b"\0")[:-1]
    assert (len(validation), len(train)) == (4, 196)
    assert len({*validation, *train}) == 200
    assert "record number 00000, é".encode() in b"".join([*validation, *train])


def test_reading_needs_no_tensorflow(prepared, tmp_path, no_tensorflow):
    folder = prepared("mock_pictures/right")
    assert len(load("mock_pictures", folder, tmp_path / "cache").train) == 40


def test_stock_builder_from_a_seeded_download_cache(tmp_path, monkeypatch, no_tensorflow):
    for url, info in tfds.builder("bool_q", data_dir=tmp_path).url_infos.items():
        path = tmp_path / "downloads" / "bool_q" / resource.get_dl_fname(url, info.checksum)
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"question": "is it?", "answer": True, "title": "a title", "passage": f"from {info.filename}, number "}
        lines = (json.dumps(row | {"passage": f"{row['passage']}{i}"}) for i in range(50))
        path.write_text("\n".join(lines))
        seeded = {"urls": [url], "original_fname": info.filename, "url_info": checksums.UrlInfo.asdict(info)}
        path.with_suffix(path.suffix + ".INFO").write_text(json.dumps(seeded))
    monkeypatch.setattr(tfds_prepare, "unreachable", lambda url: pytest.fail("asked the network"))
    loaded = load("bool_q", tmp_path, tmp_path / "cache")
    assert loaded.info["documents"] == {"validation": 50, "train": 50}
    assert loaded.info["source"] == "bool_q/1.0.0"
    assert b"from dev.jsonl, number 7\0" in bytes(loaded.validation)
    assert b"from train.jsonl, number 7\0" in bytes(loaded.train)


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        ("fashon_mnist", {}, "nearest: fashion_mnist"),
        ("qqxyzzy", {}, "nearest: python_sources"),
        ("c4/english", {}, "nearest: en"),
        ("c4/en:9.9.9", {}, "cannot be loaded at version"),
        ("not a name!", {}, "builder name"),
        ("mock_lines", {"split": "trian"}, "no split 'trian'; its splits: train"),
        ("mock_lines", {"split": "train[nonsense"}, "no split"),
        ("mock_lines", {"validation_split": "train[5:5]"}, r"split 'train\[5:5\]' is empty"),
        ("mock_numbers", {}, "neither labeled images nor plain text; its features: number"),
        ("mock_pictures/wrong", {}, "label -1 in split"),
        ("imagenet2012", {}, "imagenet_resized"),
    ],
)
def test_wrong_name_split_or_feature(source, options, match, prepared, tmp_path):
    if source.startswith("mock"):
        prepared(source)
    with pytest.raises(UserError, match=match) as error:
        load(source, tmp_path, tmp_path / "cache", **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_missing_data_dir(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        data.describe(Data(source="lm1b", data_dir=str(tmp_path / "nowhere")))


def test_not_prepared_and_tensorflow_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not prepared .*TensorFlow: pip install 'scaling_jax\[prepare\]'"):
        load("lm1b", tmp_path, tmp_path / "cache")


def test_not_prepared_and_host_unreachable(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(UserError, match=r"cannot reach www.openslr.org .*connect to the network"):
        load("librispeech_lm", tmp_path, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(tfds_prepare, "PREFLIGHT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert "cannot reach" in tfds_prepare.unreachable(f"http://127.0.0.1:{server.getsockname()[1]}/file")


def test_tfrecord_only_directory(prepared, tmp_path):
    folder = prepared("mock_lines") / "mock_lines" / "1.0.0"
    for path in folder.glob("*.array_record*"):
        path.rename(str(path).replace("array_record", "tfrecord"))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord").replace("ARRAY_RECORD", "TFRECORD"))
    with pytest.raises(UserError, match="prepared only as tfrecord"):
        load("mock_lines", tmp_path, tmp_path / "cache")


def test_missing_record_file(prepared, tmp_path):
    next((prepared("mock_lines") / "mock_lines" / "1.0.0").glob("*train*")).unlink()
    with pytest.raises(UserError, match="lacks 1 of 1 files"):
        load("mock_lines", tmp_path, tmp_path / "cache")


def test_object_store_without_gcsfs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for options in ({"source": "gs://bucket/lm1b/1.1.0"}, {"source": "lm1b", "data_dir": "gs://bucket"}):
        with pytest.raises(UserError, match="pip install gcsfs"):
            data.describe(Data(**options))


def test_object_store_is_copied_before_it_is_read(prepared, tmp_path):
    builder = tfds.builder("mock_lines", data_dir=prepared("mock_lines"))
    local = tfds_prepare.local_copy(builder, ["train"], tmp_path / "copy", lambda *_: None)
    assert len(local.as_data_source("train")) == 200
    assert str(local.data_path).startswith(str(tmp_path / "copy"))


def test_disk_too_small(prepared, tmp_path, monkeypatch):
    folder = prepared("mock_pictures/right")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 100}))
    with pytest.raises(UserError, match="SCALING_JAX_CACHE"):
        load("mock_pictures", folder, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.bin"))


@pytest.mark.slow
@pytest.mark.skipif(
    not image_sets.DEBIAN_FASHION_MNIST.is_dir(), reason="needs `apt-get install dataset-fashion-mnist`"
)
def test_stock_fashion_mnist_is_what_ours_is(tmp_path):
    pytest.importorskip("tensorflow", reason="the stock builder is prepared with TensorFlow")
    (tmp_path / "stock").mkdir()
    for url, info in tfds.builder("fashion_mnist", data_dir=tmp_path / "stock").url_infos.items():
        if "fashion-mnist" in url:
            path = tmp_path / "stock" / "downloads" / "fashion_mnist" / resource.get_dl_fname(url, info.checksum)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image_sets.DEBIAN_FASHION_MNIST / url.rpartition("/")[2], path)
            seeded = {"urls": [url], "original_fname": path.name, "url_info": checksums.UrlInfo.asdict(info)}
            path.with_suffix(path.suffix + ".INFO").write_text(json.dumps(seeded))
    tfds.builder("fashion_mnist", data_dir=tmp_path / "stock", file_format="array_record").download_and_prepare()
    stock = load("fashion_mnist", tmp_path / "stock", tmp_path / "cache")
    ours = load("fashion_mnist", tmp_path / "cache", tmp_path / "cache")
    assert stock.dataset_hash == ours.dataset_hash


def test_splits_of_a_built_in(tmp_path):
    pytest.importorskip("sklearn")
    part = load("digits", tmp_path, tmp_path / "cache", split="train[:100]", validation_split="train[100:150]")
    assert (len(part.train), len(part.validation)) == (100, 50)
    assert part.dataset_hash == "f2ff02969b9ae1ed"  # of the records that TFDS wrote and read
    whole = load("digits", tmp_path, tmp_path / "cache")
    both = load("digits", tmp_path, tmp_path / "cache", split="train[90%:]+validation")
    np.testing.assert_array_equal(both.train[-len(whole.validation) :], whole.validation)
    np.testing.assert_array_equal(both.train[0], whole.train[-(len(both.train) - len(whole.validation))])
    with pytest.raises(UserError, match=r"digits/1.0.0 has no split 'test'; its splits: train, validation"):
        load("digits", tmp_path, tmp_path / "cache", validation_split="test")
    with pytest.raises(UserError, match=r"split 'train\[5:5\]' is empty"):
        load("digits", tmp_path, tmp_path / "cache", validation_split="train[5:5]")


def test_built_in_images_are_in_the_order_of_tfds(tmp_path):
    shuffler = shuffle.Shuffler(tmp_path, "train")
    for i in range(300):
        shuffler.add(i, str(i).encode())
    assert [int(number) for _, number in shuffler] == image_sets.shuffled("train", 300).tolist()


def _prepare_in_process(arguments):
    folder, cache, context = arguments
    return load("digits", folder, cache, split=f"train[:{context}]").dataset_hash


@pytest.mark.slow
def test_different_parts_of_one_builder_at_once(tmp_path):
    pytest.importorskip("sklearn")
    parts = [(tmp_path, tmp_path / "cache", count) for count in (100, 101, 102)]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(set(pool.map(_prepare_in_process, parts))) == 3
