"""Sources of our own TFDS builders: prepared on first use, without TensorFlow, below the cache folder."""

from __future__ import annotations

import pathlib
from typing import Any

from scaling_jax.data.cache import Progress
from scaling_jax.data.sources.registry import Reader, Source
from scaling_jax.models.family import Spec
from scaling_jax.study import Data


def source(
    builder: str,
    data: Data,
    *,
    name: str,
    spec: Spec,
    disk_mb: int,
    validation: str = "validation",
    info: dict[str, Any] | None = None,
    **options: Any,
) -> Source:
    """The source of the class `builder` of `scaling_jax.data.builders`, which imports TFDS only when it is opened.

    Args:
      builder: name of the class.
      data: the study's data.
      name, spec, info: as in `Source`; the name determines what is read.
      disk_mb: what records and arrays take, rounded up.
      validation: the builder's split to validate on.
      **options: of the class.
    """

    train, held_out = data.split, data.validation_split or validation

    def open_(root: pathlib.Path, on_progress: Progress) -> Reader:
        from scaling_jax.data.builtin import builders
        from scaling_jax.data.sources import tfds as tfds_names
        from scaling_jax.data.sources import tfds_prepare as prepare

        made = getattr(builders, builder)(data_dir=root / "tfds", on_progress=on_progress, **options)
        if not made.is_prepared():
            prepare.prepare(made, root, on_progress)
        tfds_names.check_split(made, train)
        tfds_names.check_split(made, held_out)
        return tfds_names.reader(made, train, held_out, spec)

    return Source(
        name=name,
        spec=spec,
        splits={"train": train, "validation": held_out},
        identity={},
        open=open_,
        tokenizer=data.tokenizer if spec.kind == "tokens" else None,
        disk_hint=disk_mb * 10**6,
        info=info or {},
    )
