r"""The pictures of the report in docs/images; needs Chromium.

    python docs/pictures.py --quickstart=runs/text_quickstart
    python docs/pictures.py --simulated=runs/small --compare=compare.html --live=live.html

From a workdir of the text quickstart: page.png is the top of the page in light, page_dark.png charts in the dark beside
the page on a phone, quickstart.png the report's own picture of loss against compute. simulated.png is the answer of the
page of a simulated workdir, with its model for the first target; compare.png the page of `scaling-jax compare`;
live.png that of `scaling-jax watch --page`. Look at them before they are committed.
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
LOADED = "document.readyState === 'complete'"


def shot(tab: browser.Browser, width: int, scheme: str, first: str, last: str = "", height: int = 0) -> Image.Image:
    """The page from the top of one element to the bottom of another, or so many pixels of it."""
    tab.scheme(scheme)
    tab.resize(width, 900)
    tab.wait(f"(p => !p || p._fullLayout.width < {width})(document.querySelector('.js-plotly-plot'))")
    tab.wait(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    tab.eval("new Promise(done => setTimeout(done, 1000))")  # charts are drawn again after a resize
    place = "(s => {{ const r = document.querySelector(s).closest('section, main').getBoundingClientRect(); "
    place += "return {}; }})({!r})"
    top = max(tab.eval(place.format("r.top + scrollY", first)) - 12, 0)
    end = top + height if height else tab.eval(place.format("r.bottom + scrollY", last)) + 12
    whole = Image.open(io.BytesIO(tab.screenshot(whole=True))).convert("RGB")
    return whole.crop((0, int(top), min(width, whole.width), int(min(end, whole.height))))


def quickstart(tab: browser.Browser, report: pathlib.Path) -> dict[str, Image.Image]:
    """page.png and page_dark.png."""
    tab.open(report / "index.html")
    top = shot(tab, 1000, "light", TOP, FRONTIER)
    dark, phone = shot(tab, 740, "dark", FRONTIER, height=HEIGHT), shot(tab, 400, "light", TOP, height=HEIGHT)
    both = Image.new("RGB", (dark.width + phone.width, HEIGHT), "white")
    both.paste(dark, (0, 0))
    both.paste(phone, (dark.width, 0))
    return {"page": top, "page_dark": both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=pathlib.Path)
    parser.add_argument("--simulated", type=pathlib.Path)
    parser.add_argument("--compare", type=pathlib.Path)
    parser.add_argument("--live", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "images")
    flags, made = parser.parse_args(), {}
    tab = browser.Browser()
    try:
        if flags.quickstart:
            made |= quickstart(tab, flags.quickstart / "report")
            shutil.copyfile(flags.quickstart / "report" / "frontier.png", flags.out / "quickstart.png")
        if flags.simulated:
            tab.open(flags.simulated / "report" / "index.html")
            tab.eval("document.querySelectorAll('details.answer').forEach(d => { d.open = true })")
            made["simulated"] = shot(tab, 1000, "light", TOP, FRONTIER)
        if flags.compare:
            tab.open(flags.compare)
            made["compare"] = shot(tab, 1000, "light", TOP, "figure")
        if flags.live:
            tab.open(flags.live, LOADED)
            made["live"] = shot(tab, 1000, "light", TOP, "table")
    finally:
        tab.close()
    for name, picture in made.items():
        picture.save(flags.out / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
