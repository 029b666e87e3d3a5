"""A token family that compiles in a fraction of a transformer's time, for tests of everything around a model."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from scaling_jax.models import Counts, Model, accounting, mean_loss, register
from scaling_jax.models.parametrization import EMBEDDING, HIDDEN, OUTPUT

ROLES = {"embed": EMBEDDING, "hidden": HIDDEN, "head": OUTPUT}


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bigram:
    """Each token from the one before: `depth` layers of `width` squared ReLUs between an embedding and a head."""

    name: ClassVar[str] = "bigram"
    inputs: ClassVar[str] = "tokens"

    def check(self, width, depth, spec):
        """Every width and depth can be built."""

    def counts(self, width, depth, spec):
        hidden, head = depth * width**2, width * spec.vocab_size
        flops = accounting.training_flops(accounting.matmul_flops(hidden + head))
        return Counts(hidden + 2 * head, hidden, hidden + head, flops)

    def activation_bytes(self, width, depth, spec, batch_size, execution):
        return 4 * batch_size * spec.context * (2 * depth * width + 2 * spec.vocab_size)

    def build(self, width, depth, spec, scaling, execution):
        dtype, vocab = jnp.dtype(execution.compute_dtype), spec.vocab_size
        shapes = {"embed": (vocab, width), "hidden": (depth, width, width), "head": (width, vocab)}
        stds = {name: scaling.std(ROLES[name], width) for name in shapes}

        def init(key):
            # Hashed positions: random numbers of JAX's own take seconds to compile.
            seed = jnp.sum(jax.random.key_data(key) * jnp.uint32(0x9E3779B9), dtype=jnp.uint32)
            params = {}
            for number, (name, shape) in enumerate(shapes.items()):
                bits = jnp.arange(math.prod(shape), dtype=jnp.uint32) + jnp.uint32(number << 24)
                for shift in (16, 13, 16):
                    bits = (bits ^ seed ^ (bits >> shift)) * jnp.uint32(0x85EBCA6B)
                params[name] = stds[name] * 3**0.5 * (bits.reshape(shape) / 2.0**31 - 1.0)
            return params

        def nats(params, batch_BxT1):
            params = jax.tree.map(lambda p: p.astype(dtype), params)
            x_BxTxM = params["embed"][batch_BxT1[:, :-1]]
            for i in range(depth):
                x_BxTxM = jnp.square(jax.nn.relu(x_BxTxM @ params["hidden"][i]))
            logits_BxTxV = (x_BxTxM @ params["head"]).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, batch_BxT1[:, 1:])

        def loss(params, batch_BxT1):
            return jnp.mean(nats(params, batch_BxT1)), {}

        def evaluate(params, batch_BxT1):
            nats_BxT = nats(params, batch_BxT1)
            return {"loss_sum": jnp.sum(nats_BxT), "count": jnp.int32(nats_BxT.size)}

        rules = scaling.array_rules(jax.eval_shape(init, jax.random.key(0)), lambda path: ROLES[path[-1]])
        return Model(init=init, loss=loss, evaluate=evaluate, metrics=mean_loss, **rules)
