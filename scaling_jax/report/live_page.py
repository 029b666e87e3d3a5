"""A study while it trains as a page that asks for itself again every few seconds; plain HTML, no script."""

from __future__ import annotations

import time

from scaling_jax import live
from scaling_jax.report import html
from scaling_jax.report.tables import Table


def page(snapshot: live.Snapshot, every: float = 0.0) -> str:
    """The page.

    Args:
      snapshot: what is shown.
      every: seconds until a browser loads it again; 0 never.
    """
    kinds = tuple("beyond" if row.state in (live.TRUNK, live.BRANCH) else "" for row in snapshot.rows)
    packs = Table(live.HEADER, tuple(live.cells(row) for row in snapshot.rows), kinds)
    return html.render(
        "live.html.j2", {}, title=f"{snapshot.study} \u00b7 live", study=snapshot.study, packs=packs,
        summary=live.summary(snapshot, time.time()).partition(": ")[2], every=every, share=100 * snapshot.share,
        at=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.time)),
    )  # fmt: skip
