"""A study as the Python file that makes it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from typing import Any

from pydantic.fields import FieldInfo

from scaling_jax import study as parts
from scaling_jax.errors import UserError
from scaling_jax.study import Study

WIDTH = 110


def study_source(study: Study, title: str) -> str:
    """The text of a study file with `get_study()`; fields at their defaults are left out.

    Args:
      study: to be written; its family is imported from where it is defined.
      title: the docstring.

    Raises:
      UserError: the family is not in a module that can be imported.
    """
    imports: dict[str, set[str]] = {}
    body = _text(study, imports, 4)
    lines = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items())]
    head = '"""' + title.replace("\\", "\\\\").replace('"""', "'''") + '"""'
    return "\n".join([head, "", *lines, "", "", "def get_study():", f"    return {body}", ""])


def _text(value: Any, imports: dict[str, set[str]], indent: int) -> str:
    """Source of a value; what it needs is added to `imports`."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return _plain(value)
    kind = type(value)
    imports.setdefault(_home(kind), set()).add(kind.__name__)
    given = []
    for field in dataclasses.fields(value):
        own = getattr(value, field.name)
        if field.init and not _is_default(own, field):
            given.append(f"{field.name}={_text(own, imports, indent + 4)}")
    line = f"{kind.__name__}({', '.join(given)})"
    if len(line) + indent <= WIDTH and "\n" not in line:
        return line
    space = " " * indent
    return f"{kind.__name__}(\n" + "".join(f"{space}    {part},\n" for part in given) + f"{space})"


def _plain(value: Any) -> str:
    """`repr` with numbers and strings as people write them."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_plain, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, float) and math.isfinite(value) and float(f"{value:g}") == value:
        return f"{value:g}" if "." in f"{value:g}" or "e" in f"{value:g}" else f"{value:g}.0"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _is_default(value: Any, field: dataclasses.Field) -> bool:
    default = field.default
    if isinstance(default, FieldInfo):
        default = default.get_default(call_default_factory=True, validated_data={})
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return type(default) is type(value) and value == default


def _home(kind: type) -> str:
    """The shortest module that this class can be imported from."""
    places = [parts.__name__] if kind.__module__ == parts.__name__ else ["scaling_jax.models", kind.__module__]
    for name in places:
        try:
            found = getattr(importlib.import_module(name), kind.__name__, None)
        except ImportError:  # a study file, or a notebook
            continue
        if found is kind and name != "__main__":
            return name
    raise UserError(
        f"family {kind.__name__} is defined in {kind.__module__}, which a new study file cannot import: move it into a "
        "module of its own, or use the --set that is printed with your own study file"
    )
