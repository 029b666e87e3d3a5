"""Optimizers by name: their update rules come from optax; the transfer over width and depth is ours.

`study.Optimizer.name` picks one. Each has the table that muP and CompleteP need: by how much the learning rate of an
array changes with the width, depending on the array's role, and with the depth, for arrays of residual branches.

  role        adamw, lion, schedule_free_adamw   muon   sgd      array
  embedding   1                                  1      1 / r    lookup table: one active input
  input       1                                  1      1 / r    fixed inputs -> width
  hidden      r                                  r^.5   1        width -> width
  output      r                                  r      r        width -> fixed outputs
  vector      1                                  1      1 / r    biases and gains: one entry per channel
  scalar      1                                  1      1        entries that all channels share

with r = base_width / width. Adam's and Lion's updates do not depend on the size of the gradient, so they share a table
(Yang et al. 2022, arXiv:2203.03466, Table 3). Muon's update of a matrix is orthogonal, scaled to a root mean square of
`rms` as Adam's is (Liu et al. 2025, arXiv:2502.16982); its spectral norm then grows as sqrt(width), where the spectral
condition (Yang et al. 2023, arXiv:2310.17813) asks for a constant, hence sqrt(r).

An optimizer of your own is a factory and its table:

    from scaling_jax.models import optimizers

    @optimizers.register("lamb", rates=optimizers.ADAM_RATES)
    def lamb(b1=0.9, b2=0.999, eps=1e-6):
        return optax.lamb(1.0, b1=b1, b2=b2, eps=eps)  # rate 1: the engine applies rate, transfer and decay

and `Optimizer(name="lamb", options={"b2": 0.99})` trains with it. Learning rate and weight decay (decoupled, on
matrices) are applied by the engine, since they are data of the compiled program that differ by lane.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from scaling_jax.errors import UserError

EMBEDDING, INPUT, HIDDEN, OUTPUT, VECTOR, SCALAR = "embedding", "input", "hidden", "output", "vector", "scalar"

# Exponents of base_width / width, by role.
ADAM_RATES = {EMBEDDING: 0.0, INPUT: 0.0, HIDDEN: 1.0, OUTPUT: 1.0, VECTOR: 0.0, SCALAR: 0.0}
SGD_RATES = {EMBEDDING: -1.0, INPUT: -1.0, HIDDEN: 0.0, OUTPUT: 1.0, VECTOR: -1.0, SCALAR: 0.0}
MUON_RATES = ADAM_RATES | {HIDDEN: 0.5}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One optimizer.

    Attributes:
      name: of `study.Optimizer.name`.
      factory: options -> `optax.GradientTransformation`. An argument `roles` gets the pytree of the arrays' roles.
      rates: exponent of base_width / width in the learning rate of each role under muP.
      depth_rate: exponent of depth / base_depth in the learning rate of residual branches under CompleteP.
      moments: arrays like the parameters that the optimizer keeps for hidden matrices.
      other_moments: the same for all other arrays.
      fields: fields of `study.Optimizer` that are handed to the factory beside its options.
      descends: updates are to be added to the parameters (optax's optimizers at learning rate 1); False for directions
        of ascent (optax's `scale_by_...`).
      schedule_free: the updates go through `optax.contrib.schedule_free`; averaged parameters are evaluated.
    """

    name: str
    factory: Callable[..., Any]
    rates: Mapping[str, float]
    depth_rate: float = 0.0
    moments: int = 2
    other_moments: int = 2
    fields: tuple[str, ...] = ()
    descends: bool = True
    schedule_free: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the factory's options."""
        given = (*self.fields, "roles")
        return tuple(name for name in inspect.signature(self.factory).parameters if name not in given)

    @property
    def defaults(self) -> dict[str, Any]:
        """Values of the options that a study leaves out."""
        parameters = inspect.signature(self.factory).parameters
        return {name: parameters[name].default for name in self.options}

    def width_multiplier(self, role: str, ratio: float) -> float:
        """Factor on the learning rate of an array of this role, `ratio` = base_width / width.

        Raises:
          UserError: the table has no such role.
        """
        if role not in self.rates:
            raise UserError(
                f"optimizer {self.name!r} has no muP learning rate for the role {role!r} (it knows "
                f"{', '.join(self.rates)}); add it to its table, or set parametrization.name=standard"
            )
        exponent = self.rates[role]
        return ratio**exponent if exponent >= 0 else 1.0 / ratio**-exponent

    def state_size(self, params_hidden: int, params_other: int) -> int:
        """Numbers in the optimizer's state, for this many parameters in hidden matrices and elsewhere."""
        return self.moments * params_hidden + self.other_moments * params_other


OPTIMIZERS: dict[str, Rule] = {}


def register(
    name: str,
    *,
    rates: Mapping[str, float],
    depth_rate: float = 0.0,
    moments: int = 2,
    other_moments: int | None = None,
    fields: tuple[str, ...] = (),
    descends: bool = True,
    schedule_free: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator of a factory that makes an optimizer known by name; see `Rule` for the arguments.

    Args:
      name: of `study.Optimizer.name`; an existing name is replaced.
      rates: exponents of base_width / width by role: `ADAM_RATES` for updates whose size does not depend on that of
        the gradient, `SGD_RATES` for updates proportional to it, or a table of your own.
      depth_rate: 0 for the former, 1 for the latter.
      moments: arrays like the parameters in its state, for the plan's memory.
      other_moments: the same for arrays that are not hidden matrices; `moments` by default.
      fields: fields of `study.Optimizer` (b1, b2, eps, momentum) that the factory takes.
      descends: as in `Rule`.
      schedule_free: as in `Rule`.
    """

    def add(factory: Callable[..., Any]) -> Callable[..., Any]:
        others = moments if other_moments is None else other_moments
        OPTIMIZERS[name] = Rule(
            name, factory, dict(rates), depth_rate, moments, others, fields, descends, schedule_free
        )
        return factory

    return add


def rule(name: str) -> Rule:
    """The optimizer of this name.

    Raises:
      UserError: no such optimizer is registered.
    """
    if name not in OPTIMIZERS:
        near = difflib.get_close_matches(name, OPTIMIZERS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"optimizer.name={name!r} is not registered; {hint}known: {', '.join(sorted(OPTIMIZERS))}, "
            "or add your own with scaling_jax.models.optimizers.register"
        )
    return OPTIMIZERS[name]


def check(optimizer: Any) -> Rule:
    """The rule of a `study.Optimizer`, its options checked against the factory's arguments.

    Raises:
      UserError: an unknown optimizer, an option that it does not have, or a value that its factory refuses.
    """
    found = rule(optimizer.name)
    unknown = [name for name in optimizer.options if name not in found.options]
    if unknown:
        known = ", ".join(found.options) or "none"
        raise UserError(f"optimizer.options: {found.name!r} has no option {unknown[0]!r}; its options: {known}")
    if optimizer.options:
        given = {name: value for name in found.fields if isinstance(value := getattr(optimizer, name), float)}
        missing = {name: 0.5 for name in found.fields if name not in given}  # a rule, or data of the program
        roles = {"roles": {}} if "roles" in inspect.signature(found.factory).parameters else {}
        try:
            found.factory(**given, **missing, **roles, **optimizer.options)
        except (TypeError, ValueError) as error:
            options = ", ".join(f"{name}={value!r}" for name, value in optimizer.options.items())
            why = " ".join(str(error).split())
            raise UserError(f"optimizer {found.name!r} refuses options {options}: {why}") from error
    return found


def arguments(optimizer: Any, roles: Any = None, eps_multiplier: float = 1.0) -> dict[str, Any]:
    """Keyword arguments of the factory: options, the fields it takes, and the roles where it asks for them.

    Args:
      optimizer: a `study.Optimizer`.
      roles: pytree of the arrays' roles (`Model.roles`).
      eps_multiplier: the parametrization's factor on `eps` (`Model.eps_multiplier`).

    Raises:
      UserError: an unknown optimizer or option, or the optimizer needs roles and there are none.
    """
    found = check(optimizer)
    values = {name: getattr(optimizer, name) for name in found.fields}
    if "eps" in values:
        values["eps"] *= eps_multiplier
    values |= optimizer.options
    if "roles" in inspect.signature(found.factory).parameters:
        if roles is None:
            raise UserError(
                f"optimizer {found.name!r} needs the role of every array, and this family's Model has no roles; "
                "build it with Model(..., **scaling.array_rules(...)), or use adamw"
            )
        values["roles"] = roles
    return values


@register("adamw", rates=ADAM_RATES, fields=("b1", "b2", "eps"), descends=False)
def adamw(b1: float, b2: float, eps: float) -> Any:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
    import optax

    return optax.scale_by_adam(b1, b2, eps)


@register("sgd", rates=SGD_RATES, depth_rate=1.0, moments=1, fields=("momentum",), descends=False)
def sgd(momentum: float) -> Any:
    """Stochastic gradient descent with heavy-ball momentum."""
    import optax

    return optax.trace(momentum)


@register("lion", rates=ADAM_RATES, moments=1, descends=False)
def lion(b1: float = 0.9, b2: float = 0.99) -> Any:
    """Lion: the sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675)."""
    import optax

    _check_decay(b1=b1, b2=b2)
    return optax.scale_by_lion(b1, b2)


@register("schedule_free_adamw", rates=ADAM_RATES, fields=("b2", "eps"), descends=False, schedule_free=True)
def schedule_free_adamw(b2: float, eps: float) -> Any:
    """AdamW with the average of its iterates in place of a decay (Defazio et al. 2024, arXiv:2405.15682).

    `study.Optimizer.b1` interpolates between the average and the latest iterate; meant for `schedule.name="constant"`.
    """
    import optax

    # Adam without a first moment, as optax.contrib.schedule_free_adamw has it.
    return optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True)


@register("muon", rates=MUON_RATES, moments=1, other_moments=2, fields=("b1", "b2", "eps"), descends=False)
def muon(
    b1: float,
    b2: float,
    eps: float,
    roles: Any,
    momentum: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    rms: float = 0.2,
) -> Any:
    """Muon on hidden matrices (Jordan et al. 2024), AdamW with b1, b2, eps on all other arrays.

    Args:
      b1: decay of Adam's first moment.
      b2: decay of Adam's second moment.
      eps: of Adam and of the normalization before Newton-Schulz.
      roles: pytree of roles; Muon takes the arrays of role "hidden" with two axes or more.
      momentum: decay of Muon's momentum.
      ns_steps: Newton-Schulz iterations.
      nesterov: look one step ahead.
      rms: root mean square of the update's entries; 0.2 is about that of Adam, so that both take the same rate.
    """
    import jax
    import optax

    _check_decay(momentum=momentum)
    if not (isinstance(ns_steps, int) and 1 <= ns_steps <= 100):
        raise ValueError(f"ns_steps={ns_steps!r} is not a whole number from 1 to 100")
    if not (math.isfinite(rms) and rms > 0):
        raise ValueError(f"rms={rms!r} is not positive")

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda p, role: "muon" if role == HIDDEN and p.ndim > 1 else "adam", params, roles)

    def axes(masked: Any) -> Any:
        return jax.tree.map(lambda x: _matrix_axes(x.ndim), masked)

    orthogonal = optax.contrib.scale_by_muon(
        ns_steps=ns_steps, beta=momentum, eps=eps, nesterov=nesterov, weight_dimension_numbers=axes
    )

    def to_rms(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda u: u * (rms * max(_matrix_shape(u.shape)) ** 0.5), updates)

    transforms: dict[Any, Any] = {
        "muon": optax.chain(orthogonal, optax.stateless(to_rms)),
        "adam": optax.scale_by_adam(b1, b2, eps),
    }
    return optax.partition(transforms, labels)


def _check_decay(**decays: float) -> None:
    for name, value in decays.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value!r} is not in [0, 1)")


def _matrix_axes(ndim: int) -> Any:
    """Reduction and output axes: [in, out], [layers, in, out], [K, K, in, out] or [layers, K, K, in, out]."""
    import optax

    first = ndim % 2 if ndim > 2 else 0  # an odd number of axes has layers in front
    return optax.contrib.MuonDimensionNumbers(reduction_axis=tuple(range(first, ndim - 1)), output_axis=(ndim - 1,))


def _matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of an array of hidden matrices."""
    first = len(shape) % 2 if len(shape) > 2 else 0
    return math.prod(shape[first:-1]), shape[len(shape) - 1]
