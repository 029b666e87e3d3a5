"""Arithmetic of named columns or inputs, read without running code: params*1e6, a + b, sqrt(N/288)."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

_OPERATORS: dict[type, Callable] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.Pow: np.power,
    ast.USub: np.negative, ast.UAdd: np.positive,
}  # fmt: skip
FUNCTIONS = {"sqrt": np.sqrt, "exp": np.exp, "log": np.log, "min": np.minimum, "max": np.maximum}
MAX_LENGTH = 1000  # deeper nesting than this allows would exhaust Python's own parser


class Formula:
    """A formula of some names.

    Args:
      text: numbers, the names, + - * / ^ ** ( ) and sqrt, exp, log, min, max. A name that is not an identifier may be
        written as it is where it is known, or in backticks.
      names: what may appear.

    Raises:
      ValueError: the text cannot be read; the message says which part.

    Example:
      >>> float(Formula("sqrt(N / 288)", ["N", "D"])(N=288.0))
      1.0
    """

    def __init__(self, text: str, names: Iterable[str]):
        self.text = text
        self._known = list(names)
        self._hidden: dict[str, str] = {}  # placeholder -> name
        if len(text) > MAX_LENGTH:
            raise ValueError(f"the formula is longer than {MAX_LENGTH} characters")
        try:
            self._tree = ast.parse(self._hide(text).replace("^", "**").strip(), mode="eval").body
        except (SyntaxError, RecursionError, MemoryError):
            raise ValueError("") from None
        self.used = tuple(dict.fromkeys(self._check(self._tree)))

    def __call__(self, **values: np.ndarray | float) -> np.ndarray:
        return np.asarray(self._value(self._tree, values))

    def on(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The value with each name taken from `columns`, for names that are not identifiers."""
        return self(**{name: columns[name] for name in self.used})

    def _hide(self, text: str) -> str:
        """Replaces names that Python would not read as one name (`eval/loss`, `my column`) by placeholders."""
        awkward = sorted((n for n in self._known if not n.isidentifier()), key=len, reverse=True)
        for name in awkward:
            pattern = rf"`{re.escape(name)}`|(?<![\w.]){re.escape(name)}(?![\w.])"
            placeholder = f"_name{len(self._hidden)}_"
            text, count = re.subn(pattern, placeholder, text)
            if count:
                self._hidden[placeholder] = name
        return re.sub(r"`([^`]*)`", r"\1", text)

    def _check(self, node: ast.AST) -> list[str]:
        match node:
            case ast.BinOp() if type(node.op) in _OPERATORS:
                return self._check(node.left) + self._check(node.right)
            case ast.UnaryOp() if type(node.op) in _OPERATORS:
                return self._check(node.operand)
            case ast.Call(func=ast.Name(id=function), keywords=[]) if function in FUNCTIONS:
                if len(node.args) != FUNCTIONS[function].nin:
                    raise ValueError(f"{function} takes {FUNCTIONS[function].nin} value(s)")
                return [name for argument in node.args for name in self._check(argument)]
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return []
            case ast.Name(id=name) if self._hidden.get(name, name) in self._known:
                return [self._hidden.get(name, name)]
            case ast.Name(id=other):
                raise ValueError(f"{other!r} is neither a number nor {_choice(self._known)}")
            case _:
                raise ValueError(f"unsupported expression {ast.unparse(node)!r}")

    def _value(self, node: ast.AST, values: Mapping) -> np.ndarray:
        match node:
            case ast.BinOp():
                return _OPERATORS[type(node.op)](self._value(node.left, values), self._value(node.right, values))
            case ast.UnaryOp():
                return _OPERATORS[type(node.op)](self._value(node.operand, values))
            case ast.Call(func=ast.Name(id=function)):
                return FUNCTIONS[function](*(self._value(argument, values) for argument in node.args))
            case ast.Name(id=name):
                return np.asarray(values[self._hidden.get(name, name)], float)
            case ast.Constant(value=int() | float() as value):
                return np.asarray(min(value, 1e308) if isinstance(value, int) else value, float)
        raise AssertionError(node)


def _choice(names: list[str]) -> str:
    return " or ".join(names) if len(names) < 4 else "a column of the table"
