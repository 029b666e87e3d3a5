"""Real text that every installation has: the Python sources of the standard library and of the dependencies.

It has UTF-8 files of at most 400 kB, once each, without tests, vendored copies and generated tables (which compress
more than sevenfold); leading comments that state a license are cut. The split is by hash of the path of a file's
directory within its package, so that files of one directory, which share idioms, are in one split. A validation file of
whose lines more than a fifth occur in training is dropped as a near copy.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sysconfig
import zlib
from collections.abc import Iterator

from scaling_jax.data import overlap
from scaling_jax.data.cache import Progress
from scaling_jax.data.sources.source import unit_hash

VERSION = "1.0.1"
# Import name -> distribution, of packages that the [train] extra installs; not those for tests or builds.
PACKAGES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "attr": "attrs",
    "contourpy": "contourpy",
    "dateutil": "python-dateutil",
    "einops": "einops",
    "etils": "etils",
    "flax": "flax",
    "fontTools": "fonttools",
    "fsspec": "fsspec",
    "grain": "grain",
    "humanize": "humanize",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "markdown_it": "markdown-it-py",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "opt_einsum": "opt-einsum",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "pandas": "pandas",
    "prometheus_client": "prometheus-client",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "pygments": "pygments",
    "pyparsing": "pyparsing",
    "requests": "requests",
    "rich": "rich",
    "scipy": "scipy",
    "simple_parsing": "simple-parsing",
    "simplejson": "simplejson",
    "tensorflow_datasets": "tensorflow-datasets",
    "treescope": "treescope",
    "urllib3": "urllib3",
    "yaml": "PyYAML",
}
_SKIPPED = re.compile(
    r"(^|_)tests?(_|$)|^testing$|^conftest\.py$|_tests?\.py$|^test_|^_?vendor(ed)?$|^_vendored|^extern(al)?s?$"
    r"|^(site|dist)-packages$|^__pycache__$|^_?distutils$|^ensurepip$|^lib2to3$|_pb2(_grpc)?\.py$|_gen\.py$"
    r"|^_sysconfigdata|^config-\d"  # paths of the machine that built this Python
)
_LICENSE = re.compile(rb"copyright|licen[cs]e|spdx", re.IGNORECASE)
MAX_BYTES = 400_000
MIN_COMPRESSED = 0.15
VALIDATION_SHARE = 0.03
MAX_FILE_OVERLAP = 0.2


@functools.cache
def installed() -> dict[str, str]:
    """Versions of the installed packages of the allowlist, by import name."""
    versions = {}
    for module, distribution in PACKAGES.items():
        try:
            versions[module] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def corpus(on_progress: Progress) -> dict[str, list[tuple[str, bytes]]]:
    """(path, text) of the files of both splits."""
    paths = sorted(_files())
    on_progress("python_sources: reading files", 0, len(paths))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda item: _text(item[1]), paths))
    seen, splits = set(), {"train": [], "validation": []}
    for (name, _), text in zip(paths, texts):
        if text is not None and (digest := hashlib.sha256(text).digest()) not in seen:
            seen.add(digest)
            directory = name.rpartition("/")[0] if name.count("/") > 1 else name
            splits["validation" if unit_hash(directory) < VALIDATION_SHARE else "train"].append((name, text))
    training_lines = set()
    for _, text in splits["train"]:
        training_lines.update(overlap.lines(text))
    splits["validation"] = [
        item for item in splits["validation"] if _overlap(item[1], training_lines) <= MAX_FILE_OVERLAP
    ]
    on_progress("python_sources: reading files", len(paths), len(paths))
    return splits


def _files() -> Iterator[tuple[str, pathlib.Path]]:
    """("package/directory/file.py", path) of every candidate; the standard library's package is called "stdlib"."""
    roots = [("stdlib", pathlib.Path(sysconfig.get_path("stdlib")))]
    for module in PACKAGES:
        spec = importlib.util.find_spec(module)
        if spec is not None:
            roots += [(module, pathlib.Path(place)) for place in spec.submodule_search_locations or ()]
    for package, root in roots:
        for directory, folders, files in os.walk(root):
            folders[:] = [folder for folder in folders if not _SKIPPED.search(folder)]
            for file in files:
                if file.endswith(".py") and not _SKIPPED.search(file):
                    path = pathlib.Path(directory, file)
                    yield f"{package}/{path.relative_to(root).as_posix()}", path


def _text(path: pathlib.Path) -> bytes | None:
    """The file's text without license header, or None for a file that is left out."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        text = path.read_bytes()
        text.decode()
    except (OSError, UnicodeDecodeError):
        return None
    text = _without_license(text).strip() + b"\n"
    if len(text) < 100 or b"\0" in text or len(zlib.compress(text, 1)) < MIN_COMPRESSED * len(text):
        return None
    return text


def _without_license(text: bytes) -> bytes:
    """Cuts the leading block of comments and blank lines if it states a license."""
    found = re.match(rb"(?:[ \t]*(?:#[^\n]*)?\r?\n)*", text)
    header = found.group() if found else b""
    return text[len(header) :] if _LICENSE.search(header) else text


def _overlap(text: bytes, training_lines: set[bytes]) -> float:
    found = overlap.lines(text)
    return sum(line in training_lines for line in found) / max(1, len(found))
