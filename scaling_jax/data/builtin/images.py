"""Image sets that need no download: Fashion-MNIST from Debian's package, and scikit-learn's digits, a smoke test."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import os
import pathlib
import zlib
from collections.abc import Iterator

import numpy as np

from scaling_jax.data.sources.source import unit_hash
from scaling_jax.errors import UserError, first_line

DIGITS_VERSION = "1.0.0"
DIGITS_VALIDATION_SHARE = 0.2
DEBIAN_FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


def has_fashion_mnist() -> bool:
    """True if `fashion_mnist` needs no download: Debian's package is installed, or TFDS has it prepared."""
    return DEBIAN_FASHION_MNIST.is_dir() or prepared_fashion_mnist(None).is_dir()


def prepared_fashion_mnist(data_dir: str | None) -> pathlib.Path:
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(folder).expanduser() / "fashion_mnist"


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images uint8 [n, 8, 8] (0..16 scaled to 0..255) and labels [n] of both splits, by hash of the number."""
    path = digits_file()
    with _readable(path, "pip install --force-reinstall scikit-learn"):
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images = np.round(table[:, :64].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    held_out = np.array([unit_hash(f"digits:{i}") < DIGITS_VALIDATION_SHARE for i in range(len(table))])
    return {
        "train": (images[~held_out], table[~held_out, 64]),
        "validation": (images[held_out], table[held_out, 64]),
    }


def digits_file() -> pathlib.Path:
    spec = importlib.util.find_spec("sklearn")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        path = pathlib.Path(place, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return path
    raise UserError("data.source 'digits' comes with scikit-learn: pip install scikit-learn")


def fashion_mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, 28, 28] and labels [n] of "train" or "test", from the files of Debian's package.

    Raises:
      UserError: a file is missing or damaged.
    """
    stem = {"train": "train", "test": "t10k"}[split]
    with _readable(DEBIAN_FASHION_MNIST, "apt-get install --reinstall dataset-fashion-mnist"):
        labels = _idx(f"{stem}-labels-idx1-ubyte.gz", header=8)
        return _idx(f"{stem}-images-idx3-ubyte.gz", header=16).reshape(len(labels), 28, 28), labels


@contextlib.contextmanager
def _readable(path: pathlib.Path, way: str) -> Iterator[None]:
    """Turns the errors of missing and damaged files into a UserError."""
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UserError(f"data in {str(path)!r} cannot be read ({first_line(error)}): {way}") from error


def _idx(name: str, header: int) -> np.ndarray:
    with gzip.open(DEBIAN_FASHION_MNIST / name) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def shuffled(split: str, count: int) -> np.ndarray:
    """The numbers below `count` in the order in which TFDS stores examples that have these keys: by hash."""
    keys = [hashlib.md5(f"{split}{i}".encode()).digest() for i in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__))
