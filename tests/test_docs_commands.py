"""Every command and every block of code in the documentation is valid, and the notebook runs."""

import collections
import importlib
import pathlib
import re
import shlex

import nbclient
import nbformat
import pytest

import scaling_jax as sj
from scaling_jax.cli import main as cli

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted(p for d in ("docs", "launch", "experiments", "benchmarks") for p in (ROOT / d).glob("*.md")),
]
STUDIES = sorted((ROOT / "experiments").glob("*.py"))  # their docstrings hold commands


def python_blocks(page: pathlib.Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(path: pathlib.Path) -> list[str]:
    """The `scaling-jax` command lines of a page: in its blocks of shell, and between backticks."""
    text = path.read_text()
    if path.suffix == ".py":
        code, rest = text.split('"""')[1], ""
    else:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        code = "\n".join(body for language, body in blocks if language != "python")
        rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in code.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#")]
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]*scaling-jax [^`]*)`", rest)]
    found = [match for line in lines if (match := re.search(r"scaling-jax +([a-z-]+(?: \| [a-z-]+)*)(.*)", line))]
    return [f"scaling-jax {name}{match[2]}" for match in found for name in match[1].split(" | ")]


ALL = [(str(path.relative_to(ROOT)), command) for path in [*PAGES, *STUDIES] for command in commands(path)]


def test_commands_are_found():
    count = collections.Counter(page for page, _ in ALL)
    assert count["README.md"] >= 10 and count["docs/tutorial.md"] >= 7 and count["launch/jobset.md"] >= 1


@pytest.mark.parametrize("page", sorted({page for page, _ in ALL}))
def test_commands_parse(page, monkeypatch, capsys):
    """Every flag exists and takes the value; files of the repository are there; --set names a field. Nothing runs."""
    asked = []
    for module, _ in cli.COMMANDS.values():
        monkeypatch.setattr(importlib.import_module(module), "main", lambda args, flags: asked.append((args, flags)))
    for _, command in [pair for pair in ALL if pair[0] == page]:
        argv = [word.strip("[]") for word in shlex.split(command, comments=True) if word != "..."]
        asked.clear()
        assert cli.main(argv) == 0, f"{command}\n{capsys.readouterr().err}"
        assert asked, command
        args, flags = asked[0]
        assert not args or argv[1] in ("compare", "data"), f"{command}: {args}"
        name = flags["study"].value if "study" in flags else None
        if name and name.startswith("experiments/"):
            study = sj.load_study(ROOT / name, flags["set"].value, need_source=False)
            assert study.name, command


def test_every_page_with_code_is_run():
    """By a test file that names the page and executes its blocks."""
    tests = [path.read_text() for path in (ROOT / "tests").glob("test_*.py")]
    runners = [text for text in tests if "exec(" in text]
    for page in PAGES:
        if python_blocks(page):
            assert any(f'"{page.name}"' in text or f"/{page.name}" in text for text in runners), page.name


def test_trust(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code in python_blocks(ROOT / "docs" / "trust.md"):
        exec(compile(code, "docs/trust.md", "exec"), names)
    assert names["best"].answer and 5e9 < names["best"].N < 1.6e10  # 8.9e9 by the law of the page
    assert names["run"].low < 1.7 + 480 / 1e10**0.35 + 2100 / 2e11**0.37 < names["run"].high


def test_get_study_of_the_readme():
    (code,) = [code for code in python_blocks(ROOT / "README.md") if "get_study" in code]
    names = {"sj": sj, "study": object()}
    exec(compile(code, "README.md", "exec"), names)
    assert names["get_study"]() is names["study"]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """As it is, in a folder without runs.csv: it writes its example, trusts it, draws and decides."""
    notebook = nbformat.read(ROOT / "experiments" / "notebooks" / "fit_your_csv.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = "".join(output.get("text", "") for output in outputs)
    assert "trust" in said and "N* 9" in said and "90% interval" in said
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (tmp_path / "runs.csv").exists()
