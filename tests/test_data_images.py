"""Images: digits from a wheel, Fashion-MNIST from Debian's package, folders of a user (mock pictures)."""

import gzip
import pathlib

import numpy as np
import PIL.Image
import pytest

from scaling_jax import data
from scaling_jax.data.builtin import images as image_sets
from scaling_jax.errors import UserError
from scaling_jax.models import Spec
from scaling_jax.planning import make_plan
from scaling_jax.study import Data
from scaling_jax.study_file import load_study


def load(source, tmp_path, **options):
    return data.load(Data(source=str(source), **options), cache_dir=tmp_path / "cache")


def picture(path, seed, size=(8, 6), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = (3,) if mode == "RGB" else ()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return pixels


def folder(path, classes=("cat", "dog"), count=40, **options):
    return {
        (name, i): picture(path / name / f"{i}.png", hash_of(name, i), **options)
        for name in classes
        for i in range(count)
    }


def hash_of(name, i):
    return sum(name.encode()) * 1000 + i


def test_digits_are_those_of_scikit_learn(tmp_path):
    datasets = pytest.importorskip("sklearn.datasets")
    loaded = load("digits", tmp_path)
    assert loaded.spec == data.describe(Data(source="digits"))
    assert (loaded.spec.vocab_size, loaded.spec.image_shape) == (10, (8, 8, 1))
    assert len(loaded.train) + len(loaded.validation) == 1797
    assert 250 < len(loaded.validation) < 450
    assert loaded.info["leak"] == 0
    assert loaded.info["flip"] is False
    expected = datasets.load_digits()
    known = {
        np.round(image * 255 / 16).astype(np.uint8).tobytes(): y for image, y in zip(expected.images, expected.target)
    }
    for image, label in zip(np.asarray(loaded.train), loaded.train_labels):
        assert known[image.tobytes()] == label


@pytest.mark.skipif(not image_sets.DEBIAN_FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_from_debian(tmp_path, monkeypatch):
    whole = {split: image_sets.fashion_mnist(split) for split in ("train", "test")}
    assert whole["train"][0].shape == (60_000, 28, 28)
    assert np.bincount(whole["test"][1]).tolist() == [1000] * 10
    assert (whole["train"][0] / 255).mean() == pytest.approx(0.286, abs=1e-3)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    loaded = load("fashion_mnist", tmp_path)
    assert loaded.spec == data.describe(Data(source="fashion_mnist"))
    # As TFDS stores it (test_stock_fashion_mnist_is_what_ours_is), and as studies were trained on it.
    assert loaded.dataset_hash == "10c7d58985492d25"
    assert (loaded.train.shape, loaded.validation.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    assert loaded.info["mean"] == pytest.approx([(whole["train"][0] / 255).mean()])
    assert loaded.info["std"] == pytest.approx([(whole["train"][0] / 255).std()])


@pytest.mark.parametrize("damage", ["missing", "no gzip", "truncated", "other images"])
def test_damaged_fashion_mnist(damage, tmp_path, monkeypatch):
    monkeypatch.setattr(image_sets, "DEBIAN_FASHION_MNIST", tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    for stem in ("train", "t10k"):
        for kind, header, size in (
            ("labels-idx1", 8, 3),
            ("images-idx3", 16, 3 * 28 * 28 - (damage == "other images")),
        ):
            content = gzip.compress(bytes(header) + np.random.default_rng(0).bytes(size))
            content = {"no gzip": b"no gzip", "truncated": content[:-20]}.get(damage, content)
            if damage != "missing":
                (tmp_path / f"{stem}-{kind}-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read .*apt-get install --reinstall") as error:
        load("fashion_mnist", tmp_path)
    assert "\n" not in str(error.value)


def test_fashion_mnist_absent_says_both_ways_out(tmp_path, monkeypatch):
    monkeypatch.setattr(image_sets, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "tfds").mkdir()
    with pytest.raises(UserError, match=r"scaling_jax\[prepare\].*apt-get install dataset-fashion-mnist"):
        load("fashion_mnist", tmp_path, data_dir=str(tmp_path / "tfds"))


def test_image_folder_is_divided_by_hash(tmp_path):
    given = folder(tmp_path / "pets")
    loaded = load(tmp_path / "pets", tmp_path)
    assert loaded.spec == data.describe(Data(source=str(tmp_path / "pets")))
    assert (loaded.spec.kind, loaded.spec.vocab_size, loaded.spec.image_shape) == ("images", 2, (8, 6, 3))
    assert loaded.info["classes"] == ["cat", "dog"]
    assert len(loaded.train) + len(loaded.validation) == 80
    assert 1 <= len(loaded.validation) <= 20
    known = {image.tobytes(): ("cat", "dog").index(name) for (name, _), image in given.items()}
    for image, label in zip(np.asarray(loaded.train), loaded.train_labels):
        assert known[image.tobytes()] == label
    capped = load(tmp_path / "pets", tmp_path, unique_tokens=20)
    assert len(capped.train) == len(capped.train_labels) == 20
    assert set(capped.train_labels) == {0, 1}


def test_image_folder_with_train_and_test(tmp_path):
    folder(tmp_path / "pets" / "train", mode="L")
    folder(tmp_path / "pets" / "test", count=3, mode="L")
    loaded = load(tmp_path / "pets", tmp_path)
    assert loaded.train.shape == (80, 8, 6, 1)
    assert loaded.validation.shape == (6, 8, 6, 1)
    assert loaded.info["leak"] == 1.0  # the mock pictures of the two folders are the same


@pytest.mark.parametrize("kind", ["sizes", "broken", "one_class", "more_classes"])
def test_wrong_image_folders(kind, tmp_path):
    path, match = tmp_path / "pets", ""
    folder(path, classes=("cat",) if kind == "one_class" else ("cat", "dog"))
    if kind == "sizes":
        picture(path / "dog" / "large.png", 1, size=(9, 9))
        match = "give all one size first"
    elif kind == "broken":
        (path / "dog" / "broken.png").write_bytes(b"\x89PNG nothing")
        match = "cannot be read"
    elif kind == "one_class":
        match = "at least two"
    else:
        (path / "train").mkdir()
        for name in ("cat", "dog"):
            (path / name).rename(path / "train" / name)
        folder(path / "test", classes=("bird",))
        match = "classes that training does not have: bird"
    with pytest.raises(UserError, match=match) as error:
        load(path, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("present", [True, False])
def test_image_quickstart_says_when_it_is_but_a_smoke_test(present, tmp_path, monkeypatch, capsys):
    for where in ("debian", "tfds"):
        monkeypatch.setattr(image_sets, "DEBIAN_FASHION_MNIST", tmp_path / "debian" / where)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / where))
        if present:
            (tmp_path / where / {"debian": "debian", "tfds": "fashion_mnist"}[where]).mkdir(parents=True)
        study = load_study(pathlib.Path(__file__).parents[1] / "experiments" / "image_quickstart.py")
        said = capsys.readouterr().err
        assert study.data.source == ("fashion_mnist" if present else "digits")
        assert said == "" if present else ("smoke test" in said and "dataset-fashion-mnist" in said)
        assert study.fit.also == ("error",)
        spec = Spec("images", 10, 1, (28, 28, 1) if present else (8, 8, 1))
        assert len({run.run_id for pack in make_plan(study, spec, "d" * 16) for run in pack.runs}) == (
            40 if present else 24
        )
