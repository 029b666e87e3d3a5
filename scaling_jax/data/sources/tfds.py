"""Any dataset of TensorFlow Datasets, read without TensorFlow once it is prepared as array_record (or parquet)."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from scaling_jax.data import tokenizers
from scaling_jax.data.cache import Progress
from scaling_jax.data.sources import tfds_prepare
from scaling_jax.data.sources.registry import registered
from scaling_jax.data.sources.source import Reader, Source
from scaling_jax.errors import UserError, first_line
from scaling_jax.models.family import Spec
from scaling_jax.storage.paths import is_remote
from scaling_jax.study import Data

TEXT_KEYS = ("text", "content", "document", "article", "passage", "sentence")
# Mirrored, these are other characters.
CHARACTERS = ("mnist", "emnist", "kmnist", "svhn_cropped", "omniglot", "binary_alpha_digits")
HELD_OUT = 50  # where there is no validation split, one record in this many


def source(data: Data) -> Source:
    """The TFDS dataset that `data.source` names: "name", "name/config" or "name/config:version", or its directory.

    Raises:
      UserError: there is no such dataset, configuration, version or split, it is neither text nor images of one size,
        or it is prepared in a format that only TensorFlow reads.
    """
    builder = find(data.source, data.data_dir)
    with _one_line(f"data.source {data.source!r}"):
        if builder.is_prepared():
            return prepared(builder, data)
        name, kind = builder.info.full_name, spec(builder, data)
    return Source(
        name=name,
        spec=kind,
        splits={},
        identity={},
        open=None,
        prepare=lambda root, on_progress: prepared(tfds_prepare.prepare(builder, root, on_progress), data),
    )


def prepared(builder: tfds.core.DatasetBuilder, data: Data) -> Source:
    """The source of a builder that is prepared."""
    check_format(builder)
    train, validation = splits(builder, data)
    kind = spec(builder, data)
    infos = builder.info.splits
    used = {train, validation} - {None}

    def open_(root: pathlib.Path, on_progress: Progress) -> Reader:
        local = builder
        if is_remote(os.fspath(builder.data_path)):
            local = tfds_prepare.local_copy(builder, used, root, on_progress)
        return reader(local, train, validation)

    return Source(
        name=builder.info.full_name,
        spec=kind,
        splits={"train": train, "validation": validation or f"every {HELD_OUT}th record of {train}"},
        identity={
            "directory": os.fspath(builder.data_path),
            "shards": {name: [info.num_bytes, *info.shard_lengths] for name, info in sorted(infos.items())},
        },
        open=open_,
        tokenizer=data.tokenizer if kind.kind == "tokens" else None,
        size_hint=sum(size_of(builder, info, kind) for info in (infos[name] for name in used)),
        info={"data_dir": os.fspath(builder.data_path)}
        | ({"flip": builder.name not in CHARACTERS} if kind.kind == "images" else {}),
    )


def find(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """The builder of a TFDS name or directory, prepared or not.

    Raises:
      UserError: there is none; the message names the nearest ones.
    """
    if data_dir is not None:
        check_data_dir(data_dir)
    try:
        # TFDS prints a banner where TensorFlow is missing.
        with tfds_prepare.without_notices(), contextlib.redirect_stdout(io.StringIO()):
            if is_remote(name):
                tfds_prepare.check(name)
                return tfds.builder_from_directory(name)
            if os.path.isdir(os.path.expanduser(name)):
                return tfds.builder_from_directory(os.path.expanduser(name))
            import tensorflow_datasets.text  # noqa: F401  registers c4, wiki40b, wikipedia and others

            return tfds.builder(name, data_dir=data_dir)
    except UserError:
        raise
    except tfds.core.DatasetNotFoundError:
        known = dict.fromkeys([*registered(), *tfds.list_builders(with_community_datasets=False)])
        base = name.partition("/")[0].partition(":")[0]
        near = difflib.get_close_matches(base.lower(), known, 3, 0.5) or list(registered())
        raise UserError(
            f"data.source {name!r} not found: no such file, folder, registered source or TFDS dataset; nearest: "
            f"{', '.join(near)}"
        ) from None
    except Exception as error:
        raise UserError(f"data.source {name!r}: {_reason(error, name)}") from error


def check_data_dir(data_dir: str) -> None:
    """Raises UserError when the folder to look for prepared data in cannot be reached."""
    if is_remote(data_dir):
        tfds_prepare.check(data_dir)
    elif not os.path.isdir(os.path.expanduser(data_dir)):
        raise UserError(f"data.data_dir {data_dir!r} is not a folder: create it, or leave it out for TFDS's default")


def _reason(error: Exception, name: str) -> str:
    """TFDS's error in one line; for an unknown configuration the nearest ones."""
    base, _, config = name.partition(":")[0].partition("/")
    if config and "BuilderConfig" in str(error):
        known = list(tfds.builder_cls(base).builder_configs)
        near = difflib.get_close_matches(config, known, 3, 0.3) or known[:3]
        return f"{base} has no configuration {config!r}; nearest: {', '.join(near) or 'it has none'}"
    if isinstance(error, ImportError) and "tensorflow" in str(error):
        return "this dataset's code needs TensorFlow: pip install 'scaling_jax[prepare]'"
    return re.sub(r"^Failed to construct dataset .*?}\": ", "", first_line(error))


def check_format(builder: tfds.core.DatasetBuilder) -> None:
    """Raises UserError unless the prepared files are there and can be read without TensorFlow."""
    formats = {item.value for item in builder.info.available_file_formats()}
    if not formats & {"array_record", "parquet"}:
        raise UserError(
            f"{builder.info.full_name} in {os.fspath(builder.data_path)!r} is prepared only as "
            f"{', '.join(sorted(formats)) or 'an unknown format'}, which needs TensorFlow to read: convert it with "
            "`python -m tensorflow_datasets.scripts.convert_format`, or set data.data_dir to array_record data"
        )
    for name, info in builder.info.splits.items():
        missing = [path for path in info.filepaths if not path.exists()]
        if missing:
            raise UserError(
                f"{builder.info.full_name}: split {name!r} lacks {len(missing)} of {len(info.filepaths)} files, such "
                f"as {os.fspath(missing[0])!r}: prepare or copy it again"
            )


def splits(builder: tfds.core.DatasetBuilder, data: Data) -> tuple[str, str | None]:
    """(train, validation) in TFDS's split language; validation is None when training records are held out for it.

    Raises:
      UserError: there is no such split, or it is empty.
    """
    have = builder.info.splits
    validation = data.validation_split
    if validation is None:
        validation = next((s for s in ("validation", "test") if s in have and s != data.split), None)
    for split in filter(None, (data.split, validation)):
        check_split(builder, split)
    if validation is None and have[data.split].num_examples < 2:
        raise UserError(f"{builder.info.full_name}: a single record cannot be divided; set data.validation_split")
    return data.split, validation


def check_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Raises UserError when a prepared builder has no such split, or it is empty."""
    name, have = builder.info.full_name, builder.info.splits
    with _known(name, split, have):
        count = have[split].num_examples
    if not count:
        raise UserError(f"{name}: split {split!r} is empty")


def places(name: str, counts: Mapping[str, int], split: str) -> list[tuple[str, slice]]:
    """Where the records are that TFDS's split language names, as (split, slice of its records).

    Args:
      name: of the data, for messages.
      counts: records of every split.
      split: such as "train[:10%]+test".

    Raises:
      UserError: there is no such split.
    """
    infos = {key: tfds.core.SplitInfo(name=key, shard_lengths=[n], num_bytes=0) for key, n in counts.items()}
    with _known(name, split, counts):
        found = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    return [(part.splitname, slice(part.from_, part.to)) for part in found]


@contextlib.contextmanager
def _known(name: str, split: str, have: Collection[str]) -> Iterator[None]:
    """Turns TFDS's errors about a split into a UserError."""
    try:
        yield
    except Exception as error:
        names = ", ".join(sorted(have)) or "none"
        raise UserError(f"{name} has no split {split!r}; its splits: {names}") from error


def spec(builder: tfds.core.DatasetBuilder, data: Data) -> Spec:
    """Images with labels where it has both, else text.

    Raises:
      UserError: it has neither, or the images have no common size.
    """
    features: Any = builder.info.features
    if keys := image_keys(features):
        shape = features[keys[0]].shape
        if None in shape or features[keys[0]].np_dtype != np.uint8:
            raise UserError(
                f"{builder.info.full_name}: images of shape {shape} and {np.dtype(features[keys[0]].np_dtype).name} "
                "cannot be batched; use a set of one size and uint8, such as imagenet_resized/32x32"
            )
        return Spec("images", features[keys[1]].num_classes, 1, tuple(shape))
    text_key(builder)
    return Spec("tokens", tokenizers.vocab_size(data.tokenizer), data.context)


def image_keys(features: Any) -> tuple[str, str] | None:
    """The features that are image and label, or None."""
    images = [key for key, f in features.items() if isinstance(f, tfds.features.Image)]
    labels = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
    if not images or not labels:
        return None
    return "image" if "image" in images else images[0], "label" if "label" in labels else labels[0]


def text_key(builder: tfds.core.DatasetBuilder) -> str:
    """The feature that is the text."""
    features: Any = builder.info.features
    texts = [key for key, f in features.items() if isinstance(f, tfds.features.Text)]
    if len(texts) == 1:
        return texts[0]
    for key in TEXT_KEYS:
        if key in texts:
            return key
    has = ", ".join(f"{key} ({type(f).__name__})" for key, f in features.items())
    raise UserError(f"{builder.info.full_name} is neither labeled images nor plain text; its features: {has}")


def size_of(builder: tfds.core.DatasetBuilder, info: Any, kind: Spec) -> int:
    """Bytes that a split, or a part of one, will take as an array; an upper estimate for text."""
    if kind.kind == "images":
        return info.num_examples * int(np.prod(kind.image_shape or ()))
    whole = builder.info.splits[getattr(info, "name", "").partition("[")[0] or "train"]
    return int(whole.num_bytes * info.num_examples / max(1, whole.num_examples))


def _text(value: Any, dataset: str, key: str) -> bytes:
    """A record's text, empty if it is missing; byte 0 separates documents, so it is removed from inside them."""
    if not isinstance(value, bytes | None):
        raise UserError(f"data.source {dataset!r}: feature {key!r} is {type(value).__name__}, not text")
    return (value or b"").replace(b"\0", b"")


def reader(builder: tfds.core.DatasetBuilder, train: str, validation: str | None) -> Reader:
    """Reads a prepared builder on a local disk; without a validation split every 50th record is held out.

    TFDS has shuffled the records by the hash of their keys, so every 50th is a division by hash.
    """

    def read(split: str) -> Iterator[Any]:
        as_data_source: Any = builder.as_data_source
        records = as_data_source(validation if split == "validation" and validation else train)
        indices = np.arange(len(records))
        if validation is None:
            indices = indices[(indices % HELD_OUT == 0) == (split == "validation")]
        examples = _examples(records, indices, builder.info.full_name)
        if keys := image_keys(builder.info.features):
            return ((example[keys[0]], int(example[keys[1]])) for example in examples)
        key = text_key(builder)
        return (text for example in examples if (text := _text(example[key], builder.info.full_name, key)))

    return read


def _examples(records: Any, indices: np.ndarray, name: str) -> Iterator[dict[str, Any]]:
    for chunk in range(0, len(indices), 256):
        with _one_line(f"records of {name} (copy or prepare them again)"):
            examples = records.__getitems__(indices[chunk : chunk + 256].tolist())
        yield from examples


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns the errors of TFDS and its record readers, which are of many types, into a UserError; no notices."""
    try:
        with tfds_prepare.without_notices():
            yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be read: {first_line(error)}") from error
