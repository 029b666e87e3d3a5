"""mkdocs: pages and files of the repository that the documentation links to, such as launch/README.md, join the site.

On a repository page `../launch/README.md` is right; on the site the same page lies beside the documentation.
"""

from __future__ import annotations

import pathlib
import posixpath
import re

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)\s#]+)")


def _target(page: str, link: str) -> str:
    """Path in the repository of a link on a page, both in the repository's terms."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _on_site(path: str) -> str:
    return path.removeprefix("docs/")


def on_files(files: Files, config) -> Files:
    """Adds what is linked to outside docs/, and what that links to."""
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for _, link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            path = _target(page, link)
            if path in seen or path.startswith(("docs/", "..")) or not (ROOT / path).is_file():
                continue
            seen.add(path)
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """Rewrites links between the two places; a link to what is not there stays, and the build warns of it."""
    here = page.file.src_uri
    source = f"docs/{here}" if page.file.src_dir else here

    def rewrite(match: re.Match) -> str:
        path = _on_site(_target(source, match[2]))
        if files.get_file_from_path(path) is None:
            return match[0]
        return match[1] + posixpath.relpath(path, posixpath.dirname(here) or ".")

    return LINK.sub(rewrite, markdown)
