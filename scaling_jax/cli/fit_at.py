"""`--at`: the values that a law's further inputs hold along the frontier, as numbers or arithmetic of N and D."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from scaling_jax.errors import UserError

if TYPE_CHECKING:
    from scaling_jax.fitting import Law

_OPERATORS = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.Pow: np.power,
    ast.USub: np.negative, ast.UAdd: np.positive,
}  # fmt: skip
_FUNCTIONS = {"sqrt": np.sqrt, "exp": np.exp, "log": np.log, "min": np.minimum, "max": np.maximum}
_PROBE = {"N": 1e9, "D": 1e10}  # where a formula is tried before the fit


def further_inputs(law: Law) -> tuple[str, ...]:
    """Inputs of a law that N and D do not give: what its frontier needs to be told."""
    return () if law.from_nd is not None else tuple(k for k in law.inputs if k not in ("N", "D"))


def parse_at(law: Law, texts: Mapping[str, str]) -> dict[str, float | Callable]:
    """{"U": "1e11", "width": "sqrt(N/288)"} -> values and functions of (N, D), as `Fit.frontier(inputs=)` takes them.

    Raises:
      UserError: an input that the law does not have or that the frontier chooses itself, a formula that cannot be
        read, or one that is not positive.
    """
    wanted = further_inputs(law)
    has_frontier = law.lower_is_better and (law.from_nd is not None or {"N", "D"} <= set(law.inputs))
    out = {}
    for name, text in texts.items():
        if not has_frontier:
            raise UserError(f"--at={name}={text}: {law.name} of {', '.join(law.inputs)} has no frontier of N and D")
        if name not in wanted:
            what = f"is told {', '.join(wanted)}" if wanted else "needs none: it chooses N and D"
            raise UserError(f"--at={name}={text}: the frontier of {law.name} {what}")
        formula = _Formula(name, text)
        with np.errstate(all="ignore"):
            probe = float(formula(**_PROBE))
        if not (np.isfinite(probe) and probe > 0):
            raise UserError(f"--at={name}={text} is {probe:g} at N=1e9, D=1e10: give something positive and finite")
        out[name] = probe if formula.constant else formula
    return out


class _Formula:
    """Arithmetic of N and D, read without running code."""

    def __init__(self, name: str, text: str):
        self.text = text
        try:
            self._tree = ast.parse(text.replace("^", "**").strip(), mode="eval").body
            self._check(self._tree)
        except (SyntaxError, ValueError, RecursionError) as error:
            why = f": {error}" if type(error) is ValueError else ""
            raise UserError(
                f"--at={name}={text} cannot be read{why}; give a number or arithmetic of N and D, e.g. "
                f"--at={name}=1e11 or --at={name}=sqrt(N/288)"
            ) from None
        self.constant = not any(isinstance(node, ast.Name) and node.id in "ND" for node in ast.walk(self._tree))

    def __call__(self, N, D):
        return np.broadcast_to(self._value(self._tree, {"N": N, "D": D}), np.broadcast_shapes(np.shape(N), np.shape(D)))

    def _check(self, node) -> None:
        match node:
            case ast.BinOp() if type(node.op) in _OPERATORS:
                self._check(node.left)
                self._check(node.right)
            case ast.UnaryOp() if type(node.op) in _OPERATORS:
                self._check(node.operand)
            case ast.Call(func=ast.Name(id=function), keywords=[]) if function in _FUNCTIONS:
                if len(node.args) != _FUNCTIONS[function].nin:
                    raise ValueError(f"{function} takes {_FUNCTIONS[function].nin} value(s)")
                for argument in node.args:
                    self._check(argument)
            case ast.Constant(value=int() | float()) | ast.Name(id="N" | "D"):
                pass
            case ast.Name(id=other):
                raise ValueError(f"{other!r} is neither a number nor N or D")
            case _:
                raise ValueError(f"{ast.unparse(node)!r} is no arithmetic")

    def _value(self, node, values):
        match node:
            case ast.BinOp():
                return _OPERATORS[type(node.op)](self._value(node.left, values), self._value(node.right, values))
            case ast.UnaryOp():
                return _OPERATORS[type(node.op)](self._value(node.operand, values))
            case ast.Call():
                return _FUNCTIONS[node.func.id](*(self._value(argument, values) for argument in node.args))
            case ast.Name():
                return np.asarray(values[node.id], np.float64)
        return np.float64(node.value)
