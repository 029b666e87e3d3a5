"""`scaling-jax data list | prepare | show | clear`. Mock data."""

import os

import numpy as np
import PIL.Image
import pytest

from scaling_jax.cli import main as cli


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(*args, code=0):
        assert cli.main(["scaling-jax", "data", *args]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return call


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"this is line number {i} of a text\n" for i in range(10_000)))
    return str(path)


def test_prepare_list_show_clear(run, text, tmp_path):
    assert "Nothing is cached yet" in run("list")
    assert "python_sources" in run("list")
    assert "text_files is prepared in" in run("prepare", text)
    (folder,) = (tmp_path / "cache" / "arrays").glob("text-files-*[0-9a-f]")
    assert folder.name in run("list")
    for name in (text, folder.name):
        shown = run("show", name, "--verify")
        for part in ("dataset_hash", "0.00% of the validation lines", "uint8", "this is line number"):
            assert part in shown
    assert "removed" in run("clear", text)
    assert not folder.exists()
    assert "nothing is cached" in run("clear", text, code=2)


def test_overrides_and_clear_all(run, text, tmp_path):
    pytest.importorskip("tokenizers")
    assert "vocabulary 300" in run("show", text, "--set=data.tokenizer=bpe:300")
    run("prepare", f"--set=data.source={text}")
    run("clear", "all")
    assert not list((tmp_path / "cache").rglob("*.bin"))
    assert "no field 'tokeniser'" in run("show", text, "--set=data.tokeniser=bytes", code=2)


def test_verify_finds_what_a_glance_does_not(run, text, tmp_path):
    run("prepare", text)
    path = next((tmp_path / "cache").rglob("train.bin"))
    before = path.stat()
    assert before.st_size > 3 * 65_536  # the middle is not among the edges that are always compared
    with open(path, "r+b") as file:
        file.seek(before.st_size // 2)
        file.write(b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    run("prepare", text)
    assert "was altered" in run("show", text, "--verify", code=2)


def test_images_get_a_contact_sheet(run, tmp_path):
    for name, color in (("dark", 40), ("light", 200)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(30):
            image = np.full((8, 8), color + i, np.uint8)
            PIL.Image.fromarray(image).save(tmp_path / "pictures" / name / f"{i}.png")
    shown = run("show", str(tmp_path / "pictures"), f"--out={tmp_path / 'sheet.png'}")
    assert "images per class in training" in shown
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    scale = sheet.width // (16 * 9)
    rows = pixels.reshape(2, 9 * scale, 16, 9 * scale)[:, : 8 * scale, :, : 8 * scale]
    assert (rows[0] < 80).all()
    assert (rows[1] >= 200).all()


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((), "usage: scaling-jax data"),
        (("destroy",), "usage: scaling-jax data"),
        (("show",), "which data?"),
        (("prepare", "/nowhere/text"), "does not exist"),
        (("clear",), "nothing is cached"),
        (("show", "x", "--study=study.py"), "not both"),
        (("show", "n" * 300), "is not a name"),
        (("show", "digits", "--out=missing/sheet.png"), "a .png file in an existing folder"),
        (("show", "digits", "--out=sheet.svg"), "a .png file in an existing folder"),
        (("show", "digits", "--out=."), "a .png file in an existing folder"),
        (
            ("prepare", "python_sources", "--set=data.tokenizer=bpe:10000000000000"),
            "at least 257 and at most 1,000,000",
        ),
    ],
)
def test_wrong_commands(args, match, run):
    message = run(*args, code=2)
    assert match in message
    assert message.count("\n") == 1
