"""Initial scales and rates by role: the published table, and what it is for."""

import jax
import jax.numpy as jnp
import pytest
from model_checks import assert_mup_is_flat_and_standard_is_not, slopes

from scaling_jax.models import CNN, MLP, Scaling, Spec, Transformer, classification, transformer
from scaling_jax.models.parametrization import normal_init
from scaling_jax.study import Execution

EXECUTION = Execution(compute_dtype="float32", scan_layers=False, remat=False, attention="xla")


@pytest.mark.parametrize(
    ("role", "std", "adamw", "sgd", "muon"),
    [  # Table 3 of arXiv:2203.03466 at 4 x the base width, fan-in 16; the output starts at zero
        ("embedding", 1.0, 1.0, 4.0, 1.0),
        ("input", 0.25, 1.0, 4.0, 1.0),
        ("hidden", 0.25, 0.25, 1.0, 0.5),
        ("output", 0.0, 0.25, 0.25, 0.25),
        ("vector", None, 1.0, 4.0, 1.0),
        ("scalar", None, 1.0, 1.0, 1.0),
    ],
)
def test_mup_table(role, std, adamw, sgd, muon):
    if std is not None:
        assert Scaling("mup", 128, 32).std(role, 16) == std
    rates = {"adamw": adamw, "lion": adamw, "schedule_free_adamw": adamw, "sgd": sgd, "muon": muon}
    for optimizer, expected in rates.items():
        assert Scaling("mup", 128, 32, optimizer).lr_multiplier(role) == expected
        assert Scaling("mup", 32, 32, optimizer).lr_multiplier(role) == 1.0
        assert Scaling("standard", 128, 32, optimizer).lr_multiplier(role) == 1.0


def test_roles_of_the_transformer():
    model = Transformer(head_dim=16).build(64, 1, Spec("tokens", 32, 8), Scaling("mup", 64, 16, "sgd"), EXECUTION)
    layer = model.lr_multipliers["layer_0"]
    assert (model.lr_multipliers["embed"], model.lr_multipliers["head"]) == (4.0, 0.25)
    assert (layer["qkv"], layer["mlp_gain"], layer["q_gain"]) == (1.0, 4.0, 1.0)
    decays = {jax.tree_util.keystr(path) for path, on in jax.tree.leaves_with_path(model.decay_mask) if on}
    assert decays == {"['head']", *(f"['layer_0']['{name}']" for name in ("qkv", "out", "up", "down"))}


def test_roles_of_the_cnn():
    model = CNN(stages=2).build(32, 1, Spec("images", 10, 1, (8, 8, 1)), Scaling("mup", 32, 8, "sgd"), EXECUTION)
    rates, block = model.lr_multipliers, model.lr_multipliers["stage1_block0"]
    assert (rates["stem"], rates["head"], rates["final_gain"], rates["final_bias"]) == (4.0, 0.25, 4.0, 4.0)
    assert (block["conv1"], block["shortcut"], block["norm1_gain"], block["norm1_bias"]) == (1.0, 1.0, 4.0, 4.0)
    off = {jax.tree_util.keystr(path)[-6:-2] for path, on in jax.tree.leaves_with_path(model.decay_mask) if not on}
    assert off == {"gain", "bias"}


def test_zero_std_is_exactly_zero():
    assert not normal_init(0.0)(jax.random.key(0), (3, 3)).any()
    assert float(jnp.std(normal_init(0.5)(jax.random.key(0), (100, 100)))) == pytest.approx(0.5, rel=0.05)


@pytest.mark.slow
def test_transformer_coordinates():
    batch = jax.random.randint(jax.random.key(9), (4, 17), 0, 64)

    def logits_of(model, params, batch):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transformer, "summed_scores", lambda x_BxTxM, head_MxV, _: {"loss_sum": x_BxTxM @ head_MxV})
            return model.evaluate(params, batch)["loss_sum"]

    found = slopes(
        Transformer(head_dim=16),
        logits_of,
        batch,
        Spec("tokens", 64, 16),
        EXECUTION,
        widths=(32, 64, 128, 256),
        depth=1,
        rates={"adamw": 1e-3, "sgd": 0.5},
    )
    assert_mup_is_flat_and_standard_is_not(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "widths", "depth"), [(CNN(stages=2), (8, 16, 32, 64), 1), (MLP(), (64, 128, 256, 512), 3)]
)
def test_classifier_coordinates(family, widths, depth, monkeypatch):
    functions = classification.functions

    def with_logits(logits, smoothing):
        return {**functions(logits, smoothing), "evaluate": lambda params, batch: logits(params, batch["image"])}

    monkeypatch.setattr(classification, "functions", with_logits)
    batch = {"image": jax.random.normal(jax.random.key(3), (16, 8, 8, 1)), "label": jnp.arange(16) % 10}
    found = slopes(
        family,
        lambda model, params, batch: model.evaluate(params, batch),
        batch,
        Spec("images", 10, 1, (8, 8, 1)),
        EXECUTION,
        widths,
        depth,
        rates={"adamw": 1e-3, "sgd": 0.05},
    )
    assert_mup_is_flat_and_standard_is_not(found)
