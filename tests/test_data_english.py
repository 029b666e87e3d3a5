"""Debian's dictionaries: the format against a dictionary made here, and the whole where apt can fetch it."""

import gzip
import shutil
import subprocess

import pytest

from scaling_jax import data
from scaling_jax.data.builtin import english
from scaling_jax.errors import UserError
from scaling_jax.study import Data


def number(value):
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = ""
    while value or not text:
        text = digits[value % 64] + text
        value //= 64
    return text


def test_documents_are_runs_of_entries_without_the_database_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(english, "DOCUMENT_BYTES", 60)
    entries = [("00-database-info", "about this database\n")]
    entries += [(f"word{i}", f"word{i}\n   the meaning of word {i}, naïve\n") for i in range(70)]
    text, index = b"", []
    for headword, entry in entries:
        index.append(f"{headword}\t{number(len(text))}\t{number(len(entry.encode()))}")
        if headword == "word3":
            index.append(f"another\t{index[-1].partition(chr(9))[2]}")  # a second headword of the same entry
        text += entry.encode()
    (tmp_path / "x.index").write_text("\n".join(sorted(index)) + "\n")
    (tmp_path / "x.dict.dz").write_bytes(gzip.compress(text))
    found = english.documents(tmp_path / "x.index", tmp_path / "x.dict.dz")
    assert b"".join(part for _, part in found) == text.partition(b"database\n")[2]
    assert all(60 <= len(part) < 140 for _, part in found[:-1])
    assert found[0][0].startswith("word0@")


def test_without_apt(tmp_path, monkeypatch):
    monkeypatch.setattr(english, "INSTALLED", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs apt-get"):
        data.load(Data(source="english"), cache_dir=tmp_path / "cache")


def test_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(english, "INSTALLED", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    failed = subprocess.CompletedProcess([], 100, "", "W: x\nE: Failed to fetch http://deb.debian.org/x\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(UserError, match=r"apt-get download failed \(Failed to fetch .* connect"):
        data.load(Data(source="english"), cache_dir=tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.skipif(
    not all((english.INSTALLED / f"{name}.index").is_file() for name in english.DICTIONARIES),
    reason="needs Debian's dict-gcide, dict-foldoc and dict-jargon installed",
)
def test_english_from_debian(tmp_path):
    loaded = data.load(Data(source="english"), cache_dir=tmp_path)
    assert len(loaded.train) > 40e6
    assert len(loaded.validation) > 0.5e6
    assert loaded.info["leak"] < 0.01
