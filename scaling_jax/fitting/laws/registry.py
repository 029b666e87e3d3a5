"""The laws by name: lookup, the nearest name where there is none, and registration of further laws."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from scaling_jax.fitting.errors import LawError
from scaling_jax.fitting.laws import downstream, loss, shape, single
from scaling_jax.fitting.laws.base import Law

_BROKEN = re.compile(r"bnsl([1-9]\d?)(_signed)?")
_SIGNED = "_signed"  # ends the name of a law whose asymptotes may be negative
_LISTED = ("bnsl1", "bnsl2", "bnsl3")
_broken = lru_cache(maxsize=None)(single.broken)
_laws = {law.name: law for law in (*single.LAWS, *loss.LAWS, *shape.LAWS, *downstream.LAWS)}


class UnknownLaw(LawError, KeyError):
    """No law of that name; the message lists the nearest."""

    __str__ = ValueError.__str__


class Laws(ModuleType, Mapping[str, Law]):
    """Laws by name; `bnsl<n>` and `bnsl<n>_signed` exist for every n >= 1, `bnsl<n>` is listed for n = 1, 2, 3.

    Of other laws with a floor or a ceiling `<name>_signed` is `Law.signed`: it may be negative.

    The package `scaling_jax.fitting.laws` is an instance: a mapping that is also a module, so that no later import of
    a module of the package can replace the mapping.
    """

    def __getitem__(self, name: str) -> Law:
        return get_law(name)

    def __iter__(self) -> Iterator[str]:
        return iter((*_laws, *_LISTED))

    def __len__(self) -> int:
        return len(_laws) + len(_LISTED)

    def __repr__(self) -> str:
        return "\n".join(f"{name:<18}{self[name].equation}" for name in self)

    def __eq__(self, other: object) -> bool:
        return self is other  # a module, and hashable

    def __hash__(self) -> int:
        return id(self)


def get_law(name: str) -> Law:
    """The law of that name. Raises UnknownLaw, which is a LawError and a KeyError."""
    if isinstance(name, str):
        breaks = _BROKEN.fullmatch(name)
        if breaks:
            return _broken(int(breaks[1]), breaks[2] is not None)
        if name in _laws:
            return _laws[name]
        plain = _laws.get(name.removesuffix(_SIGNED))
        if plain is not None and plain.asymptotes:
            return plain.signed
    names = [*_laws, *_LISTED]
    near = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.4)
    hint = f"Nearest: {', '.join(near)}. " if near else ""
    raise UnknownLaw(f"No law named {name!r}. {hint}All: {', '.join(names)}.")


def listed(laws: Any) -> list[Any]:
    """`laws` as a list of what names a law each. Raises LawError where it is empty or no collection."""
    if isinstance(laws, (str, Law)):
        return [laws]
    if not isinstance(laws, Iterable) or (isinstance(laws, np.ndarray) and laws.ndim == 0):
        raise LawError(f'laws={laws!r}: give names or laws, e.g. laws=["chinchilla"].')
    if not (found := list(laws)):
        raise LawError('laws is empty: name at least one, e.g. laws=["chinchilla"].')
    return found


def register_law(law: Law) -> Law:
    """Adds a law to `fitting.laws`: it can then be named in fits, on the command line, and in saved fits.

    Example:
      >>> import jax.numpy as jnp
      >>> from scaling_jax import fitting
      >>> logarithm = fitting.law(
      ...     lambda p, x: p["a"] - p["b"] * jnp.log10(x["x"]), params={"a": (0, 100), "b": (0, 10)},
      ...     inputs=("x",), name="logarithm", positive=True)
      >>> fitting.register_law(logarithm)
      <law logarithm: y = logarithm(a, b, x)>
      >>> round(fitting.fit("logarithm", [1.0, 10.0, 100.0, 1000.0], [4.0, 3.0, 2.0, 1.0]).params["a"], 6)
      4.0

    Args:
      law: from `fitting.law`; its name must be new, or that of a law registered before.

    Returns:
      The same law.

    Raises:
      LawError: not a `Law`, or the name of a law of this package.
    """
    if not isinstance(law, Law):
        raise LawError(f"register_law({law!r}): give a Law, made by fitting.law(fn, params=..., inputs=...).")
    known = _laws.get(law.name)
    if _BROKEN.fullmatch(law.name) or (known is not None and not known.custom):
        raise LawError(f"register_law: {law.name!r} is a law of this package; give yours another name=.")
    _laws[law.name] = law
    return law


def find_law(law: str | Law) -> Law:
    """The `Law` of a name, or the `Law` itself. Raises LawError otherwise."""
    if isinstance(law, Law):
        return law
    if callable(law):
        raise LawError(f"law={law!r} is a bare function: wrap it, fitting.law(fn, params={{...}}, inputs=(...)).")
    return get_law(law)
