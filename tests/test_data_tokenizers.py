"""Tokenizers: round trips, bits per byte that compare, identities, wrong ones. Mock text."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from scaling_jax import data
from scaling_jax.data import tokenizers, writers
from scaling_jax.errors import UserError
from scaling_jax.study import Data

LINES = [
    f"line {i}: the scaling law of a small model, é 漢字, tells of the large one {i * 7919 % 101}\n" for i in range(900)
]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("".join(LINES))
    return path


def load(corpus, tmp_path, **options):
    return data.load(Data(source=str(corpus), **options), cache_dir=tmp_path / "cache")


@pytest.fixture
def sentencepiece_model(corpus, tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    prefix = str(tmp_path / "model")
    options = {"vocab_size": 300, "byte_fallback": True, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(input=str(corpus), model_prefix=prefix, **options)
    return prefix + ".model"


def texts(loaded, tokenizer):
    """The validation text, decoded."""
    return tokenizer.decode(np.asarray(loaded.validation)).decode()


def test_bpe_is_trained_on_the_corpus_and_kept_by_its_hash(corpus, tmp_path):
    pytest.importorskip("tokenizers")
    by_bytes, loaded = load(corpus, tmp_path), load(corpus, tmp_path, tokenizer="bpe:400")
    assert loaded.spec.vocab_size == 400
    assert loaded.train.dtype == np.uint16
    assert loaded.train.max() < 400
    (kept,) = (tmp_path / "cache" / "tokenizers").glob("*.json")
    tokenizer = tokenizers.make(str(kept))
    assert texts(loaded, tokenizer).replace(tokenizers.END, "\0") == bytes(by_bytes.validation).decode()
    # The same text has the same bytes, separators included, whatever the tokens.
    assert loaded.bytes_per_token * len(loaded.validation) == pytest.approx(len(by_bytes.validation))
    assert loaded.bytes_per_token > 2
    # Given as a file, the trained tokenizer makes the same tokens.
    again = load(corpus, tmp_path, tokenizer=str(kept))
    np.testing.assert_array_equal(again.train, loaded.train)
    assert again.dataset_hash == loaded.dataset_hash != by_bytes.dataset_hash


def test_sentencepiece(corpus, tmp_path, sentencepiece_model):
    loaded, by_bytes = load(corpus, tmp_path, tokenizer=sentencepiece_model), load(corpus, tmp_path)
    assert data.describe(Data(source=str(corpus), tokenizer=sentencepiece_model)) == loaded.spec
    assert loaded.spec.vocab_size == 300
    assert loaded.bytes_per_token * len(loaded.validation) == pytest.approx(len(by_bytes.validation))
    assert "scaling law of a small model, é" in texts(loaded, tokenizers.make(sentencepiece_model))


def test_unigram_entropy_against_a_loop(corpus, tmp_path):
    loaded = load(corpus, tmp_path)
    counts = Counter(loaded.train.tolist())
    total = len(loaded.train) + 256
    expected = np.mean([-math.log((counts[token] + 1) / total) for token in loaded.validation.tolist()])
    assert loaded.info["unigram_nats"] == pytest.approx(expected, rel=1e-12)
    assert writers.unigram_nats(np.array([1, 1]), np.array([3, 5])) == pytest.approx(math.log(2))


def test_smallest_type_that_holds_the_vocabulary():
    sizes = [256, 257, 65_536, 65_537]
    assert [tokenizers.dtype(size) for size in sizes] == [np.uint8, np.uint16, np.uint16, np.uint32]


def test_separator_is_the_end_of_text_or_a_line_end():
    fast = pytest.importorskip("tokenizers")
    plain = fast.Tokenizer(fast.models.WordLevel({"a": 0, "\n": 1, "?": 2}, unk_token="?"))
    assert tokenizers.Fast(plain.to_str()).separator == 1
    plain.add_special_tokens(["</s>"])
    assert tokenizers.Fast(plain.to_str()).separator == 3


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("words", None, "neither 'bytes', 'bpe:VOCAB' nor a file"),
        ("bpe:many", None, "bpe:4096"),
        ("bpe:12", None, "at least 257"),
        ("bpe:60000", None, "yields only .* ask for fewer"),
        ("wrong.json", json.dumps({"not": "a tokenizer"}).encode(), "cannot be read"),
        ("empty.json", b"", "its size is 0 bytes"),
        ("/proc/self/status", None, "its size is 0 bytes"),
        ("n" * 300, None, "nor a file"),
        ("bpe:10000000000000", None, "at most 1,000,000"),
        ("binary.json", b"\xff\xfe\0", "not JSON"),
        ("wrong.model", b"no model", "cannot be read"),
    ],
)
def test_wrong_tokenizers(name, content, match, corpus, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
        name = str(tmp_path / name)
    with pytest.raises(UserError, match=match) as error:
        load(corpus, tmp_path, tokenizer=name)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_missing_package_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'scaling_jax\[tokenizers\]'"):
        load(corpus, tmp_path, tokenizer="bpe:400")


def test_an_interrupted_write_goes_on_where_it_was(corpus, tmp_path, monkeypatch):
    pytest.importorskip("tokenizers")
    whole = load(corpus, tmp_path / "undisturbed", tokenizer="bpe:300")
    monkeypatch.setattr(writers, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(writers, "BATCH_BYTES", 10_000)
    encoded, encode = [], tokenizers.Fast.encode_batch

    def failing(self, documents):
        encoded.append(len(documents))
        if len(encoded) == 5:
            raise KeyboardInterrupt
        return encode(self, documents)

    monkeypatch.setattr(tokenizers.Fast, "encode_batch", failing)
    with pytest.raises(KeyboardInterrupt):
        load(corpus, tmp_path, tokenizer="bpe:300")
    before = sum(encoded[:4])
    encoded.clear()
    encoded.extend([0] * 5)
    loaded = load(corpus, tmp_path, tokenizer="bpe:300")
    assert loaded.dataset_hash == whole.dataset_hash
    assert loaded.info == whole.info | {key: loaded.info[key] for key in ("directory", "path", "key")}
    assert sum(encoded) + before == sum(loaded.info["documents"].values())
    assert not list((tmp_path / "cache").rglob("*state*"))
