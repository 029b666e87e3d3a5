"""Sources by name: the documented one of a user, those of packages, wrong ones; identities that must not change."""

import gzip
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import ladder
import numpy as np
import PIL.Image
import pytest

from scaling_jax import data
from scaling_jax.data.sources import registry
from scaling_jax.errors import UserError
from scaling_jax.models import Spec
from scaling_jax.study import Data

GUIDE = pathlib.Path(__file__).parents[1] / "docs" / "data.md"
PROVERBS = [f"proverb number {i}: more data, better model\n" for i in range(400)]


@pytest.fixture(autouse=True)
def own_names(monkeypatch):
    """What a test registers is forgotten afterwards."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture
def documented():
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return code


def test_the_documented_source(documented, tmp_path):
    (tmp_path / "proverbs.txt").write_text("".join(PROVERBS))
    exec(documented, {})
    options = Data(source="proverbs", data_dir=str(tmp_path), context=16)
    assert data.describe(options) == Spec("tokens", 256, 16)
    loaded = data.load(options, cache_dir=tmp_path / "cache")
    assert bytes(loaded.validation) == "".join(PROVERBS[::20]).replace("\n", "\0").encode()
    assert len(loaded.train) == sum(map(len, PROVERBS)) - len(loaded.validation)
    assert data.load(options, cache_dir=tmp_path / "cache").dataset_hash == loaded.dataset_hash
    assert registry.registered()["proverbs"].description in GUIDE.read_text(encoding="utf-8")


def test_a_study_that_registers_its_source_is_planned_and_shown(documented, tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "proverbs.txt").write_text("".join(PROVERBS))
    study = ladder.write_study(tmp_path)
    source = f'source="proverbs", data_dir={str(tmp_path)!r}'
    study.write_text(documented + study.read_text().replace("source=SOURCE", source))
    code, out, err = ladder.run_here("data", "show", f"--study={study}")
    assert code == 0, err
    assert "proverbs/1.0" in out and "proverb number" in out


def test_sources_of_installed_packages(monkeypatch, tmp_path):
    folder = tmp_path / "site"
    (folder / "other-1.0.dist-info").mkdir(parents=True)
    (folder / "other-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    points = "[scaling_jax.sources]\nother = other_sources:other\nbroken = no_such_module:other\n"
    (folder / "other-1.0.dist-info" / "entry_points.txt").write_text(points)
    (folder / "other_sources.py").write_text(
        "from scaling_jax.data import Source\nfrom scaling_jax.models import Spec\n"
        "def other(data):\n    return Source('other', Spec('tokens', 7, data.context), {}, {}, None)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    importlib.metadata.MetadataPathFinder().invalidate_caches()
    assert data.describe(Data(source="other")).vocab_size == 7
    assert registry.registered()["other"].description == "from the package other"
    with pytest.raises(UserError, match="'no_such_module:other' cannot be imported"):
        data.describe(Data(source="broken"))


@pytest.mark.parametrize("name", ["", "a/b", "~x", ".hidden", "a\\b"])
def test_names_that_look_like_paths(name):
    with pytest.raises(ValueError, match="look like a path"):
        registry.register(name)


@pytest.mark.parametrize(
    ("document", "match"), [("a str", "yields str, not bytes"), (b"a\0b", "text with a zero byte")]
)
def test_documents_of_a_wrong_type_are_named(document, match, tmp_path):
    spec = Spec("tokens", 256, 8)
    source = data.Source("odd", spec, {}, {}, lambda *_: lambda split: iter([document]), "bytes")
    registry.register("odd")(lambda options: source)
    with pytest.raises((TypeError, ValueError), match=match):
        data.load(Data(source="odd"), cache_dir=tmp_path)


def test_describing_and_listing_import_nothing_heavy():
    code = (
        "import sys; from scaling_jax import data; from scaling_jax.data.sources import registry\n"
        "from scaling_jax.study import Data; data.describe(Data(source='digits')); registry.registered()\n"
        "print([m for m in ('tensorflow_datasets', 'grain', 'tokenizers', 'pyarrow', 'PIL') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def prose(size):
    return "".join(f"line {i * 7919 % 104_729} of a text, with {i % 13} in it\n" for i in range(size))


def write_corpora(folder):
    """Path of every kind of corpus, with fixed contents."""
    (folder / "texts" / "deep").mkdir(parents=True)
    for i in range(4):
        (folder / "texts" / "deep" / f"{i}.txt").write_text(prose(500 + i))
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": f"record {i}: naïve\ntwo"}) for i in range(300)))
    (folder / "b.txt.gz").write_bytes(gzip.compress(prose(3000).replace("\n", "\r\n").encode()))
    np.save(folder / "t.npy", (np.arange(20_000) * 7919 % 1000).astype(np.uint16))
    (folder / "t.json").write_text('{"vocab_size": 1000, "bytes_per_token": 3.5}')
    for k, name in enumerate(("cat", "dog")):
        (folder / "pets" / name).mkdir(parents=True)
        for i in range(40):
            pixels = (np.arange(144).reshape(8, 6, 3) * (i + 41 * k + 1) % 251).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / "pets" / name / f"{i}.png")
    return [folder / name for name in ("texts", "a.jsonl", "b.txt.gz", "t.npy", "pets")]


# As computed by the first version that had these readers: a reader that changes them makes other runs of old studies.
HASHES = {
    "texts": "51be5af950fa436d",
    "a.jsonl": "b48a9a36134558cf",
    "b.txt.gz": "302ec687a61c0e3b",
    "t.npy": "c4107f13c4afab0a",
    "pets": "88dc567c749b5167",
}


def test_identities_of_corpora_do_not_change(tmp_path):
    found = {
        path.name: data.load(Data(source=str(path)), cache_dir=tmp_path / "cache").dataset_hash
        for path in write_corpora(tmp_path)
    }
    assert found == HASHES
