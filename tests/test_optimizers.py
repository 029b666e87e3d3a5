"""Registered optimizers against formulas in float64 NumPy, in every layout, and the transfer over width and depth."""

import dataclasses
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import ladder
import numpy as np
import optax
import packs
import pytest

from scaling_jax.errors import UserError
from scaling_jax.models import MLP, Scaling, Spec, Transformer, metrics, optimizers
from scaling_jax.models.family import Counts
from scaling_jax.planning import Phase, make_plan, memory_bytes
from scaling_jax.study import Execution, Optimizer
from scaling_jax.training import optimizers as training_optimizers
from scaling_jax.training import verify

STEPS, DECAY = 4, 0.1
ROLES = {"matrix": "hidden", "layers": "hidden", "embed": "embedding", "bias": "vector"}
SHAPES = {"matrix": (4, 6), "layers": (2, 5, 3), "embed": (7, 4), "bias": (6,)}
MULTIPLIERS = {"matrix": 0.5, "layers": 0.25, "embed": 1.0, "bias": 2.0}
EXECUTION = Execution(compute_dtype="float32", scan_layers=True, remat=False, attention="xla")


def rates():
    return 0.01 * np.array([0.5, 1.0, 1.0, 0.25])


def problem():
    """(initial parameters, gradients of every step), float64."""
    rng = np.random.default_rng(0)
    draw = lambda: {name: rng.normal(size=shape) for name, shape in SHAPES.items()}  # noqa: E731
    return draw(), [draw() for _ in range(STEPS)]


def trained(optimizer: Optimizer, b2: float | None = None):
    """(parameters, evaluated parameters) after STEPS updates by the engine's code."""
    model = types.SimpleNamespace(
        roles=ROLES,
        lr_multipliers=MULTIPLIERS,
        decay_mask={name: name != "bias" for name in SHAPES},
        eps_multiplier=1.0,
    )
    params, grads = jax.tree.map(jnp.float32, problem())
    state = training_optimizers.init(model, optimizer, params)
    update = jax.jit(lambda *args: training_optimizers.update(model, optimizer, *args))
    for rate, gradient in zip(rates(), grads):
        params, state = update(gradient, state, params, jnp.float32(rate), jnp.float32(DECAY), b2)
    return params, training_optimizers.evaluation_params(optimizer, {"params": params, "opt_state": state})


def descend(direction_of):
    """The update rule of the engine, by hand: `direction_of(name, step, gradient, state) -> direction`."""
    params, grads = problem()
    for name in params:
        state = {}
        for step, (rate, gradient) in enumerate(zip(rates(), grads)):
            decay = DECAY * params[name] if name != "bias" else 0.0
            direction = direction_of(name, step + 1, gradient[name], state)
            params[name] = params[name] - rate * (MULTIPLIERS[name] * direction + decay)
    return params


def adam(step, g, state, b1=0.9, b2=0.95, eps=1e-8):
    state["m"] = b1 * state.get("m", 0) + (1 - b1) * g
    state["v"] = b2 * state.get("v", 0) + (1 - b2) * g**2
    return state["m"] / (1 - b1**step) / (np.sqrt(state["v"] / (1 - b2**step)) + eps)


def orthogonalized(x, iterations):
    """Jordan's quintic Newton-Schulz iteration."""
    turned = x.shape[0] > x.shape[1]
    x = (x.T if turned else x) / np.linalg.norm(x)
    for _ in range(iterations):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if turned else x


def assert_close(got, wanted, rtol=2e-4):
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=rtol, atol=2e-6, err_msg=name)


def test_adamw_and_sgd_are_their_formulas():
    assert_close(trained(Optimizer(clip_norm=0))[0], descend(lambda name, step, g, state: adam(step, g, state)))

    def momentum(name, step, g, state):
        state["m"] = 0.8 * state.get("m", 0) + g
        return state["m"]

    assert_close(trained(Optimizer(name="sgd", momentum=0.8, clip_norm=0))[0], descend(momentum))


def test_lion_is_its_formula():
    def lion(name, step, g, state):
        m = state.get("m", np.zeros_like(g))
        state["m"] = 0.98 * m + 0.02 * g
        return np.sign(0.8 * m + 0.2 * g)

    assert_close(trained(Optimizer(name="lion", options={"b1": 0.8, "b2": 0.98}, clip_norm=0))[0], descend(lion))


@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw", "muon"])
def test_beta2_may_be_data_of_the_program(name):
    wanted = trained(Optimizer(name=name, b2=0.8))
    assert_close(trained(Optimizer(name=name, b2=(0.5, 0.8)), jnp.float32(0.8))[1], wanted[1])


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_orthogonalizes_hidden_matrices_and_is_adam_elsewhere(nesterov):
    beta, iterations, rms = 0.9, 3, 0.3

    def muon(name, step, g, state):
        if ROLES[name] != "hidden":
            return adam(step, g, state)
        state["m"] = beta * state.get("m", 0) + (1 - beta) * g
        if nesterov:
            m = beta * state["m"] / (1 - beta ** (step + 1)) + (1 - beta) * g / (1 - beta**step)
        else:
            m = state["m"] / (1 - beta**step)
        each = m if m.ndim == 3 else m[None]
        out = np.stack([orthogonalized(x, iterations) for x in each]) * rms * np.sqrt(max(each.shape[1:]))
        return out.reshape(m.shape)

    options = {"momentum": beta, "ns_steps": iterations, "rms": rms, "nesterov": nesterov}
    assert_close(trained(Optimizer(name="muon", options=options, clip_norm=0))[0], descend(muon), rtol=2e-3)


def test_schedule_free_adamw_is_its_formula():
    b1, b2 = 0.9, 0.95
    params, grads = problem()
    evaluated = {}
    for name, y in params.items():
        x = z = y
        v, total = 0.0, 0.0
        largest = 0.0
        for step, (rate, gradient) in enumerate(zip(rates(), grads), 1):
            g = gradient[name]
            v = b2 * v + (1 - b2) * g**2
            decay = DECAY * y if name != "bias" else 0.0
            z = z - rate * (MULTIPLIERS[name] * g / (np.sqrt(v / (1 - b2**step)) + 1e-8) + decay)
            largest = max(largest, rate)
            total += largest**2
            x = x + largest**2 / total * (z - x)
            y = b1 * x + (1 - b1) * z
        params[name], evaluated[name] = y, x
    got = trained(Optimizer(name="schedule_free_adamw", b1=b1, b2=b2, clip_norm=0))
    assert_close(got[0], params)
    assert_close(got[1], evaluated)


@pytest.fixture
def lamb():
    """An optax factory of the user's."""

    @optimizers.register("lamb", rates=optimizers.ADAM_RATES)
    def lamb(b1=0.9, b2=0.999):
        return optax.lamb(1.0, b1=b1, b2=b2)

    yield "lamb"
    del optimizers.OPTIMIZERS["lamb"]


def test_a_factory_of_the_user_is_trained_with(lamb):
    tx = optax.lamb(1.0, b1=0.8)
    params, grads = jax.tree.map(jnp.float32, problem())
    state = tx.init(params)
    for rate, gradient in zip(rates(), grads):
        updates, state = tx.update(gradient, state, params)
        for name in params:
            decay = DECAY * params[name] if name != "bias" else 0.0
            params[name] = params[name] + rate * (MULTIPLIERS[name] * updates[name] - decay)
    assert_close(trained(Optimizer(name=lamb, options={"b1": 0.8}, clip_norm=0))[0], params)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "muon", "schedule_free_adamw"])
def test_registered_optimizers_descend(name):
    verify.check_optimizer(Optimizer(name=name))
    verify.check_optimizer(Optimizer(name=name, b2=(0.9, "1 - 1 / S")))  # swept, or a rule


def test_an_optimizer_that_would_ascend_or_refuses_its_options_is_refused(lamb):
    verify.check_optimizer(Optimizer(name=lamb))
    optimizers.register("signs", rates=optimizers.ADAM_RATES)(lambda: optax.scale_by_sign())
    try:
        with pytest.raises(UserError, match="'signs' is registered with descends=True, .* ascend; .*descends=False"):
            verify.check_optimizer(Optimizer(name="signs"))
        optimizers.register("signs", rates=optimizers.ADAM_RATES, descends=False)(lambda: optax.scale_by_sign())
        verify.check_optimizer(Optimizer(name="signs"))
    finally:
        del optimizers.OPTIMIZERS["signs"]


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("muon", "ns_steps", "many", "'muon' refuses options ns_steps='many'"),
        ("muon", "ns_steps", -1, "ns_steps=-1 is not a whole number from 1 to 100"),
        ("muon", "momentum", 2, r"momentum=2 is not in \[0, 1\)"),
        ("muon", "rms", -1, "rms=-1 is not positive"),
        ("lion", "b1", 7, r"b1=7 is not in \[0, 1\)"),
    ],
)
def test_options_that_cannot_be_are_found_by_the_plan(tmp_path, name, option, value, message):
    study = ladder.write_study(tmp_path)
    sets = [f"--set=optimizer.name={name}", f"--set=optimizer.options.{option}={value}"]
    code, out, err = ladder.run_here("plan", f"--study={study}", *sets)
    assert (code, out) == (2, "") and re.search(message, err) and err.count("\n") == 1, err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "schedule_free_adamw"])
def test_lanes_train_alike_in_every_layout(name):
    study = packs.make_study(rates=(0.01, 0.02), optimizer={"name": name})
    phase = Phase("trunk", 0, 30, 2**31 - 1, 2**31 - 1, -1)
    found = []
    for layout, mesh in (("map", (1, 1, 1)), ("vmap", (1, 1, 1)), ("sequential", (1, 1, 2))):
        program = packs.make_program(study, layout, mesh)
        states, losses = packs.run_phase(program, phase)
        sums = program.fetch(program.evaluate(states))
        found.append((losses, [float(s["loss_sum"] / s["count"]) for s in sums]))
    losses, evaluated = found[0]
    assert (losses[:, -1] < losses[:, 0] - 0.3).all()
    for other in found[1:]:
        np.testing.assert_allclose(other[0], losses, rtol=1e-4)
        np.testing.assert_allclose(other[1], evaluated, rtol=1e-4)


@pytest.mark.parametrize(("name", "arrays"), [("adamw", 3), ("sgd", 2), ("lion", 2), ("schedule_free_adamw", 3)])
def test_planned_memory_has_the_arrays_of_the_state(name, arrays):
    def held(optimizer):
        study = packs.make_study(rates=(0.02,), optimizer={"name": optimizer})
        (pack,) = make_plan(study, packs.SPEC)
        execution = dataclasses.replace(EXECUTION, layout="map")
        return memory_bytes(study, pack, packs.SPEC, (1, 1, 1), execution), pack.counts.params_total

    bytes_, params = held(name)
    without, _ = held("sgd")
    assert bytes_ - without == 2 * 4 * params * (arrays - 2)  # the trunk's state and the branch's
    model = types.SimpleNamespace(roles=ROLES, eps_multiplier=1.0)
    state = training_optimizers.init(model, Optimizer(name=name), jax.tree.map(jnp.float32, problem()[0]))
    size = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert size == (arrays - 1) * sum(int(np.prod(shape)) for shape in SHAPES.values())


def test_muon_keeps_one_array_for_hidden_matrices():
    counts = Counts(params_total=100, params_non_embedding=60, params_matmul=80, flops_per_token=1.0)
    assert optimizers.rule("muon").state_size(counts.params_non_embedding, 40) == 60 + 2 * 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adamm"}, "'adamm' is not registered; did you mean 'adamw'"),
        ({"name": "muon", "options": {"steps": 3}}, "'muon' has no option 'steps'; its options: momentum, ns_steps"),
        ({"name": "sgd", "options": {"nesterov": True}}, "'sgd' has no option 'nesterov'; its options: none"),
    ],
)
def test_a_plan_refuses_unknown_optimizers_and_options(changes, message):
    with pytest.raises(UserError, match=message):
        make_plan(packs.make_study(optimizer=changes), packs.SPEC)


def test_a_role_that_the_table_lacks_and_a_family_without_roles():
    with pytest.raises(UserError, match="'adamw' has no muP learning rate for the role 'router'.*standard"):
        Scaling("mup", 64, 32).lr_multiplier("router")
    assert Scaling("standard", 64, 32).lr_multiplier("router") == 1.0
    with pytest.raises(UserError, match="needs the role of every array"):
        optimizers.arguments(Optimizer(name="muon"), None)


def test_completep_table():
    deep = Scaling("completep", 128, 32, "adamw", depth=8, base_depth=2)
    assert deep.branch_multiplier == 0.25
    assert deep.eps_multiplier == 0.25 * 0.25
    assert deep.lr_multiplier("hidden", in_branch=True) == deep.lr_multiplier("hidden") == 0.25
    sgd = dataclasses.replace(deep, optimizer="sgd")
    assert (sgd.lr_multiplier("hidden", in_branch=True), sgd.lr_multiplier("hidden")) == (4.0, 1.0)
    base = Scaling("completep", 32, 32, "sgd", depth=2, base_depth=2)
    assert (base.branch_multiplier, base.eps_multiplier, base.lr_multiplier("hidden", True)) == (1.0, 1.0, 1.0)
    assert Scaling("mup", 128, 32, depth=8, base_depth=2).branch_multiplier is None
    with pytest.raises(UserError, match="no residual branches"):
        MLP().build(32, 4, Spec("images", 10, 1, (8, 8, 1)), deep, EXECUTION)


def first_order_change(name: str, scaling: Scaling, head_std: float) -> float:
    """|dL| to first order, along the first update at one peak rate, of a transformer whose head is fixed.

    Args:
      name: of the optimizer.
      scaling: of the model; its width and depth are the model's.
      head_std: of the head, which starts at zero and would hide the first updates of all that is below it.
    """
    rate = 1e-3
    optimizer, spec = Optimizer(name=name, clip_norm=0), Spec("tokens", 32, 8)
    batch = jax.random.randint(jax.random.key(9), (8, 9), 0, 32)
    model = Transformer(head_dim=8).build(scaling.width, scaling.depth, spec, scaling, EXECUTION)
    params = jax.jit(model.init)(jax.random.key(0))
    params["head"] = head_std * jax.random.normal(jax.random.key(1), params["head"].shape)

    @jax.jit
    def change(params):
        grads = jax.grad(lambda p: model.loss(p, batch)[0])(params)
        grads["head"] = jnp.zeros_like(grads["head"])
        state = training_optimizers.init(model, optimizer, params)
        end, _ = training_optimizers.update(model, optimizer, grads, state, params, rate, 0.0)
        return sum(jax.tree.leaves(jax.tree.map(lambda g, p, e: jnp.vdot(g, e - p), grads, params, end)))

    return abs(float(change(params)))


def slope(change_at, sizes) -> float:
    """d ln(change) / d ln(size) between two sizes."""
    return float(np.diff(np.log([change_at(size) for size in sizes]))[0] / np.diff(np.log(sizes))[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_updates_of_completep_do_not_grow_with_depth(name):
    """Under muP alone they do. So deep that the branches no longer change the size of the residual stream."""
    found = {
        parametrization: slope(
            lambda depth, p=parametrization: first_order_change(name, Scaling(p, 16, 16, name, depth, 2), 0.25),
            (32, 256),
        )
        for parametrization in ("completep", "mup")
    }
    assert abs(found["completep"]) < 0.25, found
    assert found["mup"] > found["completep"] + 0.25, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "lion"])
def test_updates_under_mup_do_not_grow_with_width(name):
    """Under the standard parametrization's rates they do; Adam's and SGD's are in test_models_parametrization."""
    widths = (64, 512)

    def change(width, base_width):
        scaling = Scaling("mup", width, base_width, name, 1)
        return first_order_change(name, scaling, 16 / width)

    assert abs(slope(lambda width: change(width, 64), widths)) < 0.2
    assert slope(lambda width: change(width, width), widths) > 0.35  # base_width = width: one rate for all


def test_the_page_runs_as_written():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "optimizers.md").read_text()
    rules, registered = dict(optimizers.OPTIMIZERS), dict(metrics.METRICS)
    names = {}
    try:
        for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
            exec(compile(block, "docs/optimizers.md", "exec"), names)
        assert optimizers.arguments(names["optimizer"]) == {"b1": 0.97}
        assert [metric.name for metric in metrics.of("images")][-1] == "top2_accuracy"
        for name in rules:  # the table of the page
            assert f"| `{name}` |" in page
    finally:
        for registry, before in ((optimizers.OPTIMIZERS, rules), (metrics.METRICS, registered)):
            registry.clear()
            registry.update(before)
