"""A study's Python file, and overrides of its fields: `--set path.to.field=value`."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.machinery
import inspect
import pathlib
import re
import signal
import sys
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any

import pydantic

from scaling_jax.errors import Preempted, UserError, describe_invalid
from scaling_jax.study import Study

# Names that mean a built-in source even where a file or folder of that name exists.
BUILT_IN_SOURCES = ("python_sources", "english", "fashion_mnist", "digits")


def load_study(path: str | pathlib.Path, overrides: Sequence[str] = (), need_source: bool = True) -> Study:
    """Runs `get_study()` of the Python file at `path` and applies `field.path=value` overrides.

    A relative `data.source` is looked up in the file's folder, then in the current one.

    Args:
      path: of the file.
      overrides: assignments, in order.
      need_source: whether a `data.source` that is a path must exist.

    Raises:
      UserError: the file is missing, raises, has no `get_study` or returns something else, an override is wrong, or the
        source is not there.

    Example:
      >>> import pathlib
      >>> code = '''
      ... import scaling_jax as sj
      ... def get_study():
      ...     return sj.Study(name="mine", family=sj.models.Transformer(), ladder=sj.Ladder(widths=(32, 64)),
      ...                     budgets=sj.Budgets(tokens=(1e6, 2e6)))
      ... '''
      >>> _ = pathlib.Path("mine.py").write_text(code)
      >>> load_study("mine.py", ["ladder.widths=(32, 64, 128)"]).ladder.widths
      (32, 64, 128)
    """
    path = pathlib.Path(path)
    try:
        is_file = path.is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"study {str(path)[:200]!r}: {error}") from error
    if not is_file:
        raise UserError(f"study {str(path)!r} is not a file; give --study=FILE.py with a get_study() function")
    if path.suffix != ".py":
        raise UserError(f"study {str(path)!r} is not a Python file (its name must end in .py)")
    loader = _Uncached(f"_study_{path.stem}", str(path))
    module = types.ModuleType(loader.name)
    module.__file__ = loader.path
    sys.modules[loader.name] = module  # where annotations that are text are resolved
    try:
        loader.exec_module(module)
        if not callable(getattr(module, "get_study", None)):
            raise UserError(f"study {str(path)!r} has no function get_study()")
        study = module.get_study()
        if inspect.iscoroutine(study):
            study.close()  # or Python warns that nobody awaited it
    except UserError as error:
        if isinstance(error.__context__, pydantic.ValidationError):  # a part that the file makes
            raise UserError(f"study {str(path)!r}: {error}") from None
        raise
    except Preempted:
        raise
    except BaseException as error:  # whatever a study's code may raise
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            raise  # Ctrl-C in a notebook; the command line's own handler never raises it
        message = " ".join(_text_of(error).split())
        raise UserError(f"study {str(path)!r} raised {type(error).__name__}: {message}") from error
    if not isinstance(study, Study):
        raise UserError(
            f"study {str(path)!r}: get_study() returned {type(study).__name__}, not scaling_jax.study.Study"
        )
    return _with_source(override(study, overrides), path.parent, need_source)


class _Uncached(importlib.machinery.SourceFileLoader):
    """Compiles the file each time: bytecode of one that was edited within the same second would be taken for it."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # its own __str__ fails
        return "without a message"


def _with_source(study: Study, folder: pathlib.Path, needed: bool) -> Study:
    """The study with relative paths to its data made absolute; names of TFDS and built-in sources stay."""
    data = dataclasses.replace(study.data, source=located(study.data.source, "data.source", folder, needed))
    sets = tuple(
        dataclasses.replace(one, source=located(one.source, "evaluation.sets", folder, needed))
        for one in study.evaluation.sets
    )
    return dataclasses.replace(study, data=data, evaluation=dataclasses.replace(study.evaluation, sets=sets))


def located(source: str, what: str, folder: pathlib.Path, needed: bool = True) -> str:
    """A source with a relative path made absolute, looked up in `folder`, then in the current one.

    Raises:
      UserError: a path that must exist and does not.
    """
    if source in BUILT_IN_SOURCES or source.startswith(("/", "~")):
        return source
    places = [folder.absolute(), pathlib.Path.cwd()]
    for place in places:
        try:
            found = (place / source).exists()
        except (OSError, ValueError):
            found = False
        if found:
            return str(place / source)
    if not source.startswith(("./", "../")) and not re.search(r"\.[A-Za-z]\w*$", source):
        return source
    if needed:
        looked = " and ".join(dict.fromkeys(map(str, places)))
        raise UserError(f"{what} {source!r} does not exist; looked for it in {looked}")
    return str(places[0] / source)


def override(study: Study, assignments: Sequence[str]) -> Study:
    """`study` with every `field.path=value` applied, each checked against the field's type.

    Raises:
      UserError: no such field (the message has the nearest names) or a value of the wrong type.

    Example:
      >>> import scaling_jax as sj
      >>> study = sj.Study(name="mine", family=sj.models.Transformer(), ladder=sj.Ladder(widths=(32, 64)),
      ...                  budgets=sj.Budgets(tokens=(1e6, 2e6)))
      >>> override(study, ["optimizer.batch_size=16", "family.head_dim=32"]).optimizer.batch_size
      16
    """
    parsed = []
    for assignment in assignments:
        path, sep, text = assignment.partition("=")
        if not sep or not path.strip():
            raise UserError(f"--set {assignment!r} is not field.path=value")
        parsed.append((path.strip().split("."), _parse(text.strip()), assignment))
    return _replace(study, parsed)


def _parse(text: str) -> Any:
    """A Python literal where it is one, else the text itself."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return text if isinstance(value, (bytes, complex, set)) else value


def _replace(node: Any, assignments: Sequence[tuple[list[str], Any, str]]) -> Any:
    """`node` with all assignments (path, value, text) at once: some fields are only valid together."""
    fields = [f.name for f in dataclasses.fields(node)]
    inner: dict[str, list[tuple[list[str], Any, str]]] = {}
    new: dict[str, Any] = {}
    for (name, *rest), value, text in assignments:
        if name not in fields:
            near = ", ".join(difflib.get_close_matches(name, fields, 3) or fields)
            known = f"nearest: {near}" if near else "it has none"
            raise UserError(f"--set {text!r}: {type(node).__name__} has no field {name!r}; {known}")
        current = new.get(name, getattr(node, name))
        if dataclasses.is_dataclass(current):
            if not rest:
                known = ", ".join(f.name for f in dataclasses.fields(current))
                raise UserError(f"--set {text!r}: {name!r} is a group; set one of its fields: {known}")
            inner.setdefault(name, []).append((rest, value, text))
        elif len(rest) == 1 and isinstance(current, dict):  # optimizer.options.ns_steps=3
            new[name] = {**current, rest[0]: value}
        elif rest:
            raise UserError(f"--set {text!r}: {name!r} is a value and has no field {rest[0]!r}")
        else:
            new[name] = _valid(type(node), name, value, text)
    new |= {name: _replace(getattr(node, name), given) for name, given in inner.items()}
    texts = " ".join(f"--set {text!r}" for _, _, text in assignments)
    try:
        return dataclasses.replace(node, **new)
    except ValueError as error:
        raise UserError(f"{texts}: {error}") from error


def _valid(owner: type, name: str, value: Any, text: str) -> Any:
    hint = typing.get_type_hints(owner, include_extras=True)[name]
    # A single value means a tuple of one: --set seeds=3.
    if typing.get_origin(_strip(hint)) is tuple and not isinstance(value, (tuple, list)):
        value = (value,)
    try:
        return pydantic.TypeAdapter(hint).validate_python(value)
    except pydantic.ValidationError as error:
        raise UserError(f"--set {text!r}: {describe_invalid(error)}") from error


def _strip(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
