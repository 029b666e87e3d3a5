"""mkdocstrings: the `Example:` of a docstring becomes code on the reference pages."""

from __future__ import annotations

import re
import textwrap

import griffe

EXAMPLE = re.compile(r"^( *)Example:\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


def _section(found: re.Match) -> str:
    indent, body = found[1], textwrap.dedent(found[2]).strip("\n")
    if ">>>" not in body:
        body = f"```python\n{body}\n```"
    return f"{indent}Examples:\n{textwrap.indent(body, indent + '  ')}\n\n"


class Examples(griffe.Extension):
    """Turns `Example:` into the section that the Google style knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(_section, obj.docstring.value + "\n").rstrip()
