"""The house: imports point down, there is no circle, nothing is imported in secret, and nothing grows too large."""

from __future__ import annotations

import ast
import functools
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "scaling_jax"
ROOT = "scaling_jax"

# Room -> rooms it may import from. `errors`, `text` and `charts` are the ground; nothing imports `cli`.
GROUND = {"errors", "text", "formula"}
STUDY = GROUND | {"models", "study", "rules", "settings", "stored_family"}
TRAINING = STUDY | {"planning", "identity", "storage", "data", "training"}
AFTER = STUDY | {"charts", "fitting", "analysis", "report"}
ALLOWED = {
    "errors": set(),
    "text": set(),
    "formula": set(),
    "rules": GROUND,
    "signals": {"errors"},
    "charts": {"text", "charts"},
    "fitting": {"text", "charts", "fitting"},
    "models": GROUND | {"models"},
    "settings": GROUND,
    "stored_family": GROUND | {"models"},
    "study": STUDY,
    "study_file": {"errors", "study"},
    "identity": STUDY,
    "planning": STUDY | {"identity", "planning"},
    "storage": STUDY | {"identity", "storage"},
    "outlook": STUDY | {"planning", "study_file", "fitting", "analysis", "outlook"},
    "simulation": STUDY | {"identity", "planning", "storage", "fitting"},
    "data": STUDY | {"storage", "data"},
    "training": TRAINING,
    "trained": TRAINING | {"trained"},
    "live": {"text", "storage"},
    "trackers": {"errors", "storage"},
    "engines": TRAINING | {"signals", "live", "engines"},
    "analysis": STUDY | {"fitting", "analysis"},
    "decide": TRAINING | {"fitting", "analysis", "decide"},
    "report": AFTER | {"storage", "live"},
    "results": AFTER | {"storage"},
    "plans": TRAINING | {"engines", "fitting", "outlook", "trained"},
    "api": TRAINING | AFTER | {"decide", "engines", "results", "signals", "simulation", "plans", "trained"},
    "decisions": AFTER | {"decide", "engines", "storage", "results", "api"},
    "cli": TRAINING
    | AFTER
    | {"engines", "live", "results", "signals", "study_file", "trackers", "trained", "plans", "api", "decide"}
    | {"decisions", "transfer", "cli"},
    "transfer": TRAINING | AFTER | {"engines", "api"},
    "__main__": {"signals", "cli"},
}

# Packages that are heavy, optional, or of one platform: what may be imported inside a function.
HEAVY = {
    "PIL", "array_record", "etils", "fcntl", "flax", "gcsfs", "grain", "jax", "matplotlib", "openpyxl", "optax",
    "orbax", "pandas", "pyarrow", "ray", "requests", "rich", "scipy", "sentencepiece", "sklearn", "tensorflow",
    "tensorboardX", "tensorflow_datasets", "tokenizers", "mlflow", "wandb", "zstandard",
}  # fmt: skip

# Modules that may import by string: the lazy face, the command modules, the optional engines, the writer of studies.
BY_STRING = {"__init__", "cli.main", "decide.source", "engines.registry"}
# They draw with matplotlib, which the plain install does not bring: only who draws imports them.
DRAWING = {".charts.matplotlib_figure"}
# They import TFDS, which takes half a second: only who reads or prepares with TFDS imports them.
WITH_TFDS = {".data.builtin.builders", ".data.sources.tfds", ".data.sources.tfds_prepare"}
# A supervisor of several processes does without JAX; the plain install has no Flax, which the families need.
LATE = {"cli.run", "cli.report", "stored_family"}


MAX_MODULE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 400, 60, 10


def modules() -> dict[str, pathlib.Path]:
    """Dotted name without the package's own -> file; "__init__" is the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


def imports(name: str) -> Iterator[tuple[str, bool]]:
    """(what is imported, whether inside a function) of one module; of this package's modules without its name."""
    known = modules()

    def ours(path: str) -> str:
        inner = path.removeprefix(ROOT).lstrip(".")
        return f".{inner or '__init__'}"

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from visit(child, inside)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (ours(alias.name) if alias.name.split(".")[0] == ROOT else alias.name), inside
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if modules()[name].name == "__init__.py" else name.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([ROOT, *package, *([base] if base else [])])
            if base.split(".")[0] != ROOT:
                yield base, inside
                return
            for alias in node.names:
                inner = ours(f"{base}.{alias.name}")
                yield (inner if inner[1:] in known else ours(base)), inside
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(tree(name), False)


def room(name: str) -> str:
    return name.split(".")[0]


def graph() -> dict[str, set[str]]:
    """Module -> modules of this package that it imports, anywhere in it."""
    return {
        name: {target[1:] for target, _ in imports(name) if target.startswith(".")} - {name, "__init__"}
        for name in modules()
        if name != "__init__"
    }


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def connect(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in edges.get(node, ()):
            if target not in index:
                connect(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(group)

    for node in edges:
        if node not in index:
            connect(node)
    return found


def test_the_finder_of_circles_finds_them():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_every_room_is_on_the_plan():
    assert {room(name) for name in modules()} - {"__init__"} == set(ALLOWED)


@pytest.mark.slow
def test_no_circle():
    assert circles(graph()) == []


def test_imports_point_down():
    upward = {
        f"{name} -> {target}"
        for name, targets in graph().items()
        for target in targets
        if room(target) not in ALLOWED[room(name)]
    }
    assert sorted(upward) == []


def test_imports_inside_functions_are_of_heavy_packages():
    inner = {
        f"{name}: {target}"
        for name in modules()
        for target, inside in imports(name)
        if inside and target.split(".")[0] not in HEAVY and target not in DRAWING | WITH_TFDS and name not in LATE
    }
    assert sorted(inner) == []


def imports_by_string(source: ast.Module) -> bool:
    """True for code that names what imports by string, under whatever alias, called or not."""
    names = {"import_module", "__import__"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.ImportFrom) and not names.isdisjoint(alias.name for alias in node.names))
        for node in ast.walk(source)
    )


@pytest.mark.parametrize(
    "code, found",
    [
        ("import importlib as i\ni.import_module('x')", True),
        ("from importlib import import_module as im\nim('x')", True),
        ("import importlib\nload = importlib.import_module", True),
        ("__import__('x')", True),
        ("import builtins as b\nb.__import__('x')", True),
        ("import importlib.util as u\nu.find_spec('x')", False),
    ],
)
def test_the_finder_of_imports_by_string_finds_them(code, found):
    assert imports_by_string(ast.parse(code)) is found


def test_nothing_is_imported_by_string():
    assert sorted({name for name in modules() if imports_by_string(tree(name))} - BY_STRING) == []


def test_modules_are_short():
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: count for name, count in lines.items() if count > MAX_MODULE_LINES} == {}


def test_functions_are_short():
    long, wide = {}, {}
    for name in modules():
        for node in ast.walk(tree(name)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            lines = (node.end_lineno or 0) - node.body[0].lineno + 1
            if ast.get_docstring(node) is not None and len(node.body) > 1:  # documentation is not length
                lines = (node.end_lineno or 0) - node.body[1].lineno + 1
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            parameters = [a for a in arguments if a.arg not in ("self", "cls")]
            if lines > MAX_FUNCTION_LINES:
                long[f"{name}.{node.name}"] = lines
            if len(parameters) > MAX_PARAMETERS:
                wide[f"{name}.{node.name}"] = len(parameters)
    assert (long, wide) == ({}, {})


@pytest.mark.parametrize(
    "statement, absent",
    [
        ("import scaling_jax; dir(scaling_jax)", {"numpy", "jax", "pandas", "pydantic", "scipy"}),
        ("import scaling_jax.fitting", {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "matplotlib"}),
        ("import scaling_jax as sj; sj.fitting.fit", {"flax", "optax", "orbax", "grain", "tensorflow_datasets"}),
        ("import scaling_jax as sj; sj.load, sj.analyse, sj.Study", {"flax", "optax", "orbax", "grain", "matplotlib"}),
        ("import scaling_jax.cli.main", {"numpy", "jax", "pandas", "pydantic"}),
        ("import scaling_jax.cli.run", {"jax", "pandas"}),
        ("import scaling_jax.cli.plan", {"pandas", "scipy", "orbax", "tensorstore", "optax", "matplotlib"}),
        ("import scaling_jax.api, scaling_jax.engines.local", {"scipy", "matplotlib", "tensorflow_datasets"}),
    ],
)
def test_imports_stay_light(statement, absent):
    report = "; import sys; print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", statement + report], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(done.stdout)) & absent == set()


def test_the_face_is_complete():
    """Every name is there, and the same whatever was imported before."""
    code = (
        "import scaling_jax.planning, scaling_jax.api, scaling_jax as sj\n"
        "for name in sj.__all__: getattr(sj, name)\n"
        "assert callable(sj.plan) and callable(sj.run) and sj.Study is sj.study.Study\n"
        "assert set(sj.__all__) <= set(dir(sj))\n"
        "try: sj.nothing\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'scaling_jax' has no attribute 'nothing'\n"
