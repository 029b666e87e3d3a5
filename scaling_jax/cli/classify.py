"""`scaling-jax classify`: classes of images by a trained model, and a contact sheet."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from absl import flags

from scaling_jax.cli import trained_flags
from scaling_jax.cli.out_file import check_writable
from scaling_jax.data.sources.images import read_image
from scaling_jax.errors import UserError
from scaling_jax.storage.paths import as_path, is_remote, write_atomic
from scaling_jax.trained.classify import Classifier, contact_sheet, need_images
from scaling_jax.trained.scores import dataset_of

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def define_flags() -> None:
    """Defines the flags of `scaling-jax classify`."""
    trained_flags.define_flags()
    flags.DEFINE_list("images", [], "Image files, or folders of them; default images of the validation set.")
    flags.DEFINE_integer("count", 32, "So many of the validation set.", lower_bound=1, upper_bound=10_000)
    flags.DEFINE_string("out", None, "A .png for the contact sheet.")


def main(args: list[str], values: Any) -> int:
    """Prints a line per image; returns the exit code."""
    if values.out:
        if not values.out.endswith(".png"):
            raise UserError(f"--out={values.out}: the contact sheet is a .png")
        if not is_remote(values.out):
            check_writable("out", pathlib.Path(as_path(values.out)))
    models = trained_flags.models(args, values)
    need_images(models.study, models.spec)
    labels, files = None, _files(values.images)
    images = np.stack([read_image(file, models.spec.image) for file in files]) if files else None
    classifier = Classifier(models.load(values.scale, values.run_id))
    if images is not None:
        names = [str(file) for file in files]
    else:
        dataset = dataset_of(models, None)
        images = np.asarray(dataset.validation[: values.count])
        assert dataset.validation_labels is not None
        labels = np.asarray(dataset.validation_labels[: values.count]).tolist()
        names = [f"validation {i}" for i in range(len(images))]
    found = classifier(images)
    for i, (name, one) in enumerate(zip(names, found)):
        truth = f"  ({classifier.names[labels[i]]})" if labels and labels[i] != one.label else ""
        print(f"{name}  {one.name}  {one.probability:.3f}{truth}")
    if labels:
        right = sum(one.label == label for one, label in zip(found, labels))
        print(f"{right} of {len(found)} right")
    if values.out:
        write_atomic(as_path(values.out), contact_sheet(images, found, labels))
        print(f"contact sheet: {values.out}")
    return 0


def _files(names: list[str]) -> list[pathlib.Path]:
    """The files, those of folders in order of their names.

    Raises:
      UserError: a folder without images.
    """
    out = []
    for name in names:
        path = pathlib.Path(name).expanduser()
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"--images={name}: no images in this folder")
        out += inside
    return out
