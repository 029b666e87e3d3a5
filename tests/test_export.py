"""What is exported is read by others: safetensors and jax.export in a process without this package, transformers."""

import json
import subprocess
import sys

import numpy as np
import pytest
from ladder import run_here
from trained_models import CNN, images, make

from scaling_jax.errors import UserError
from scaling_jax.models import MLP, Transformer
from scaling_jax.trained import huggingface
from scaling_jax.trained.export import export, flat

FRESH = """
import json, sys
import jax, jax.export, numpy as np
from safetensors.numpy import load_file
for folder in sys.argv[1:]:
    with open(f"{folder}/forward.jaxexport", "rb") as file:
        forward = jax.export.deserialize(bytearray(file.read()))
    assert set(forward.platforms) == {"cpu", "cuda", "tpu"}
    logits = forward.call(load_file(f"{folder}/model.safetensors"), np.load(f"{folder}-inputs.npy"))
    np.save(f"{folder}-logits.npy", logits)
assert not any(name.split(".")[0] in ("scaling_jax", "flax") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Name -> (folder, model, inputs, logits) of a transformer and a CNN."""
    folder, out = tmp_path_factory.mktemp("export"), {}
    for name, made in (
        ("text", make(parametrization="completep", context=16)),
        ("images", make(CNN(stages=2), width=8, depth=1)),
    ):
        lines = export(made, made.trained, folder / name)
        if name == "text":
            inputs = np.random.default_rng(0).integers(0, 256, (3, 16)).astype(np.int32)
            logits = made.trained.logits(inputs)
        else:
            inputs = images(3)
            logits = made.trained.logits((inputs.astype(np.float32) / 255 - 0.5) / 0.25)
        np.save(folder / f"{name}-inputs.npy", inputs)
        out[name] = folder / name, made.trained, inputs, np.asarray(logits), lines
    return out


def test_reloaded_without_this_package(exported):
    folders = [str(folder) for folder, *_ in exported.values()]
    subprocess.run([sys.executable, "-I", "-c", FRESH, *folders], check=True)
    for folder, _, _, logits, _ in exported.values():
        found = np.load(f"{folder}-logits.npy")
        assert np.abs(logits).max() > 0.5
        np.testing.assert_allclose(found, logits, atol=1e-5 * max(1, np.abs(logits).max()))


def test_the_files(exported):
    folder, trained, *_, lines = exported["text"]
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "forward.jaxexport", "config.json", "tokenizer.json", "transformers",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["family"]["name"] == "transformer" and config["context"] == 16 and config["run"]["loss"] == 2.0
    assert "transformers/ (Qwen3ForCausalLM)" in lines
    assert set(flat(trained.params)) >= {"embed", "head", "layer_0.qkv", "layer_1.down"}
    assert "no architecture for family 'cnn'" in exported["images"][4]
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "héllo,\n\t wörld  €"
    assert tokenizer.encode(text).ids == list(text.encode()) and tokenizer.decode(list(text.encode())) == text


def test_the_transformers_layout_computes_the_same(exported):
    """Qwen3 by hand, from its published equations and the weights under its names (transformers need not be here)."""
    from safetensors.numpy import load_file

    folder, _, tokens, logits, _ = exported["text"]
    w, c = (
        load_file(folder / "transformers" / "model.safetensors"),
        json.loads((folder / "transformers" / "config.json").read_text()),
    )
    N, H, T = c["num_attention_heads"], c["head_dim"], 16

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c["rms_norm_eps"]) * w[f"{name}.weight"]

    angle = np.arange(T)[:, None] * c["rope_theta"] ** (-np.arange(0, H, 2) / H)[None]
    cos, sin = (np.concatenate([f(angle)] * 2, -1)[None, :, None] for f in (np.cos, np.sin))

    def rotate(x):
        return x * cos + np.concatenate([-x[..., H // 2 :], x[..., : H // 2]], -1) * sin

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        h = norm(x, f"{layer}.input_layernorm")
        q, k, v = ((h @ w[f"{layer}.self_attn.{n}_proj.weight"].T).reshape(3, T, N, H) for n in "qkv")
        q, k = rotate(norm(q, f"{layer}.self_attn.q_norm")), rotate(norm(k, f"{layer}.self_attn.k_norm"))
        scores = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(H)
        scores = np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("bnts,bsnh->btnh", p / p.sum(-1, keepdims=True), v).reshape(3, T, N * H)
        x = x + mixed @ w[f"{layer}.self_attn.o_proj.weight"].T
        h = norm(x, f"{layer}.post_attention_layernorm")
        gate, up = (h @ w[f"{layer}.mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (np.maximum(gate, 0) * up) @ w[f"{layer}.mlp.down_proj.weight"].T
    found = norm(x, "model.norm") @ w["lm_head.weight"].T
    np.testing.assert_allclose(found, logits, atol=2e-5 * np.abs(logits).max())


def test_transformers_itself(exported):
    torch, transformers = (pytest.importorskip(name) for name in ("torch", "transformers"))
    folder, _, tokens, logits, _ = exported["text"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "transformers")
    with torch.no_grad():
        found = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(found, logits, atol=2e-5 * np.abs(logits).max())


@pytest.mark.parametrize(
    "family, said",
    [
        (Transformer(head_dim=8, activation="gelu"), "activation=gelu"),
        (Transformer(head_dim=8, short_conv=3), "short_conv"),
        (MLP(), "family 'mlp'"),
    ],
)
def test_what_no_architecture_matches(family, said):
    assert said in huggingface.mismatch(make(family, depth=1).trained)


def test_bad_input(tmp_path):
    made = make(depth=1, context=8)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("x")
    for out in ("full", "full/a"):
        with pytest.raises(UserError, match="not an empty folder"):
            export(made, made.trained, tmp_path / out)
    code, _, err = run_here("export", f"--workdir={tmp_path}", f"--out={tmp_path / 'new'}")
    assert code == 2 and "not a workdir" in err and not (tmp_path / "new").exists()
    code, _, err = run_here("export", f"--workdir={tmp_path}")
    assert code == 2 and "--out=FOLDER" in err
