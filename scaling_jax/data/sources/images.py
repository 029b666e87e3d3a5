"""A user's own images: a folder with one subfolder per class, or such folders under train/ and validation/ (or test/).

Without a validation folder one image in ten, by hash of its path, is held out. All images have one size, because how to
resize is the user's decision. Where any image has colors all become RGB, as in torchvision, TFDS and Keras.
"""

from __future__ import annotations

import itertools
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scaling_jax.data.sources.source import Reader, Source, Tally, listed, no_splits, plural, unit_hash, visible_files
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data, content_hash

VERSION = 2  # of the conversion to arrays; cached arrays of another version are not used
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
VALIDATION_SHARE = 0.1
HELD_OUT_NAMES = ("validation", "val", "test")
PROBED = 10_000  # images that are looked at for a color, at most
GRAY = ("1", "L", "LA", "La")
GRAY_16 = ("I", "I;16", "I;16B", "I;16L", "I;16N")
Labeled = list[tuple[pathlib.Path, int]]


def is_image_folder(path: pathlib.Path) -> bool:
    """True for a folder of which the first subfolder with files, or else the folder itself, holds mostly images."""
    if not path.is_dir():
        return False
    visible = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    groups = [list(itertools.islice(visible_files(p), 64)) for p in visible if p.is_dir()]
    first = next((files for files in groups if files), [p for p in visible if p.is_file()])
    return 2 * sum(_is_image(file) for file in first) > len(first)


def source(data: Data) -> Source:
    """The images of a folder with one subfolder per class.

    Raises:
      UserError: there are fewer than two classes, or no images, or the first cannot be read.
    """
    no_splits(data)
    path = pathlib.Path(data.source).expanduser()
    train, held_out = _split_folders(path)
    classes = _subfolders(train)
    others: list[str] = []
    images = _images(train, classes, others)
    validation = _images(held_out, classes, others) if held_out else None
    if len(classes) < 2 or not images or (held_out and not validation):
        flat = sum(_is_image(file) for file in train.iterdir())
        where = f"; {flat} images are directly in {str(train)!r}" if flat else ""
        raise UserError(
            f"data.source {str(path)!r}: an image folder has one subfolder of images per class, at least two{where}: "
            "move the images into folders named after their classes"
        )
    everything = [*images, *(validation or ())]
    channels = 3 if any(_has_color(file) for file, _ in everything[:PROBED]) else 1
    tally = Tally()
    shape = _open(images[0][0], channels, Tally()).shape
    return Source(
        name="image_folder",
        spec=Spec("images", len(classes), 1, shape),
        splits={"train": "train", "validation": held_out.name if held_out else f"by hash, {VALIDATION_SHARE:.0%}"},
        identity={
            "files": content_hash([_stamp(train, images), _stamp(held_out, validation)]),
            "version": VERSION,
        },
        open=lambda root, on_progress: _reader(train, images, validation, shape, tally),
        size_hint=len(everything) * int(np.prod(shape)),
        info={"path": str(path), "classes": classes, "flip": True},
        notes=lambda: _notes(others, len(everything), tally),
    )


def _split_folders(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path | None]:
    """(folder of the training classes, folder of the validation classes or None)."""
    if not (path / "train").is_dir():
        return path, None
    held_out = next((path / name for name in HELD_OUT_NAMES if (path / name).is_dir()), None)
    alone = _subfolders(path) == ["train"] and len(_subfolders(path / "train")) > 1
    return (path / "train", held_out) if held_out or alone else (path, None)


def _subfolders(folder: pathlib.Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _notes(others: Sequence[str], count: int, tally: Tally) -> list[str]:
    notes = [f"left out: {plural(len(others), 'file')} without an image's suffix: {listed(others)}"] if others else []
    return notes + [f"{tally.total(kind)} of {count} images {kind}" for kind in tally.kinds()]


def _reader(
    root: pathlib.Path, images: Labeled, validation: Labeled | None, shape: tuple[int, ...], tally: Tally
) -> Reader:
    def chosen(split: str) -> Labeled:
        if validation is not None:
            return validation if split == "validation" else images
        hashed = sorted((unit_hash(_name(root, file)), file, label) for file, label in images)
        # Among few images chance could leave none to validate on: then the lowest hash.
        limit = max(VALIDATION_SHARE, np.nextafter(hashed[0][0], 1.0))
        return [(file, label) for value, file, label in hashed if (value < limit) == (split == "validation")]

    def read(split: str) -> Iterator[Any]:
        for file, label in chosen(split):
            image = _open(file, shape[-1], tally)
            if image.shape != shape:
                raise UserError(
                    f"image {str(file)!r} is {image.shape[0]}x{image.shape[1]}, others are {shape[0]}x{shape[1]}: give "
                    f"all one size first, such as `mogrify -resize {shape[1]}x{shape[0]}^ -gravity center -extent "
                    f"{shape[1]}x{shape[0]}`"
                )
            yield image, label

    return read


def _images(folder: pathlib.Path, classes: list[str], others: list[str]) -> Labeled:
    """(file, label) of all images, in the order of the hash of their names: a cap takes a sample of every class."""
    if extra := set(_subfolders(folder)) - set(classes):
        raise UserError(
            f"image folder {str(folder)!r} has classes that training does not have: {listed(sorted(extra))}"
        )
    found: Labeled = []
    for label, name in enumerate(classes):
        for file in visible_files(folder / name, others):
            if _is_image(file) and file.exists():
                found.append((file, label))
            else:
                others.append(_name(folder, file))
    return sorted(found, key=lambda item: unit_hash(_name(folder, item[0])))


def _is_image(file: pathlib.Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _name(root: pathlib.Path, file: pathlib.Path) -> str:
    return file.relative_to(root).as_posix()


def _stamp(root: pathlib.Path | None, images: Labeled | None) -> list[Any]:
    if root is None or images is None:
        return []
    stats = [(file, file.stat()) for file, _ in images]
    return [[_name(root, file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def _has_color(file: pathlib.Path) -> bool:
    """True for an image that is stored with colors; its pixels are not read."""
    import PIL.Image

    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(file) as image:
            return image.mode not in (*GRAY, *GRAY_16)
    except Exception:  # PIL raises what its many decoders raise; `_open` reports it
        return False


def read_image(file: pathlib.Path, shape: tuple[int, int, int]) -> np.ndarray:
    """One image as training reads it, uint8 [H, W, C].

    Raises:
      UserError: it cannot be read, or has another shape.
    """
    if not file.is_file():
        raise UserError(f"image {str(file)[:200]!r} is not a file")
    pixels = _open(file, shape[2], Tally())
    if pixels.shape != tuple(shape):
        raise UserError(
            f"image {str(file)!r} has {pixels.shape[1]}x{pixels.shape[0]} pixels and the models read {shape[1]}x"
            f"{shape[0]}: resize it first"
        )
    return pixels


def _open(file: pathlib.Path, channels: int, tally: Tally) -> np.ndarray:
    """The image as uint8 [H, W, channels]; conversions are counted in `tally`."""
    import PIL.Image

    try:
        with warnings.catch_warnings(action="ignore"):
            if file.suffix.lower() == ".png":
                with PIL.Image.open(file) as image:
                    image.verify()  # compares all checksums, which decoding does not
            with PIL.Image.open(file) as image:
                return _pixels(image, file, channels, tally)
    except UserError:
        raise
    except Exception as error:  # PIL raises what its many decoders raise
        reason = " ".join(str(error).replace(str(file), "it").split())[:150]
        raise UserError(
            f"image {str(file)!r} cannot be read ({reason or type(error).__name__}): repair it or move it away"
        ) from error


def _pixels(image: Any, file: pathlib.Path, channels: int, tally: Tally) -> np.ndarray:
    mode = image.mode
    if mode in GRAY_16:
        values = np.asarray(image).astype(np.int64)  # PIL would clip to 255
        if values.min() < 0 or values.max() > 65_535:
            raise UserError(f"image {str(file)!r} has 32-bit pixels: convert it to 8 bits")
        tally.set("had 16 bits per pixel and were reduced to 8", str(file), 1)
        pixels = (values >> 8).astype(np.uint8)[..., None]
    elif mode == "F":
        raise UserError(f"image {str(file)!r} has floating-point pixels: convert it to 8 bits")
    else:
        pixels = np.atleast_3d(np.asarray(image.convert("L" if mode in GRAY else "RGB")))
    if channels == 1 and pixels.shape[-1] == 3:
        raise UserError(
            f"image {str(file)!r} has colors and the first {PROBED:,} images have none: convert all to one kind, "
            "such as `mogrify -colorspace Gray`"
        )
    if channels == 3 and pixels.shape[-1] == 1:
        tally.set("were gray and became RGB", str(file), 1)
        pixels = np.repeat(pixels, 3, axis=-1)
    elif mode == "CMYK":
        tally.set("were CMYK and became RGB", str(file), 1)
    elif mode in ("RGBA", "LA", "La", "PA", "RGBa"):
        tally.set("lost their transparency", str(file), 1)
    return pixels
