"""Models in forward mode: directional derivatives and Hessian-vector products, against reverse mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling_jax.models import CNN, MLP, Scaling, Spec, Transformer, layers
from scaling_jax.models.autodiff import linear_map
from scaling_jax.study import Execution


def dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        (Transformer(head_dim=8), {}),
        (Transformer(head_dim=8, activation="gelu"), {"scan_layers": True, "remat": True, "attention": "xla"}),
        (CNN(stages=2), {}),
        (MLP(), {}),
    ],
)
def test_every_family_has_directional_derivatives_and_hessian_vector_products(family, changes):
    settings = {"compute_dtype": "float32", "scan_layers": False, "remat": False, "attention": "blocked"}
    execution = Execution(**settings | changes)
    if family.inputs == "tokens":
        spec, batch = Spec("tokens", 32, 8), jax.random.randint(jax.random.key(1), (4, 9), 0, 32)
    else:
        spec = Spec("images", 10, 1, (8, 8, 1))
        batch = {"image": jax.random.normal(jax.random.key(1), (4, 8, 8, 1)), "label": jnp.arange(4)}
    model = family.build(8, 2, spec, Scaling("standard", 8, 8), execution)
    params = jax.jit(model.init)(jax.random.key(0))
    direction = jax.tree.map(lambda p: jax.random.normal(jax.random.key(3), p.shape), params)

    def loss(params):
        return model.loss(params, batch)[0]

    @jax.jit
    def derivatives(params, direction):
        gradient, forward_over_reverse = jax.jvp(jax.grad(loss), (params,), (direction,))
        reverse_over_reverse = jax.grad(lambda p: dot(jax.grad(loss)(p), direction))(params)
        reverse_over_forward = jax.grad(lambda p: jax.jvp(loss, (p,), (direction,))[1])(params)
        slope = jax.jvp(loss, (params,), (direction,))[1]
        return gradient, slope, forward_over_reverse, reverse_over_reverse, reverse_over_forward

    gradient, slope, product, *others = derivatives(params, direction)
    np.testing.assert_allclose(slope, dot(gradient, direction), rtol=1e-4)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), product, other)
    assert dot(product, product) > 0


LAYERS = {
    "linear": (layers.linear, lambda x, w: x @ w, (5, 7), (7, 3)),
    "wide linear": (layers.linear, lambda x, w: x @ w, (5, 3), (3, 7)),
    "norm": (
        layers.rms_norm,
        lambda x, g: x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + layers.NORM_EPSILON) * g[None],
        (5, 7),
        (7,),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_the_plain_expressions_under_every_transformation(name):
    ours, plain, *shapes = LAYERS[name]
    args = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    lanes = [jnp.stack([a, 2 * a, -a]) for a in args]

    def everything(layer):
        def scalar(*args):
            return jnp.sum(jnp.sin(layer(*args)))

        gradient = jax.grad(scalar, (0, 1))
        return (
            layer(*args),
            gradient(*args),
            jax.jvp(layer, args, args),
            jax.jvp(gradient, args, args),
            jax.vmap(gradient)(*lanes),
            jax.vmap(gradient, (0, None))(lanes[0], args[1]),
            jax.vmap(gradient, (None, 0))(args[0], lanes[1]),
            jax.grad(lambda w: jax.vmap(lambda x: scalar(x, w))(lanes[0]).sum())(args[1]),
            jax.hessian(scalar, 1)(*args),
        )

    got, wanted = (jax.jit(functools.partial(everything, layer))() for layer in (ours, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), got, wanted)


def test_embeddings_are_rows_of_the_table():
    table, tokens = jax.random.normal(jax.random.key(0), (6, 3)), jnp.array([[0, 5, 0], [2, 2, 1]])
    assert (layers.embed(table, tokens) == table[tokens]).all()
    gradient = jax.grad(lambda t: jnp.sum(layers.embed(t, tokens) ** 2))(table)
    wanted = np.zeros((6, 3))
    for row in np.ravel(tokens):
        wanted[row] += 2 * np.asarray(table)[row]
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6)
    assert (jax.jvp(lambda t: layers.embed(t, tokens), (table,), (table,))[1] == table[tokens]).all()


def test_the_transpose_given_is_the_one_that_is_used():
    """A transpose that is wrong on purpose shows in the gradient, and in no directional derivative."""

    def double(x):
        return linear_map(lambda _, x: 2 * x, lambda _, g: 7 * g, (), x)

    assert jax.grad(double)(1.0) == 7
    assert jax.jvp(double, (1.0,), (1.0,)) == (2, 2)
    np.testing.assert_array_equal(jax.vmap(jax.grad(double))(jnp.ones(3)), 7)
