r"""The pictures of the report in docs/images, from a workdir of the text quickstart; needs Chromium.

    python docs/pictures.py runs/text_quickstart

page.png is the top of the page in light, page_dark.png charts in the dark beside the page on a phone, quickstart.png
the report's own picture of loss against compute. Look at them before they are committed.
"""

import argparse
import io
import pathlib
import shutil
import sys

from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import browser  # noqa: E402

TOP = "main"
FRONTIER = "figure[data-chart=frontier]"
HEIGHT = 1200  # of the charts in the dark and of the phone


def shot(tab: browser.Browser, width: int, scheme: str, first: str, last: str = "", height: int = 0) -> Image.Image:
    """The page from the top of one element to the bottom of another, or so many pixels of it."""
    tab.scheme(scheme)
    tab.resize(width, 900)
    tab.wait(f"document.querySelector('.js-plotly-plot')._fullLayout.width < {width}")
    tab.wait(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    tab.eval("new Promise(done => setTimeout(done, 1000))")  # charts are drawn again after a resize
    place = "(s => {{ const r = document.querySelector(s).closest('section, main').getBoundingClientRect(); "
    place += "return {}; }})({!r})"
    top = max(tab.eval(place.format("r.top + scrollY", first)) - 12, 0)
    end = top + height if height else tab.eval(place.format("r.bottom + scrollY", last)) + 12
    whole = Image.open(io.BytesIO(tab.screenshot(whole=True))).convert("RGB")
    return whole.crop((0, int(top), min(width, whole.width), int(min(end, whole.height))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "images")
    flags = parser.parse_args()
    report = flags.workdir / "report"
    tab = browser.Browser()
    try:
        tab.open(report / "index.html")
        top = shot(tab, 1000, "light", TOP, FRONTIER)
        dark, phone = shot(tab, 740, "dark", FRONTIER, height=HEIGHT), shot(tab, 400, "light", TOP, height=HEIGHT)
    finally:
        tab.close()
    both = Image.new("RGB", (dark.width + phone.width, HEIGHT), "white")
    both.paste(dark, (0, 0))
    both.paste(phone, (dark.width, 0))
    for name, picture in (("page", top), ("page_dark", both)):
        picture.quantize(256).save(flags.out / f"{name}.png", optimize=True)
    shutil.copyfile(report / "frontier.png", flags.out / "quickstart.png")


if __name__ == "__main__":
    main()
