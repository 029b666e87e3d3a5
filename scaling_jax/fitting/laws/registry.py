"""`fitting.laws`: the laws by name, and the nearest name when there is none."""

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache

from scaling_jax.fitting.errors import LawError
from scaling_jax.fitting.laws import downstream as laws_task
from scaling_jax.fitting.laws import loss as laws_nd
from scaling_jax.fitting.laws import shape as laws_shape
from scaling_jax.fitting.laws import single as laws_x
from scaling_jax.fitting.laws.base import Law

_broken = lru_cache(maxsize=None)(laws_x.broken)


class _Laws(Mapping):
    """Laws by name; `bnsl<n>` and `bnsl<n>_signed` exist for every n >= 1, `bnsl<n>` is listed for n = 1, 2, 3."""

    def __init__(self):
        self._laws = {law.name: law for law in (*laws_x.LAWS, *laws_nd.LAWS, *laws_shape.LAWS, *laws_task.LAWS)}

    def __getitem__(self, name):
        if isinstance(name, str):
            breaks = re.fullmatch(r"bnsl([1-9]\d?)(_signed)?", name)
            if breaks:
                return _broken(int(breaks[1]), breaks[2] is not None)
            if name in self._laws:
                return self._laws[name]
        near = difflib.get_close_matches(str(name).lower(), list(self), n=3, cutoff=0.4)
        hint = f"Nearest: {', '.join(near)}. " if near else ""
        raise UnknownLaw(f"No law named {name!r}. {hint}All: {', '.join(self)}.")

    def __iter__(self):
        return iter((*self._laws, "bnsl1", "bnsl2", "bnsl3"))

    def __len__(self):
        return len(self._laws) + 3

    def __repr__(self):
        return "\n".join(f"{name:<18}{self[name].equation}" for name in self)


class UnknownLaw(LawError, KeyError):
    """There is no law of that name; the message lists the nearest."""

    __str__ = ValueError.__str__


laws = _Laws()


def find_law(law):
    """The `Law` meant by a name or a `Law` itself. Raises LawError otherwise."""
    if isinstance(law, Law):
        return law
    if callable(law):
        raise LawError(f"law={law!r} is a bare function: wrap it, fitting.law(fn, params={{...}}, inputs=(...)).")
    return laws[law]
