"""What the families' tests share."""

import jax
import numpy as np

from scaling_jax.models import Scaling


def slopes(family, outputs_of, batch, spec, execution, widths, depth, rates, steps=3):
    """{(parametrization, optimizer): d ln(rms change of the outputs) / d ln(width)} after a few steps at one peak rate.

    The muP coordinate check (Yang et al. 2022, arXiv:2203.03466, appendix D.1).

    Args:
      outputs_of: (model, params, batch) -> array whose entries muP keeps of one size.
      rates: peak rate by optimizer.
    """
    changes = {(parametrization, optimizer): [] for parametrization in ("mup", "standard") for optimizer in rates}
    for width in widths:
        starts, models = {}, {}
        for parametrization, optimizer in changes:
            scaling = Scaling(parametrization, width, widths[0], optimizer)
            model = models[parametrization, optimizer] = family.build(width, depth, spec, scaling, execution)
            if parametrization not in starts:  # the optimizer changes rates only
                starts[parametrization] = jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(0)))

        # A parametrization changes initial values and rates, not the functions: one compilation serves all.
        def gradient_and_outputs(params, model=model):
            return jax.grad(lambda p: model.loss(p, batch)[0])(params), outputs_of(model, params, batch)

        compiled = jax.jit(gradient_and_outputs)
        for (parametrization, optimizer), sizes in changes.items():
            params = starts[parametrization]
            multipliers = models[parametrization, optimizer].lr_multipliers
            first = second = jax.tree.map(np.zeros_like, params)
            outputs = []
            for step in range(1, steps + 2):
                grads, out = jax.tree.map(np.asarray, compiled(params))
                outputs.append(out)
                if optimizer == "adamw":
                    first = jax.tree.map(lambda a, g: 0.9 * a + 0.1 * g, first, grads)
                    second = jax.tree.map(lambda a, g: 0.95 * a + 0.05 * g**2, second, grads)
                    direction = jax.tree.map(
                        lambda a, b, k=step: a / (1 - 0.9**k) / (np.sqrt(b / (1 - 0.95**k)) + 1e-12), first, second
                    )
                else:
                    direction = first = jax.tree.map(lambda a, g: 0.9 * a + g, first, grads)
                rate = rates[optimizer]
                params = jax.tree.map(lambda p, u, m, r=rate: p - np.float32(r * m) * u, params, direction, multipliers)
            sizes.append(np.sqrt(np.mean(np.square(outputs[-1] - outputs[0]))))
    return {case: np.polyfit(np.log(widths), np.log(sizes), 1)[0] for case, sizes in changes.items()}


def assert_mup_is_flat_and_standard_is_not(found):
    """The same test passes for muP and fails for the standard parametrization."""
    for (parametrization, optimizer), slope in found.items():
        if parametrization == "mup":
            assert abs(slope) < 0.2, (parametrization, optimizer, slope)
        else:
            assert slope > 0.35, (parametrization, optimizer, slope)
