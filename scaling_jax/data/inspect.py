"""Prints cached arrays for a person: sizes, hashes, notes, a sample of the text, a contact sheet of the images."""

from __future__ import annotations

import pathlib

import numpy as np

from scaling_jax.data import cache, tokenizers
from scaling_jax.data.dataset import dataset_hash
from scaling_jax.storage import paths

SAMPLE_CHARS = 600
COLUMNS = 16


def text(entry: cache.Entry, cache_dir: str | pathlib.Path | None = None) -> str:
    """Lines about an entry: its source, counts, notes and files, and for text a sample."""
    meta, info = entry.meta, entry.meta["info"]
    lines = [
        f"source        {meta['name']}",
        f"splits        train = {meta['splits']['train']}; validation = {meta['splits']['validation']}",
        f"folder        {entry.directory}",
        f"dataset_hash  {dataset_hash(meta, meta['files']['train']['shape'][0])} (without a cap on unique tokens)",
    ]
    lines += [f"note          {note}" for note in info.get("notes", ())]
    if info.get("leak") is not None:
        what = "images" if meta["kind"] == "images" else "lines (>= 30 characters)"
        lines.append(f"overlap       {info['leak']:.2%} of the validation {what} occur in training")
    if meta["kind"] == "tokens":
        lines += [
            f"tokenizer     {meta['tokenizer']['name']}, vocabulary {meta['tokenizer']['vocab_size']}",
            f"per token     {meta['bytes_per_token']:.3f} bytes; unigram entropy {info['unigram_nats']:.4f} nats",
        ]
    for name, part in meta["files"].items():
        shape = " x ".join(f"{n:,}" for n in part["shape"])
        lines.append(
            f"  {name:<18} {part['dtype']:<6} {shape:<22} {part['bytes'] / 1e6:9.2f} MB  {part['sha256'][:16]}"
        )
    if meta["kind"] == "tokens":
        lines += ["", "beginning of the validation text:", _sample(entry, cache_dir)]
    else:
        counts = info["class_counts"]["train"]
        lines.append(f"classes       {len(counts)}; images per class in training {min(counts)} to {max(counts)}")
    return "\n".join(lines)


def _sample(entry: cache.Entry, cache_dir: str | pathlib.Path | None) -> str:
    tokenizer = tokenizers.stored(entry.meta["tokenizer"], paths.cache_dir(cache_dir))
    tokens = np.asarray(entry.arrays["validation"][:SAMPLE_CHARS])
    if tokenizer is None:
        return f"tokens {tokens[:40].tolist()} ..."
    return tokenizer.decode(tokens).decode("utf-8", "replace").replace("\0", "␀\n")[:SAMPLE_CHARS]


def contact_sheet(entry: cache.Entry, path: pathlib.Path) -> None:
    """Writes a PNG of training images, a row per class (ten classes at most), sixteen to the row."""
    import PIL.Image

    images, labels = entry.arrays["train"], np.asarray(entry.arrays["train_labels"])
    height, width, channels = images.shape[1:]
    classes = np.unique(labels)[:10]
    sheet = np.full((len(classes), height + 1, COLUMNS, width + 1, channels), 255, np.uint8)
    for row, label in enumerate(classes):
        for column, number in enumerate(np.flatnonzero(labels == label)[:COLUMNS]):
            sheet[row, :height, column, :width] = images[number]
    pixels = sheet.reshape(len(classes) * (height + 1), COLUMNS * (width + 1), channels)
    if channels not in (1, 3):
        pixels = pixels[..., :1]
    picture = PIL.Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    scale = max(1, 48 // height)
    picture.resize((picture.width * scale, picture.height * scale), PIL.Image.Resampling.NEAREST).save(path)
