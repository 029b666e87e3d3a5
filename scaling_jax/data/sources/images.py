"""A user's own images: a folder with one subfolder per class, or such folders under train/ and validation/ (or test/).

Without a validation folder one image in ten, by hash of its path, is held out. All images have one size: resizing is a
decision about the data that nobody should take behind the user's back.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from scaling_jax.data.sources.registry import Reader, Source, no_splits, unit_hash
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data, content_hash

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
VALIDATION_SHARE = 0.1
HELD_OUT_NAMES = ("validation", "val", "test")


def is_one(path: pathlib.Path) -> bool:
    """Whether `path` is a folder whose first visible file below a subfolder is an image."""
    if not path.is_dir():
        return False
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for _, name in zip(range(1), _walk(folder)):
            return name.suffix.lower() in SUFFIXES
    return False


def source(data: Data) -> Source:
    """The images of a folder with one subfolder per class.

    Raises:
      UserError: there are fewer than two classes, or no images, or the first is not readable.
    """
    no_splits(data)
    path = pathlib.Path(data.source).expanduser()
    held_out = next(
        (path / name for name in HELD_OUT_NAMES if (path / "train").is_dir() and (path / name).is_dir()), None
    )
    train = path / "train" if held_out else path
    classes = sorted(p.name for p in train.iterdir() if p.is_dir() and not p.name.startswith("."))
    images = _images(train, classes)
    validation = _images(held_out, classes) if held_out else None
    if len(classes) < 2 or not images or (held_out and not validation):
        raise UserError(
            f"data.source {str(path)!r}: an image folder has one subfolder of images per class, two at least"
        )
    first = _open(images[0][0])
    return Source(
        name="image_folder",
        spec=Spec("images", len(classes), 1, first.shape),
        splits={"train": "train", "validation": held_out.name if held_out else f"by hash, {VALIDATION_SHARE:.0%}"},
        identity={"files": content_hash([_stamp(train, images), _stamp(held_out, validation)])},
        open=lambda root, on_progress: _reader(train, images, validation, first.shape),
        size_hint=len(images) * first.size,
        info={"path": str(path), "classes": classes, "flip": True},
    )


def _reader(
    root: pathlib.Path,
    images: list[tuple[pathlib.Path, int]],
    validation: list[tuple[pathlib.Path, int]] | None,
    shape: tuple[int, int, int],
) -> Reader:
    def chosen(split: str) -> list[tuple[pathlib.Path, int]]:
        if validation is not None:
            return validation if split == "validation" else images
        return [
            (file, label)
            for file, label in images
            if (unit_hash(_name(root, file)) < VALIDATION_SHARE) == (split == "validation")
        ]

    def read(split: str) -> Iterator[Any]:
        for file, label in chosen(split):
            image = _open(file)
            if image.shape != shape:
                raise UserError(
                    f"image {str(file)!r} is {list(image.shape)}, others are {list(shape)}: give all one size first, "
                    "such as `mogrify -resize 32x32^ -gravity center -extent 32x32`"
                )
            yield image, label

    return read


def _images(folder: pathlib.Path, classes: list[str]) -> list[tuple[pathlib.Path, int]]:
    """(file, label) of all images, in the order of the hash of their names: a cap takes a sample of every class."""
    extra = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(classes)
    if extra:
        raise UserError(
            f"image folder {str(folder)!r} has classes that training has not: {', '.join(sorted(extra)[:3])}"
        )
    found = []
    for label, name in enumerate(classes):
        found += [(file, label) for file in _walk(folder / name) if file.suffix.lower() in SUFFIXES]
    return sorted(found, key=lambda item: unit_hash(_name(folder, item[0])))


def _name(root: pathlib.Path, file: pathlib.Path) -> str:
    return file.relative_to(root).as_posix()


def _stamp(root: pathlib.Path | None, images: list[tuple[pathlib.Path, int]] | None) -> list[Any]:
    return [[_name(root, file), file.stat().st_size, file.stat().st_mtime_ns] for file, _ in images or ()]


def _open(file: pathlib.Path) -> np.ndarray:
    """The image as uint8 [H, W, C]: one channel for greyscale, else three."""
    import PIL.Image

    try:
        with PIL.Image.open(file) as image:
            grey = image.mode in ("1", "L", "LA", "I", "I;16")
            return np.atleast_3d(np.asarray(image.convert("L" if grey else "RGB")))
    except (OSError, PIL.UnidentifiedImageError) as error:
        raise UserError(f"image {str(file)!r} cannot be read: repair it or move it away") from error


def _walk(path: pathlib.Path) -> Iterator[pathlib.Path]:
    for directory, folders, files in os.walk(path):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (pathlib.Path(directory, file) for file in sorted(files) if not file.startswith("."))
