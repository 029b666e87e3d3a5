"""`scaling-jax watch`: how a study trains, seen from elsewhere, in the terminal and as a page that renews itself."""

from __future__ import annotations

import time
from typing import Any

from absl import flags

from scaling_jax import live
from scaling_jax.errors import UserError
from scaling_jax.report import live_page
from scaling_jax.storage.paths import as_path, write_atomic
from scaling_jax.storage.workdir import Workdir


def define_flags() -> None:
    """Defines the flags of `scaling-jax watch`."""
    flags.DEFINE_string("workdir", None, "Folder (or gs:// path) of the study that trains.")
    flags.DEFINE_float("every", 5.0, "Seconds between two looks.", lower_bound=0.1)
    flags.DEFINE_bool("once", False, "Look once and leave.")
    flags.DEFINE_string("page", None, "Where to write a live page as well, e.g. live.html; a folder or gs:// works.")


def main(args: list[str], values: Any) -> int:
    """Shows the table until the study is done; only reads the workdir."""
    if args or not values.workdir:
        raise UserError("watch needs --workdir=W, and no other arguments than flags")
    place = Workdir(values.workdir)
    if place.stored() is None:
        raise UserError(f"{values.workdir!r} is not a workdir (it has no study.json)")
    page = None if values.page is None else _page_path(values.page)
    if values.once:
        found = live.latest(place.path)
        if found is None:
            raise UserError(f"nothing trains in {values.workdir!r} yet: no attempt has left a record of its progress")
        _show(found, None, page, values)
        return 0
    if live.latest(place.path) is None:
        if (place.path / "_SUCCESS").exists():
            print(f"the study in {values.workdir} is done; see its report")
            return 0
        print(f"waiting for news from {values.workdir}", flush=True)
    with live.screen() as screen:
        for found in live.watched(place.path, values.every):
            _show(found, screen, page, values)
    return 0


def _page_path(text: str) -> Any:
    path = as_path(text)
    return path if path.suffix in (".html", ".htm") else path / "live.html"


def _show(found: live.Snapshot, screen: live.Screen | None, page: Any, values: Any) -> None:
    if screen is not None:
        screen.show(found)
    else:
        print(f"{live.summary(found, time.time())}\n{live.plain_lines(found.rows)}", flush=True)
    if page is not None:
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(page, live_page.page(found, 0.0 if found.done or values.once else values.every))
        except OSError as error:
            raise UserError(f"--page={values.page} cannot be written: {error.strerror or error}") from None
