"""Hyperparameters that follow the size and the length of a run: numbers, lists, and rules in N and D.

A batch size, warm-up, learning rate, weight decay, beta2 or cool-down of a study is

  a number    0.01
  a list      (0.005, 0.01, 0.02): each is trained, at every scale and budget
  a rule      "step_law", by name; or arithmetic of N, D, T, B, S and names of rules: "2 * step_law", "0.1 * S"
  anchored    Rule("olmo", base=8, N=1e5): the base, times what the rule changes from N = 1e5 to the run's own N

and a list may hold rules, too. N is the scale's non-embedding parameters, D the budget's tokens (samples), T the
context, B the batch size in sequences (samples) and S the optimizer steps; a batch size may not use B and S.

  rule        batch size                    learning rate                source
  olmo        160 x 2048 (N/108M)^(2/3)     .0047 (N/108M)^(-1/3)        arXiv:2406.19146, arXiv:2412.04403
  step_law    .58 D^.571                    1.79 N^-.713 D^.307          arXiv:2503.04715
  sqrt        ~ sqrt(D)                     ~ sqrt(B)                    arXiv:2410.21676, arXiv:2205.10287

Batch sizes of the table are in tokens and are divided by T. `sqrt` says how a value changes, not how large it is, so it
needs a base. The published rates were tuned in the standard parametrization. Values are rounded to 6 digits, batch
sizes and warm-ups to whole numbers, and runs are identified by them, not by the rule.

A rule of your own:

    from scaling_jax import rules

    @rules.register("mine", "learning_rate")
    def mine(N, B):
        return 0.02 * (N / 1e5) ** -0.2 * (B / 8) ** 0.5

    Optimizer(learning_rates=("mine", "2 * mine"))
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import pydantic
from pydantic import Field

from scaling_jax.errors import UserError, one_line
from scaling_jax.formula import Formula

INPUTS = ("N", "D", "T", "B", "S")
DIGITS = 6
# What may follow a rule -> (lowest, highest value, whether the ends are allowed, whole numbers).
QUANTITIES: dict[str, tuple[float, float, tuple[bool, bool], bool]] = {
    "batch_size": (1, 1e7, (True, True), True),
    "learning_rate": (0, 1e30, (False, False), False),  # programs hold rates and decays as float32
    "weight_decay": (0, 1e30, (True, False), False),
    "b2": (0, 1, (True, False), False),
    "warmup_steps": (0, 2**31, (True, False), True),
    "cooldown_fraction": (0, 1, (False, False), False),
}
Function = Callable[..., float]


@dataclasses.dataclass(frozen=True)
class _Named:
    function: Function
    arguments: tuple[str, ...]
    absolute: bool


_RULES: dict[tuple[str, str], _Named] = {}  # (name, quantity) -> rule


def register(name: str, quantity: str, absolute: bool = True) -> Callable[[Function], Function]:
    """Decorator that makes a function a rule for one quantity, known by name; an existing one is replaced.

    Args:
      name: an identifier other than N, D, T, B, S.
      quantity: "batch_size", "learning_rate", "weight_decay", "b2", "warmup_steps" or "cooldown_fraction".
      absolute: False for rules that only say how a value changes, and need a base.

    Raises:
      UserError: the name, the quantity, or an argument of the function is none that there is.
    """
    if not name.isidentifier() or name in INPUTS:
        raise UserError(f"rule {name!r}: the name must be an identifier other than {', '.join(INPUTS)}")
    if quantity not in QUANTITIES:
        raise UserError(f"rule {name!r}: {quantity!r} cannot follow a rule; give one of {', '.join(QUANTITIES)}")

    def add(function: Function) -> Function:
        arguments = tuple(inspect.signature(function).parameters)
        if unknown := [a for a in arguments if a not in _inputs(quantity)]:
            raise UserError(f"rule {name!r} of {quantity} may read {', '.join(_inputs(quantity))}, not {unknown[0]!r}")
        _RULES[name, quantity] = _Named(function, arguments, absolute)
        _formula.cache_clear()
        return function

    return add


@one_line
@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Rule:
    """A rule that is anchored: `base` at the given N, D and B, and from there as the rule changes.

    Attributes:
      rule: a name or an expression.
      base: the value at the anchor; None takes the rule's own values.
      N, D, B: the anchor; where one is None, the run's own is taken, so that the rule does not follow it.
    """

    rule: str
    base: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    N: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    D: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    B: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


Setting = float | str | Rule


def _inputs(quantity: str) -> tuple[str, ...]:
    return INPUTS[:3] if quantity == "batch_size" else INPUTS


def _names(quantity: str) -> list[str]:
    return [name for name, q in _RULES if q == quantity]


@functools.cache
def _formula(text: str, quantity: str) -> Formula:
    """Raises ValueError for text that is not a rule of the quantity."""
    known = [*_inputs(quantity), *_names(quantity)]
    try:
        return Formula(text, known)
    except ValueError as error:
        near = difflib.get_close_matches(text, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        why = f" ({error})" if str(error) and not text.isidentifier() else ""
        names = f"a name ({', '.join(_names(quantity))}) " if _names(quantity) else ""
        raise ValueError(
            f"{text[:60]!r} is not a rule of {quantity}{why}{hint}: give a number, {names}or arithmetic of "
            f"{', '.join(_inputs(quantity))}"
        ) from None


def check(value: Any, quantity: str) -> Setting:
    """A number, expression or `Rule` of a quantity as it came from a study's file, JSON or `--set`.

    Raises:
      ValueError: a number out of range, or no rule.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        value = pydantic.TypeAdapter(Rule).validate_python(dict(value))
    if isinstance(value, str):
        _formula(value, quantity)
    elif isinstance(value, Rule):
        formula = _formula(value.rule, quantity)
        relative = [n for n in formula.used if n not in INPUTS and not _RULES[n, quantity].absolute]
        if relative and value.base is None:
            raise ValueError(f"rule {relative[0]!r} needs a base: {_example(relative[0], quantity)}")
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is neither a number nor a rule")
    else:
        value = _in_range(value, quantity)
    if isinstance(value, str):
        check(Rule(value), quantity)
    return value


def _example(name: str, quantity: str) -> str:
    return f"{{'rule': {name!r}, 'base': {8 if quantity == 'batch_size' else 0.01}, 'D': 1e6, 'N': 1e5, 'B': 8}}"


def _in_range(value: float, quantity: str) -> float:
    low, high, ends, whole = QUANTITIES[quantity]
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    if whole and value != round(value):
        raise ValueError(f"{value!r} is not a whole number")
    if not (low < value or (ends[0] and value == low)) or not (value < high or (ends[1] and value == high)):
        raise ValueError(f"{value!r} is not in {'[' if ends[0] else '('}{low:g}, {high:g}{']' if ends[1] else ')'}")
    return int(value) if whole else float(value)


def one_or_several(quantity: str) -> Any:
    """Validator of a number, a rule, or a list or array of them, for a field of a study."""

    def validate(value: Any) -> Any:
        if isinstance(value, (np.ndarray, range)):
            value = value.tolist() if isinstance(value, np.ndarray) else list(value)
        if not isinstance(value, (list, tuple)):
            return check(value, quantity)
        if not value:
            raise ValueError("the list is empty")
        return tuple(check(v, quantity) for v in value)

    return pydantic.PlainValidator(validate)


def several(quantity: str) -> Any:
    """The same, where a single one is a list of one."""

    def validate(value: Any) -> Any:
        found = one_or_several(quantity).func(value)
        return found if isinstance(found, tuple) else (found,)

    return pydantic.PlainValidator(validate)


def resolve(setting: Setting, quantity: str, inputs: Mapping[str, float], where: str) -> float:
    """The number that a setting means for one run.

    Args:
      setting: of the study.
      quantity: what it sets.
      inputs: N, D, T, and B and S where they are known.
      where: field, scale and budget, for messages.

    Raises:
      UserError: the rule gives a number that the quantity cannot have, such as a batch of zero.
    """
    if isinstance(setting, (int, float)):
        return setting
    rule = setting if isinstance(setting, Rule) else Rule(setting)
    try:
        value = _value(rule.rule, quantity, inputs)
        if rule.base is not None:
            anchor = {k: v for k in ("N", "D", "B") if (v := getattr(rule, k)) is not None}
            value = rule.base * value / _value(rule.rule, quantity, {**inputs, **anchor})
        if math.isfinite(value):
            value = round(value) if QUANTITIES[quantity][3] else float(f"{value:.{DIGITS}g}")
        return _in_range(value, quantity)
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise UserError(f"{where}: the rule {rule.rule!r} gives a value that it cannot have: {error}") from None
    except TypeError as error:
        raise UserError(f"{where}: the rule {rule.rule!r} fails: {error}") from None


def reads(setting: Setting, quantity: str, name: str) -> bool:
    """Whether a setting follows one of `INPUTS`."""
    if isinstance(setting, (int, float)):
        return False
    used = _formula(setting.rule if isinstance(setting, Rule) else setting, quantity).used
    return any(u == name or (u not in INPUTS and name in _RULES[u, quantity].arguments) for u in used)


def _value(text: str, quantity: str, inputs: Mapping[str, float]) -> float:
    formula, values = _formula(text, quantity), dict(inputs)
    for name in formula.used:
        if name not in INPUTS:
            rule = _RULES[name, quantity]
            values[name] = float(rule.function(**{a: inputs[a] for a in rule.arguments}))
    with np.errstate(all="ignore"):
        return float(formula(**values))


register("olmo", "batch_size")(lambda N, T: 160 * 2048 / T * (N / 108e6) ** (2 / 3))
register("olmo", "learning_rate")(lambda N: 0.0047 * (N / 108e6) ** (-1 / 3))
register("step_law", "batch_size")(lambda D, T: 0.58 / T * D**0.571)
register("step_law", "learning_rate")(lambda N, D: 1.79 * N**-0.713 * D**0.307)
register("sqrt", "batch_size", absolute=False)(lambda D: D**0.5)
register("sqrt", "learning_rate", absolute=False)(lambda B: B**0.5)
