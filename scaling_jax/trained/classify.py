"""Classes of images by a trained model, and a contact sheet of what it says."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from scaling_jax.data.resolve import resolve
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Study
from scaling_jax.trained.models import TrainedModel
from scaling_jax.training.feed import PIXEL_MEAN, PIXEL_STD

CELL, CAPTION, COLUMNS = 72, 14, 8  # pixels of an image and of the line below it; images to the row
RIGHT, WRONG, INK, PAPER = (26, 127, 75), (179, 38, 30), (34, 34, 34), (255, 255, 255)
BATCH = 256


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of an image.

    Attributes:
      label: number of the most probable class.
      name: of that class.
      probability: of that class.
      probabilities: of all classes, [K].
    """

    label: int
    name: str
    probability: float
    probabilities: np.ndarray


def need_images(study: Study, spec: Spec) -> None:
    """Raises UserError for models of text."""
    if spec.kind != "images":
        raise UserError(f"the models of study {study.name!r} read text: use scaling-jax sample")


class Classifier:
    """Classifies images with one model.

    Example:
      Classifier(models.load("w16-d1"))(images_NxHxWxC)[0].name

    Args:
      trained: a model of images.

    Raises:
      UserError: a model of text, or one without logits.
    """

    def __init__(self, trained: TrainedModel):
        need_images(trained.study, trained.spec)
        self.trained, self.names = trained, class_names(trained)
        self._probabilities = trained.logits  # compiles at the first image

    def __call__(self, images_NxHxWxC: Any) -> list[Prediction]:
        """One prediction per image, uint8 as data sets hold them.

        Raises:
          UserError: images of another shape.
        """
        images = np.asarray(images_NxHxWxC)
        if images.shape[1:] != tuple(self.trained.spec.image) or images.dtype != np.uint8:
            raise UserError(
                f"images of shape {list(images.shape[1:])} and type {images.dtype}; the model reads uint8 "
                f"{list(self.trained.spec.image)}"
            )
        found = []
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            size = 1 << (len(part) - 1).bit_length()  # few programs compile
            padded = np.zeros((size, *part.shape[1:]), np.float32)
            padded[: len(part)] = (part.astype(np.float32) / 255.0 - PIXEL_MEAN) / PIXEL_STD
            p_NxK = np.asarray(jax.nn.softmax(self._probabilities(padded), axis=-1))[: len(part)]
            found += [Prediction(int(p.argmax()), self.names[int(p.argmax())], float(p.max()), p) for p in p_NxK]
        return found


def class_names(trained: TrainedModel) -> list[str]:
    """Names of the classes: the folders of a folder of images, else their numbers."""
    try:
        named = resolve(trained.study.data).info.get("classes", ())
    except UserError:  # the data is not here any more
        named = ()
    return (
        [str(name) for name in named]
        if len(named) == trained.spec.vocab_size
        else [str(k) for k in range(trained.spec.vocab_size)]
    )


def contact_sheet(images: Any, found: Sequence[Prediction], labels: Sequence[int] | None = None) -> bytes:
    """A PNG of images, each with its class and probability below; framed green or red where labels are known.

    Args:
      images: uint8 [N, H, W, C].
      found: predictions, in the same order.
      labels: the true classes, or None.
    """
    import PIL.Image
    import PIL.ImageDraw

    rows, columns = -(-len(found) // COLUMNS), min(COLUMNS, len(found))
    step_x, step_y = CELL + 8, CELL + CAPTION + 8
    sheet = PIL.Image.new("RGB", (columns * step_x + 8, rows * step_y + 8), PAPER)
    draw = PIL.ImageDraw.Draw(sheet)
    for i, (pixels, one) in enumerate(zip(np.asarray(images), found)):
        x, y = 8 + i % COLUMNS * step_x, 8 + i // COLUMNS * step_y
        picture = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] != 3 else pixels).convert("RGB")
        sheet.paste(picture.resize((CELL, CELL), PIL.Image.Resampling.NEAREST), (x, y))
        color = INK
        if labels is not None:
            color = RIGHT if one.label == labels[i] else WRONG
            draw.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), outline=color, width=2)
        draw.text((x, y + CELL + 2), f"{one.name[:8]}  {one.probability:.0%}", fill=color)
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()
