"""A user's own text: one file, or a folder with everything below it.

Plain text is cut at line ends into blocks of about 64 kB at most; .jsonl and .parquet have a document per record.
Equal ones are kept once, and one in twenty, by hash of its file's path and its number, is validation. Files come in the
order of the hash of their path, so that a cap on unique tokens takes a sample of the folder and not its beginning.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scaling_jax.data import tokenizers
from scaling_jax.data.sources import text_formats
from scaling_jax.data.sources.source import (
    Reader,
    Source,
    Tally,
    listed,
    no_splits,
    plural,
    unit_hash,
    visible_files,
)
from scaling_jax.errors import UserError
from scaling_jax.models.family import Spec
from scaling_jax.study import Data, content_hash

VERSION = 2  # of the division into documents and splits; cached arrays of another version are not used
VALIDATION_SHARE = 0.05
# Where whole blocks or records give another share of the bytes than this, they are chosen by size, or cut.
LEAST_SHARE, MOST_SHARE = 0.03, 0.08
MIN_BLOCK, MAX_BLOCK, BLOCKS = 2_048, 65_536, 400
FEW_BYTES = 50_000_000
REPEATED, CUT = "repeated", "cut"  # kinds in the tally
RAW = (".json", ".csv", ".tsv")
_ABOUT = re.compile(r"readme|licen[cs]e|citation|changelog|dataset_?card", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file of text and its name relative to the folder that was given."""

    name: str
    path: pathlib.Path
    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True)
class Found:
    """The text files of a source in the order of the hash of their names, and the names of files left out."""

    files: list[TextFile]
    binary: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    beside_tables: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()

    def notes(self) -> list[str]:
        """Sentences about files that are left out or converted."""
        count = len(self.files) + len(self.binary) + len(self.links) + len(self.beside_tables)
        sentences = []
        for names, why in (
            (self.binary, "not text, nor a format that is read (.txt, .jsonl, .parquet, also .gz, .zst, .bz2, .xz)"),
            (self.links, "links to folders or to nothing"),
            (self.beside_tables, "plain text beside .parquet, taken for a description of it"),
        ):
            if names:
                sentences.append(f"left out: {len(names)} of {plural(count, 'file')}, {why}: {listed(names)}")
        if self.raw:
            sentences.append(f"read as plain text, not as records: {listed(self.raw)}")
        if self.converted:
            sentences.append(f"converted to UTF-8 by their byte order mark: {plural(len(self.converted), 'file')}")
        return sentences


def source(data: Data) -> Source:
    """The text of a file or folder.

    Raises:
      UserError: it does not exist, cannot be read, or is not text.
    """
    no_splits(data)
    path = pathlib.Path(data.source).expanduser()
    found, tally = find(path), Tally()
    return Source(
        name="text_files",
        spec=Spec("tokens", tokenizers.vocab_size(data.tokenizer), data.context),
        splits={"train": "by hash", "validation": f"by hash, {VALIDATION_SHARE:.0%}"},
        identity={
            "files": content_hash([[file.name, file.size, file.mtime_ns] for file in found.files]),
            "version": VERSION,
        },
        open=lambda root, on_progress: reader(path, found.files, tally),
        tokenizer=data.tokenizer,
        size_hint=sum(file.size for file in found.files),
        info={"path": str(path), "files": len(found.files), "binary_files_skipped": len(found.binary)},
        notes=lambda: [*found.notes(), *record_notes(tally)],
    )


def record_notes(tally: Tally) -> list[str]:
    """Sentences about records that were left out or converted while they were read."""
    sentences = []
    if nulls := tally.total(text_formats.NULL):
        sentences.append(
            f"left out: {plural(nulls, 'record')} whose text is null, in {listed(tally.files(text_formats.NULL))}"
        )
    if lists := tally.total(text_formats.LIST):
        sentences.append(f"joined with line ends: lists of strings, which are the text of {plural(lists, 'record')}")
    if repeated := tally.total(REPEATED):
        sentences.append(f"left out: {plural(repeated, 'repeated block or record', 'repeated blocks or records')}")
    if tally.total(CUT):
        sentences.append("lines or records are cut between characters: they are too long to hold out 5% of whole ones")
    return sentences


def find(path: pathlib.Path) -> Found:
    """The text files at or below `path`; hidden files and folders are ignored.

    Raises:
      UserError: nothing is there, or no text.
    """
    if path.is_file():
        if text_formats.is_binary(path):
            raise UserError(
                f"data.source {str(path)!r} is a binary file: give text in UTF-8 (UTF-16 without a byte order mark: "
                "iconv -f UTF-16LE or UTF-16BE -t UTF-8), .jsonl or .parquet"
            )
        if not path.stat().st_size:
            raise UserError(f"data.source {str(path)!r}: the file is empty")
        return Found(
            [_text_file(path, path.name)], converted=_marked([path], path.parent), raw=_raw([path], path.parent)
        )
    links: list[str] = []
    names = list(visible_files(path, links))
    links += [p.relative_to(path).as_posix() for p in names if not p.exists()]
    full = [p for p in names if p.is_file() and p.stat().st_size]
    binary = [p for p in full if text_formats.is_binary(p)]
    text = [p for p in full if p not in set(binary)]
    tables = [p for p in text if text_formats.is_parquet(p)]
    plain = [p for p in text if tables and not text_formats.is_parquet(p) and not text_formats.is_json_lines(p)]
    text = [p for p in text if p not in set(plain)]
    if binary and all(_ABOUT.match(p.name) for p in text):
        kinds = listed(sorted({p.suffix or p.name for p in binary}))
        has = f"no text but {text[0].name}" if text else "no text files"
        raise UserError(
            f"data.source {str(path)!r}: the folder holds {has}; {len(binary)} binary files ({kinds}) are not read: "
            "give .txt, .jsonl or .parquet"
        )
    if not text:
        raise UserError(f"data.source {str(path)!r}: the folder holds no text files")
    files = [_text_file(p, p.relative_to(path).as_posix()) for p in text]
    return Found(
        sorted(files, key=lambda file: unit_hash(file.name)),
        binary=_relative(binary, path),
        links=tuple(links),
        beside_tables=_relative(plain, path),
        converted=_marked(text, path),
        raw=_raw(text, path),
    )


def _text_file(path: pathlib.Path, name: str) -> TextFile:
    stat = path.stat()
    return TextFile(name, path, stat.st_size, stat.st_mtime_ns)


def _relative(paths: Sequence[pathlib.Path], folder: pathlib.Path) -> tuple[str, ...]:
    return tuple(p.relative_to(folder).as_posix() for p in paths)


def _raw(paths: Sequence[pathlib.Path], folder: pathlib.Path) -> tuple[str, ...]:
    return _relative([p for p in paths if p.suffix.lower() in RAW], folder)


def _marked(paths: Sequence[pathlib.Path], folder: pathlib.Path) -> tuple[str, ...]:
    """Names of the files that begin with the byte order mark of UTF-16 or UTF-32."""

    def converted(path: pathlib.Path) -> bool:
        with open(path, "rb") as stream:
            return text_formats.encoding(stream.read(4)) not in (None, "utf-8")

    return _relative([p for p in paths if converted(p)], folder)


def reader(path: pathlib.Path, files: list[TextFile], tally: Tally) -> Reader:
    """Reads the documents of `files` by split; what is in validation is not trained on.

    Args:
      path: the source, for messages.
      files: in their order.
      tally: counts records that are left out or converted.
    """
    size = sum(file.size for file in files)
    block_size = min(MAX_BLOCK, max(MIN_BLOCK, size // BLOCKS))
    cut, held_out = False, lambda name: unit_hash(name) < VALIDATION_SHARE
    if size < FEW_BYTES:
        # So few blocks that chance could leave none to validate on: the lowest hashes instead of a threshold.
        for cut in (False, True):
            chosen = _choose(_named_documents(files, block_size, cut, tally), any_share=cut)
            if chosen is not None:
                break
        else:
            raise UserError(f"data.source {str(path)!r}: {size} bytes are too few to train and validate on")
        held_out = chosen

    if cut:
        tally.set(CUT, str(path), 1)

    def select(split: str, seen: set[bytes]) -> Iterator[bytes]:
        repeated = 0
        for name, document in _named_documents(files, block_size, cut, tally):
            if held_out(name) == (split == "validation"):
                digest = hashlib.sha256(document).digest()[:16]
                if digest in seen:
                    repeated += 1
                    continue
                seen.add(digest)
                yield document
        tally.set(REPEATED, split, repeated)

    def read(split: str) -> Iterator[bytes]:
        seen: set[bytes] = set()
        if split == "train":
            collections.deque(select("validation", seen), maxlen=0)
        return select(split, seen)

    return read


def _choose(documents: Iterator[tuple[str, bytes]], any_share: bool) -> Callable[[str], bool] | None:
    """Which documents to validate on, as a function of their names; None where whole ones cannot give about 5%.

    The twentieth part of them with the lowest hashes, if that is about 5% of the bytes; else in the order of their
    hashes those that fit into 5%. With `any_share` the former whatever its share, where there are two documents.
    """
    pairs = np.array([(unit_hash(name), len(document)) for name, document in documents]).reshape(-1, 2)
    if len(pairs) < 2:
        return None
    pairs = pairs[np.argsort(pairs[:, 0])]
    hashes, sizes = pairs.T
    total, count = sizes.sum(), max(1, round(VALIDATION_SHARE * len(pairs)))
    if LEAST_SHARE * total <= sizes[:count].sum() <= MOST_SHARE * total:
        return lambda name: unit_hash(name) < hashes[count]
    chosen, taken = set(), 0.0
    for value, size in pairs:
        if taken < VALIDATION_SHARE * total and taken + size <= MOST_SHARE * total:
            chosen.add(value)
            taken += size
    if taken >= LEAST_SHARE * total:
        return lambda name: unit_hash(name) in chosen
    return (lambda name: unit_hash(name) < hashes[count]) if any_share else None


def _named_documents(files: list[TextFile], block_size: int, cut: bool, tally: Tally) -> Iterator[tuple[str, bytes]]:
    for file in files:
        texts = text_formats.documents(file.path, block_size, cut=cut, tally=tally, name=file.name)
        for i, text in enumerate(texts):
            yield f"{file.name}:{i}", text
