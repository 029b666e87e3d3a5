"""The protocol: what docs/families.md says runs as written, and every family keeps what it promises."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling_jax.models import CNN, MLP, Scaling, Spec, Transformer, family, from_dict, metrics, optimizers
from scaling_jax.study import Execution, Study
from scaling_jax.training import verify

DOCS = pathlib.Path(__file__).parents[1] / "docs" / "families.md"
EXECUTION = Execution(compute_dtype="float32", scan_layers=False, remat=False, attention="xla")
DIGITS = Spec("images", 10, 1, (8, 8, 1))


@pytest.fixture(scope="module")
def documented():
    """The names that the code blocks of docs/families.md define, run in order."""
    registered, rules = dict(family.FAMILIES), dict(optimizers.OPTIMIZERS)
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)
    names = {"__name__": "families"}
    for block in blocks:
        exec(compile(block, str(DOCS), "exec"), names)
    yield names
    family.FAMILIES.clear()
    family.FAMILIES.update(registered)
    optimizers.OPTIMIZERS.clear()
    optimizers.OPTIMIZERS.update(rules)


def test_the_documented_study_is_one(documented):
    study = documented["get_study"]()
    assert isinstance(study, Study)
    assert from_dict(study.to_dict()["family"]) == documented["RandomFeatures"]()


@pytest.mark.parametrize("name", ["RandomFeatures", "NNXNet", "MLP"])
def test_a_family_counts_and_learns(name, documented):
    chosen = documented.get(name, MLP)()
    width, depth = 32, 1 if name == "RandomFeatures" else 3
    model = chosen.build(width, depth, DIGITS, Scaling("mup", width, 32), EXECUTION)
    rng = np.random.default_rng(0)
    label_B = jnp.asarray(np.arange(40) % 10)
    batch = {"image": jnp.asarray(rng.normal(size=(10, 8, 8, 1)), jnp.float32)[label_B], "label": label_B}
    # Two lanes, as the engine trains them.
    params = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 2))
    assert chosen.counts(width, depth, DIGITS).params_total == sum(leaf[0].size for leaf in jax.tree.leaves(params))
    assert jax.tree.structure(params) == jax.tree.structure(model.lr_multipliers)
    assert jax.tree.structure(params) == jax.tree.structure(model.decay_mask)

    def step(params):
        grads = jax.grad(lambda p: model.loss(p, batch)[0])(params)
        return jax.tree.map(lambda p, g, m: p - 0.1 * m * g, params, grads, model.lr_multipliers)

    trained = jax.jit(jax.vmap(lambda p: jax.lax.fori_loop(0, 200, lambda _, p: step(p), p)))(params)
    for lane in range(2):
        sums = jax.jit(model.evaluate)(jax.tree.map(lambda x, lane=lane: x[lane], trained), batch)
        found = model.metrics(jax.tree.map(np.asarray, sums))
        assert found["loss"] < 0.5 * np.log(10)
        assert found["accuracy"] == 1 - found["error"]
        assert set(found) == {"loss", *(metric.name for metric in metrics.of("images"))}


def test_the_documented_token_family_counts_learns_and_trains_in_lanes(documented):
    family, spec = documented["GRU"](), Spec("tokens", 16, 8)
    for width, depth in ((16, 1), (24, 3)):
        verify.check_counts(family, width, depth, spec)
    model = family.build(16, 2, spec, Scaling("mup", 16, 16), EXECUTION)
    batch = (jnp.arange(9)[None] * 3 + jnp.arange(12)[:, None]) % 16  # the next token is this one plus 3
    params = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(0), 2))

    def step(params):
        grads = jax.grad(lambda p: model.loss(p, batch)[0])(params)
        return jax.tree.map(lambda p, g, m: p - 0.5 * m * g, params, grads, model.lr_multipliers)

    trained = jax.jit(jax.vmap(lambda p: jax.lax.fori_loop(0, 300, lambda _, p: step(p), p)))(params)
    sums = jax.tree.map(np.asarray, jax.jit(jax.vmap(model.evaluate, (0, None)))(trained, batch))
    assert (sums["loss_sum"] / sums["count"] < 0.5 * np.log(16)).all()
    assert (sums["count"] == batch[:, 1:].size).all()
    first = jax.jit(model.evaluate)(jax.tree.map(lambda x: x[0], params), batch)
    assert model.metrics(first)["loss"] == pytest.approx(np.log(16), rel=1e-5)  # the head starts at zero


@pytest.mark.parametrize(("width", "depth"), [(16, 1), (48, 4)])
def test_counts_of_the_mlp_are_the_real_parameters(width, depth):
    model = MLP().build(width, depth, DIGITS, Scaling("mup", width, 16), EXECUTION)
    params, counts = jax.eval_shape(model.init, jax.random.key(0)), MLP().counts(width, depth, DIGITS)
    assert counts.params_total == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert counts.params_non_embedding == counts.params_total - params["head"].size
    assert all(leaf.size for leaf in jax.tree.leaves(params)), "an array without entries cannot be checkpointed"


@pytest.mark.parametrize("depth", [1, 3])
def test_flops_of_the_mlp_are_those_of_xla(depth):
    spec = Spec("images", 10, 1, (28, 28, 1))
    model = MLP().build(512, depth, spec, Scaling("mup", 512, 512), EXECUTION)
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = {"image": jnp.zeros((512, 28, 28, 1)), "label": jnp.zeros(512, jnp.int32)}
    gradient = jax.jit(jax.grad(lambda p, b: model.loss(p, b)[0]))
    xla = gradient.lower(params, batch).cost_analysis()["flops"] / 512
    assert MLP().counts(512, depth, spec).flops_per_token == pytest.approx(xla, rel=0.02)


@pytest.mark.parametrize("chosen", [Transformer(head_dim=16), CNN(stages=2), MLP(label_smoothing=0.1)])
def test_options_survive_json(chosen):
    assert from_dict({"name": chosen.name, **dataclasses.asdict(chosen)}) == chosen


def test_unknown_family():
    with pytest.raises(KeyError, match=r"'rnn' is not registered; known: .*cnn, .*mlp, .*transformer"):
        from_dict({"name": "rnn"})
