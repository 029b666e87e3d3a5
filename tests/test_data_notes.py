"""Text and images as people have them: read right with a note of what was converted or left out, or refused in a line.

Mock data.
"""

import bz2
import codecs
import gzip
import json
import lzma
import os
import pathlib
import random
import re
import subprocess
import sys

import ladder
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from scaling_jax import data
from scaling_jax.cli.main import main as command
from scaling_jax.data.sources import text_formats
from scaling_jax.data.sources.source import Tally
from scaling_jax.errors import UserError
from scaling_jax.study import Data

CASES = pathlib.Path(__file__).parents[2] / "shared" / "cases"


def words(seed, count, end="\n", per_line=11):
    rng = random.Random(seed)
    pool = ["lamp", "river", "stone", "quiet", "engine", "paper", "winter", "green", "größe"]
    return "".join(" ".join(rng.choice(pool) for _ in range(per_line)) + end for _ in range(count // per_line))


def load(path, tmp_path):
    return data.load(Data(source=str(path)), cache_dir=tmp_path / "cache")


def texts(loaded):
    """All documents, joined in any order: the multiset of their lines."""
    return sorted(
        b"\n".join(bytes(part) for part in (loaded.train, loaded.validation)).replace(b"\0", b"").split(b"\n")
    )


def share(loaded):
    return len(loaded.validation) / (len(loaded.train) + len(loaded.validation))


@pytest.mark.parametrize("code", ["utf-16", "utf-32", "utf-8-sig"])
def test_byte_order_marks_are_obeyed(code, tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    for i, encoding in enumerate(["utf-8", "utf-8", code, code]):
        (folder / f"{i}.txt").write_text(words(i, 4_000), encoding=encoding)
    loaded = load(folder, tmp_path)
    assert texts(loaded) == sorted([b"", *"".join(words(i, 4_000) for i in range(4)).encode().split(b"\n")])
    converted = ["converted to UTF-8 by their byte order mark: 2 files"]
    assert loaded.info["notes"] == (converted if code != "utf-8-sig" else [])


def test_utf_16_of_json_lines_and_archives(tmp_path):
    records = "".join(json.dumps({"text": line}, ensure_ascii=False) + "\r\n" for line in words(1, 4_000).splitlines())
    (tmp_path / "a.jsonl").write_bytes(records.encode("utf-16"))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(records.encode("utf-16")))
    (tmp_path / "c.jsonl").write_bytes(codecs.BOM_UTF8 + records.replace("\r\n", "\r").encode())
    expected = [line.encode() for line in words(1, 4_000).splitlines()]
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl"):
        assert list(text_formats.documents(tmp_path / name, 2048)) == expected


def test_torn_utf_16_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(words(0, 9_000).encode("utf-16")[:-1])
    with pytest.raises(UserError, match="begins as UTF-16 text"):
        load(tmp_path / "a.txt", tmp_path)


@pytest.mark.parametrize("end", [" ", "\r", "\n", "\r\n"])
def test_five_percent_are_validation_whatever_the_line_ends(end, tmp_path):
    (tmp_path / "a.txt").write_bytes(words(0, 33_000, end).encode())
    loaded = load(tmp_path / "a.txt", tmp_path)
    assert 0.03 < share(loaded) < 0.08
    everything = bytes(loaded.train) + bytes(loaded.validation)
    assert len(everything) - everything.count(b"\0") == len(words(0, 33_000, end).encode())
    for part in everything.split(b"\0"):
        part.decode()  # cut between characters
        if end != " ":
            assert part == b"" or part.endswith(end.encode())  # and between lines


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_five_percent_are_validation_of_few_and_of_uneven_records(suffix, tmp_path):
    for name, sizes in {"few": [60_000] * 5, "uneven": [100_000, *[500] * 200, 80_000]}.items():
        path = tmp_path / f"{name}{suffix}"
        write_records(path, [words(i, size // 6, " ") for i, size in enumerate(sizes)])
        assert 0.03 < share(load(path, tmp_path)) < 0.08


def write_records(path, values):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": range(len(values)), "text": values}), path)
    else:
        path.write_text("\n".join(json.dumps({"id": i, "text": value}) for i, value in enumerate(values)))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_null_texts_are_left_out_and_counted(suffix, tmp_path):
    lines = sorted(set(words(3, 30_000).splitlines()))
    path = tmp_path / f"pages{suffix}"
    write_records(path, [*lines[:100], None, *lines[100:], None, ""])
    loaded = load(path, tmp_path)
    assert sum(loaded.info["documents"].values()) == len(set(lines))
    assert loaded.info["notes"] == [f"left out: 2 records whose text is null, in {path.name}"]


def test_repeats_cuts_and_raw_tables_are_noted(tmp_path):
    write_records(tmp_path / "a.jsonl", [*sorted(set(words(3, 30_000).splitlines())), *["the same again"] * 5])
    assert load(tmp_path / "a.jsonl", tmp_path).info["notes"] == ["left out: 4 repeated blocks or records"]
    (tmp_path / "one.json").write_text(words(0, 33_000, " "))
    assert load(tmp_path / "one.json", tmp_path).info["notes"] == [
        "read as plain text, not as records: one.json",
        "lines or records are cut between characters: they are too long to hold out 5% of whole ones",
    ]


def test_nan_is_null_and_lists_of_strings_are_joined(tmp_path):
    path, tally = tmp_path / "a.jsonl", Tally()
    path.write_text('{"text": NaN, "content": null}\n{"text": ["a", null, "b"]}\n{"text": null, "content": "c"}')
    assert list(text_formats.documents(path, 10, tally=tally, name="a")) == [b"a\nb", b"c"]
    assert (tally.total(text_formats.NULL), tally.total(text_formats.LIST)) == (1, 1)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ('{"text": 3}', "line 1: the text is 3, not a string"),
        ('{"text": {"a": 1}}', "line 1: the text is an object, not a string"),
        ('{"text": [1]}', "a list of other things than strings"),
        ('{"messages": []}', "line 1 has no 'text' or 'content'; it has messages"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('"text"', "line 1 is a str, not an object"),
    ],
)
def test_wrong_records(record, match, tmp_path):
    (tmp_path / "a.jsonl").write_text(record)
    with pytest.raises(UserError, match=match):
        load(tmp_path / "a.jsonl", tmp_path)


def test_columns_without_text_and_a_list_column(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no column 'text' or 'content'; it has body"):
        load(tmp_path / "a.parquet", tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"content": [["a", "b"], ["c"]]}), tmp_path / "b.parquet")
    assert list(text_formats.documents(tmp_path / "b.parquet", 10)) == [b"a\nb", b"c"]


def test_tables_beside_a_readme_are_what_is_trained_on(tmp_path):
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# A data set\n" * 200)
    lines = sorted(set(words(4, 20_000).splitlines()))
    write_records(folder / "data" / "part-0.parquet", lines)
    loaded = load(folder, tmp_path)
    assert sum(loaded.info["documents"].values()) == len(set(lines))
    assert len(loaded.info["notes"]) == 1
    assert "left out: 1 of 2 files, plain text beside .parquet" in loaded.info["notes"][0]


def test_files_that_are_not_read_are_named(tmp_path):
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text(words(5, 20_000))
    (folder / "b.pdf").write_bytes(b"%PDF\0" * 100)
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    (folder / "linked").symlink_to(folder / "more")
    notes = data.notes(Data(source=str(folder)), tmp_path / "cache")
    assert len(notes) == 2
    assert "left out: 1 of 4 files, not text" in notes[0] and "b.pdf" in notes[0]
    assert "left out: 2 of 4 files, links" in notes[1] and "linked" in notes[1] and "gone.txt" in notes[1]
    assert load(folder, tmp_path).info["notes"] == list(notes)
    (folder / "a.txt").rename(folder / "README.txt")
    with pytest.raises(UserError, match=r"holds no text but README.txt; 1 binary files \(.pdf\) are not read"):
        load(folder, tmp_path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_archives(suffix, tmp_path):
    content = "".join(json.dumps({"text": line}) + "\n" for line in words(6, 3_000).splitlines()).encode()
    zstandard = pytest.importorskip("zstandard")
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}[suffix]
    path, half = tmp_path / f"a.jsonl{suffix}", content.index(b"\n", len(content) // 2) + 1
    expected = [line.encode() for line in words(6, 3_000).splitlines()]
    path.write_bytes(compress(content[:half]) + compress(content[half:]))  # archives may be concatenated
    assert list(text_formats.documents(path, 2048)) == expected
    for torn in (5, 3, 1):
        path.write_bytes(compress(content)[:-torn])
        with pytest.raises(UserError, match="damaged archive"):
            list(text_formats.documents(path, 2048))


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".bz2", ".xz"])
def test_archives_that_expand_beyond_reason(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(text_formats, "BOMB_BYTES", 1 << 18)
    zstandard = pytest.importorskip("zstandard")
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}[suffix]
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress(b"a\n" * (1 << 20)))
    with pytest.raises(UserError, match="expands more than 200-fold"):
        load(path, tmp_path)


def test_one_endless_record_takes_little_memory(tmp_path):
    """0.1 MB of archive that hold one line of 128 MB."""
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(b'{"text": "')
        for _ in range(128):
            file.write(b"a" * (1 << 20))
        file.write(b'"}\n')
    code = (
        "import resource, sys\nfrom scaling_jax.data.sources import text_formats\nimport pathlib\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"try: list(text_formats.documents(pathlib.Path({str(path)!r}), 2048))\n"
        "except ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    said, more = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert "a line of more than 32 MB" in said
    assert int(more) < 200_000  # kB


def picture(path, mode, seed=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "CMYK": (4,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    PIL.Image.fromarray(pixels, mode).save(path)
    return pixels


def pets(folder, mode="RGB", count=30):
    for k, name in enumerate(("ant", "bee")):
        for i in range(count):
            picture(folder / name / f"{i}.png", mode, seed=100 * k + i)


def test_gray_and_cmyk_images_become_rgb(tmp_path):
    pets(tmp_path / "pets")
    gray = picture(tmp_path / "pets" / "ant" / "7.png", "L", seed=5)
    picture(tmp_path / "pets" / "bee" / "c.tiff", "CMYK")
    picture(tmp_path / "pets" / "bee" / "t.png", "RGBA")
    loaded = load(tmp_path / "pets", tmp_path)
    assert loaded.spec.image_shape == (8, 8, 3)
    images = {image.tobytes() for part in (loaded.train, loaded.validation) for image in np.asarray(part)}
    assert np.repeat(gray[..., None], 3, axis=-1).tobytes() in images
    with PIL.Image.open(tmp_path / "pets" / "bee" / "c.tiff") as image:
        assert np.asarray(image.convert("RGB")).tobytes() in images
    assert sorted(loaded.info["notes"]) == [
        "1 of 62 images lost their transparency",
        "1 of 62 images were CMYK and became RGB",
        "1 of 62 images were gray and became RGB",
    ]


def test_gray_images_alone_stay_gray_and_16_bits_are_scaled(tmp_path):
    pets(tmp_path / "pets", "L")
    deep = np.random.default_rng(0).integers(0, 65_536, (8, 8)).astype(np.uint16)
    PIL.Image.fromarray(deep).save(tmp_path / "pets" / "ant" / "deep.png")
    loaded = load(tmp_path / "pets", tmp_path)
    assert loaded.spec.image_shape == (8, 8, 1)
    images = {image.tobytes() for part in (loaded.train, loaded.validation) for image in np.asarray(part)}
    assert (deep >> 8).astype(np.uint8).tobytes() in images
    assert loaded.info["notes"] == ["1 of 61 images had 16 bits per pixel and were reduced to 8"]


@pytest.mark.parametrize("beside", [None, "README.md"])
def test_a_flat_folder_of_images(beside, tmp_path):
    for i in range(4):
        picture(tmp_path / "flat" / f"{i}.png", "RGB")
    if beside:
        (tmp_path / "flat" / beside).write_text("some text\n" * 1000)
    with pytest.raises(UserError, match="one subfolder of images per class, at least two; 4 images are directly in"):
        load(tmp_path / "flat", tmp_path)


def test_other_files_among_images_are_counted_and_train_alone_is_divided(tmp_path):
    pets(tmp_path / "pets" / "train")
    (tmp_path / "pets" / "train" / "ant" / "Thumbs.db").write_bytes(b"\0")
    loaded = load(tmp_path / "pets", tmp_path)
    assert len(loaded.train) + len(loaded.validation) == 60
    assert loaded.info["notes"] == ["left out: 1 file without an image's suffix: ant/Thumbs.db"]


@pytest.mark.parametrize("cut", [20, 60, -20])
def test_torn_png(cut, tmp_path):
    pets(tmp_path / "pets")
    path = tmp_path / "pets" / "bee" / "3.png"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"bee/3.png' cannot be read") as error:
        load(tmp_path / "pets", tmp_path)
    assert "\n" not in str(error.value)


PLACES = {
    "looping link": "cannot be read|is a link to something that does not exist",
    "dangling link": "is a link to something that does not exist",
    "long name": "File name too long",
    "fifo": "neither a file nor a folder",
    "/proc/self/status": "belongs to the system",
    "/proc": "belongs to the system",
    "/dev/zero": "belongs to the system",
    "/": "belongs to the system",
    "https://example.com/a.txt": "https:// is not read; download",
    "s3://bucket/a": "s3:// is not read; download",
    "file:///tmp/a.txt": "file:// is not read",
    "x" * 300: "is not a name",
    "a\0b": "is not a name",
    "./a\0b": "is not a name",
    "": "at least 1 character",
    "text.txt/inside": "not found|does not exist|not a name|Invalid|invalid|name",
    "./text.txt/inside": "does not exist",
    "text.txt/": "Not a directory|does not exist|not found|name",
}


@pytest.mark.parametrize("place", PLACES)
def test_places_that_are_not_data(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(words(0, 5_000))
    name = place
    if place == "looping link":
        (tmp_path / "loop").symlink_to("loop")
        name = "loop"
    elif place == "dangling link":
        (tmp_path / "gone").symlink_to("nowhere")
        name = "gone"
    elif place == "fifo":
        os.mkfifo(tmp_path / "fifo")
        name = "./fifo"
    elif place == "long name":
        name = "./" + "n" * 300
    before = sorted(tmp_path.iterdir())
    assert command(["scaling-jax", "data", "show", f"--set=data.source={name!r}"]) == 2
    said = capsys.readouterr()
    assert re.fullmatch(r"scaling-jax: [^\n]+\n", said.err), said.err
    assert re.search(PLACES[place], said.err), said.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("cache", ["gs://bucket/cache", "file", "file/below", "/proc/cache", "n" * 300, "gone"])
def test_caches_that_cannot_be_written(cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "gone").symlink_to("/proc/nowhere/at/all")
    (tmp_path / "text.txt").write_text(words(0, 5_000))
    with pytest.raises(UserError, match="SCALING_JAX_CACHE") as error:
        data.load(Data(source="text.txt"), cache_dir=cache)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sidecar", "match"),
    [
        ({"vocab_size": -5}, "vocab_size is -5, not an integer from 2"),
        ({"vocab_size": True}, "vocab_size is true"),
        ({"vocab_size": 1e3}, "vocab_size is 1000.0"),
        ({"vocab_size": 10**13}, "vocab_size is 10000000000000"),
        ({"vocab_size": 1000, "bytes_per_token": 0}, "bytes_per_token is 0, not a positive number"),
        ({"vocab_size": 1000, "bytes_per_token": None}, "bytes_per_token is null, not a positive number; leave it out"),
        ({"vocab_size": 1000, "bytes_per_token": float("nan")}, "bytes_per_token is NaN"),
        ({"vocab_size": 1000, "dtype": 16}, "dtype is 16, not an integer type"),
        ({"vocab_size": 1000, "validation": "../x.npy"}, "is not a file name"),
        ({"vocab_size": 1000, "validation": "train.npy"}, "is its own validation"),
        ({"vocab_size": 1000, "validation": 3}, "validation is 3, not the name of a file"),
        ([1000], "has no vocab_size"),
    ],
)
def test_wrong_sidecars(sidecar, match, tmp_path):
    np.save(tmp_path / "train.npy", np.arange(1000, dtype=np.uint16))
    (tmp_path / "train.json").write_text(json.dumps(sidecar))
    with pytest.raises(UserError, match=re.escape(match)) as error:
        load(tmp_path / "train.npy", tmp_path)
    assert "\n" not in str(error.value)


def test_wrong_token_files(tmp_path):
    (tmp_path / "train.json").write_text('{"vocab_size": 60000, "dtype": "uint16"}')
    np.savez(tmp_path / "train.npz", tokens=np.arange(1000))
    (tmp_path / "train.npz").rename(tmp_path / "train.npy")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "train.npy", tmp_path)
    np.arange(50_000, dtype=np.uint32).tofile(tmp_path / "train.bin")
    with pytest.raises(UserError, match="every second token .* is 0, as in a file of uint32: correct dtype"):
        load(tmp_path / "train.bin", tmp_path)
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "train.bin")
    with pytest.raises(UserError, match="has 100 tokens: at least 128"):
        load(tmp_path / "train.bin", tmp_path)


def test_header_of_llm_c_is_skipped(tmp_path):
    header, tokens = np.zeros(256, np.int32), np.random.default_rng(0).integers(0, 999, 5000).astype(np.uint16)
    header[:3] = 20240520, 1, 5000
    (tmp_path / "train.bin").write_bytes(header.tobytes() + tokens.tobytes())
    (tmp_path / "train.json").write_text('{"vocab_size": 1000, "dtype": "uint16"}')
    loaded = load(tmp_path / "train.bin", tmp_path)
    both = np.concatenate([loaded.train, loaded.validation])
    np.testing.assert_array_equal(np.bincount(both, minlength=1000), np.bincount(tokens, minlength=1000))
    assert loaded.info["notes"] == ["skipped the header of llm.c in train.bin"]


def test_notes_are_shown_by_data_show_and_logged_when_data_is_loaded(tmp_path, capsys, monkeypatch, caplog):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    write_records(tmp_path / "pages.jsonl", [None, *sorted(set(words(3, 30_000).splitlines()))])
    note = "left out: 1 record whose text is null, in pages.jsonl"
    with caplog.at_level("WARNING"):
        assert command(["scaling-jax", "data", "show", str(tmp_path / "pages.jsonl")]) == 0
        assert f"note          {note}\n" in capsys.readouterr().out
        assert note in data.notes(Data(source=str(tmp_path / "pages.jsonl")))
        data.load(Data(source=str(tmp_path / "pages.jsonl")))
    assert [record.getMessage() for record in caplog.records] == [f"data: {note}"]


@pytest.mark.parametrize(
    ("case", "match"),
    [
        ("grey_among_rgb", "1 of 60 images were gray and became RGB"),
        ("null_text", "left out: 1 record whose text is null"),
        ("one_line_text", "uint8"),
        ("utf16_in_folder", "converted to UTF-8 by their byte order mark: 2 files"),
    ],
)
def test_handed_cases(case, match, tmp_path, monkeypatch):
    if not (CASES / f"{case}.py").is_file():
        pytest.skip("the shared cases are not here")
    bin_folder = pathlib.Path(sys.executable).parent
    environment = os.environ | {
        "SCALING_JAX_CACHE": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    run = [sys.executable, str(CASES / f"{case}.py")]
    done = subprocess.run(run, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert match in done.stdout
    if case == "one_line_text":
        sizes = {name: int(size.replace(",", "")) for name, size in re.findall(r"(\w+) +uint8 +([\d,]+)", done.stdout)}
        assert 0.03 < sizes["validation"] / sum(sizes.values()) < 0.08


def test_a_plan_warns_of_what_is_left_out(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    study, folder = ladder.write_study(tmp_path), tmp_path / "texts"
    folder.mkdir()
    (tmp_path / "text.txt").rename(folder / "text.txt")
    (folder / "scan.pdf").write_bytes(b"%PDF\0")
    code, out, err = ladder.run_here("plan", f"--study={study}", f"--set=data.source={folder}")
    assert code == 0, err
    assert re.search(r"^Warning: left out: 1 of 2 files, not text.*: scan.pdf$", out, re.MULTILINE)
