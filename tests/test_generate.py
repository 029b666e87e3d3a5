"""Generation: the cache is the full forward pass, the choice of tokens is the stated distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained_models import CNN, images, make

from scaling_jax.data import tokenizers
from scaling_jax.errors import UserError
from scaling_jax.models import Transformer, decoding
from scaling_jax.trained.classify import Classifier, contact_sheet
from scaling_jax.trained.generate import Generator, Sampling, _Text, choose, encode

SHORT_CONV = Transformer(head_dim=8, short_conv=3)


@pytest.fixture(scope="module")
def generator():
    made = make(SHORT_CONV)
    return Generator(made.trained, made.tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, settings",
    [
        (Transformer(head_dim=8), {}),
        (SHORT_CONV, {"scan_layers": True}),
        (Transformer(head_dim=8, activation="gelu"), {"parametrization": "completep"}),
    ],
)
def test_the_cache_equals_the_full_forward_pass(family, settings):
    """A padded prompt, then tokens one at a time."""
    trained = make(family, depth=3, context=16, **settings).trained
    tokens = np.random.default_rng(1).integers(0, 256, (2, 16)).astype(np.int32)
    full = np.asarray(trained.logits(tokens))
    step, cache = jax.jit(trained.model.decoding.step), trained.model.decoding.start(trained.params, 2)
    prompt = np.full((2, 8), 77, np.int32)
    prompt[:, :5] = tokens[:, :5]
    logits, cache = step(trained.params, cache, prompt, np.int32(0))
    found = [np.asarray(logits)[:, :5]]
    for position in range(5, 16):
        logits, cache = step(trained.params, cache, tokens[:, position : position + 1], np.int32(position))
        found.append(np.asarray(logits))
    np.testing.assert_allclose(np.concatenate(found, axis=1), full, atol=3e-5)
    assert np.abs(full).max() > 1


def test_a_family_without_a_cache_generates_the_same(generator):
    made = make(SHORT_CONV)
    slow = Generator(made.trained, made.tokenizer)
    slow._decoding = decoding.from_logits(made.trained.model.logits, 32)
    slow._read = jax.jit(slow._decoding.step)
    one, other = (
        [(t.number, round(t.log_p, 3)) for t in g("some text", Sampling(seed=3, max_tokens=12))]
        for g in (generator, slow)
    )
    assert one == other and len(one) > 5


def test_greedy_by_hand(generator):
    tokens = generator.encode("abc")
    assert tokens == [0, *b"abc"]
    expected, padded = [], np.zeros((1, 32), np.int32)  # causal: what follows does not matter
    padded[0, : len(tokens)] = tokens
    first = jax.nn.log_softmax(generator.trained.logits(padded)[0, len(tokens) - 1])
    for place in range(len(tokens), len(tokens) + 6):
        expected.append(int(jnp.argmax(generator.trained.logits(padded)[0, place - 1])))
        padded[0, place] = expected[-1]
    found = list(generator("abc", Sampling(temperature=0, max_tokens=6)))
    assert [t.number for t in found] == expected
    assert found[0].log_p == pytest.approx(float(first[expected[0]]), abs=1e-4)


def test_the_seed_decides(generator):
    texts = [[t.number for t in generator("x", Sampling(seed=seed, max_tokens=20))] for seed in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]
    assert len(list(generator("x" * 20))) <= 32 - 21  # to the end of the context


@pytest.mark.parametrize(
    "temperature, top_k, top_p, kept",
    [(1.0, 4, 1.0, None), (2.0, 4, 1.0, None), (1.0, 2, 1.0, 2), (1.0, 4, 0.6, 2), (1.0, 4, 0.5, 1), (0.5, 3, 0.95, 2)],
)
def test_choices_follow_the_distribution(temperature, top_k, top_p, kept):
    """4,000 draws against the probabilities by hand."""
    logits = np.log(np.array([0.3, 0.1, 0.5, 0.1])).astype(np.float32)
    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    if kept:
        p[np.argsort(-p, kind="stable")[kept:]] = 0
        p /= p.sum()
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda k: choose(k, logits, temperature, top_k, top_p))(keys)
    share = np.bincount(np.asarray(drawn), minlength=4) / 4000
    assert np.abs(share - p).max() < 0.03
    assert (share[p == 0] == 0).all()


def test_text_comes_in_whole_characters():
    text = _Text(tokenizers.Bytes())
    assert [text.add(b) for b in "aé€".encode()] == ["a", "", "é", "", "", "€"]
    broken = _Text(tokenizers.Bytes())
    assert "".join(broken.add(b) for b in b"\xff\xff\xff\xffab").endswith("ab")


@pytest.mark.parametrize(
    "prompt, sampling, said",
    [
        ("x" * 32, {}, "33 tokens and the models were trained on contexts of 32"),
        ("x" * 20, {"max_tokens": 30}, "at most 11"),
        ("a\0b", {}, "byte 0"),
        ("\ud800", {}, "not text"),
    ],
)
def test_prompts_that_cannot_be(generator, prompt, sampling, said):
    with pytest.raises(UserError, match=said):
        generator(prompt, Sampling(**sampling))


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"seed": -1}, {"max_tokens": 0}])
def test_sampling_that_cannot_be(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_prompts_of_token_studies():
    assert encode(tokenizers.Ready(50), "3, 4 5") == [3, 4, 5]
    for prompt in ("", "x", "3 50"):
        with pytest.raises(UserError, match="0 to 49"):
            encode(tokenizers.Ready(50), prompt)


@pytest.mark.slow
def test_classifier():
    """Against the family's own evaluation; in batches of any size; the sheet is a picture."""
    trained, pictures = make(CNN(stages=2), width=8, depth=1).trained, images(5)
    classifier = Classifier(trained)
    found = classifier(pictures)
    normalized = (pictures.astype(np.float32) / 255 - 0.5) / 0.25
    for label in (0, 7):
        batch = {"image": normalized, "label": jnp.full(5, label)}
        nats = float(trained.model.evaluate(trained.params, batch)["loss_sum"])
        assert -sum(np.log(one.probabilities[label]) for one in found) == pytest.approx(nats, rel=1e-4)
    assert [one.label for one in classifier(pictures[:2])] == [one.label for one in found[:2]]
    assert contact_sheet(pictures, found, [0] * 5).startswith(b"\x89PNG")
    with pytest.raises(UserError, match="uint8 "):
        classifier(pictures[:, :4])
    with pytest.raises(UserError, match="classify"):
        Generator(trained, None)
    with pytest.raises(UserError, match="sample"):
        Classifier(make().trained)
