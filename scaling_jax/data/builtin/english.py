"""English prose from Debian's dictionary packages: GCIDE (Webster 1913), FOLDOC and the Jargon File, 46 MB.

The packages are fetched by `apt-get download` (18 MB, no root needed) unless they are installed. Consecutive entries
make documents of about 16 kB; the split is by hash of a document's first headword.
"""

from __future__ import annotations

import gzip
import pathlib
import re
import shutil
import subprocess
import tempfile
from string import ascii_lowercase, ascii_uppercase, digits

from scaling_jax.data.cache import Progress
from scaling_jax.data.sources.source import unit_hash
from scaling_jax.errors import UserError

VERSION = "1.0.0"
DICTIONARIES = ("gcide", "foldoc", "jargon")
INSTALLED = pathlib.Path("/usr/share/dictd")
DOCUMENT_BYTES = 16_384
VALIDATION_SHARE = 0.03
DIGITS = {digit: value for value, digit in enumerate(f"{ascii_uppercase}{ascii_lowercase}{digits}+/".encode())}


def corpus(on_progress: Progress) -> dict[str, list[tuple[str, bytes]]]:
    """(name, text) of the documents of both splits.

    Raises:
      UserError: the packages are not installed and cannot be fetched.
    """
    splits = {"train": [], "validation": []}
    with tempfile.TemporaryDirectory() as folder:
        dictionaries = _fetch(pathlib.Path(folder), on_progress)
        for name in DICTIONARIES:
            for title, text in documents(dictionaries / f"{name}.index", dictionaries / f"{name}.dict.dz"):
                title = f"{name}/{title}"
                splits["validation" if unit_hash(title) < VALIDATION_SHARE else "train"].append((title, text))
    return splits


def documents(index: pathlib.Path, text: pathlib.Path) -> list[tuple[str, bytes]]:
    """(first headword, text) of runs of consecutive entries of a dictionary in the format of dictd."""
    entries = {}
    for line in index.read_bytes().splitlines():
        headword, offset, length = line.split(b"\t")[:3]
        # Many headwords refer to one entry, which is named after the first.
        if not headword.startswith(b"00-database"):
            entries.setdefault((_number(offset), _number(length)), headword.decode("utf-8", "replace"))
    with gzip.open(text) as file:  # dictzip is gzip with an index of its own
        whole = file.read()
    found, titles, seen = [], [], 0
    for (offset, length), headword in sorted(entries.items()):
        if offset < seen:
            continue
        seen = offset + length
        if not found or len(found[-1]) >= DOCUMENT_BYTES:
            found.append(b"")
            titles.append(f"{headword}@{offset}")
        found[-1] += whole[offset:seen].decode("utf-8", "replace").encode()
    return list(zip(titles, found))


def _number(text: bytes) -> int:
    value = 0
    for digit in text:
        value = value * 64 + DIGITS[digit]
    return value


def _fetch(folder: pathlib.Path, on_progress: Progress) -> pathlib.Path:
    """The folder with the dictionaries: installed ones, or the packages unpacked into `folder`."""
    if all((INSTALLED / f"{name}.index").is_file() for name in DICTIONARIES):
        return INSTALLED
    packages = [f"dict-{name}" for name in DICTIONARIES]
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise UserError("data.source 'english' comes from Debian's packages: it needs apt-get, or use python_sources")
    on_progress(f"english: apt-get download {' '.join(packages)}", 0, None)
    command = ["apt-get", "-qq", "-o", "Acquire::http::Timeout=3", "-o", "Acquire::Retries=0", "download", *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    archives = sorted(folder.glob("*.deb"))
    if done.returncode or len(archives) != len(packages):
        reason = next(iter(re.findall(r"^E: (.*)", done.stderr, re.MULTILINE)), "no reason given")
        raise UserError(f"data.source 'english': apt-get download failed ({reason}): connect, or run `apt-get update`")
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    return folder / "usr" / "share" / "dictd"
