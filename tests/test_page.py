"""The report's page in a real browser: what is drawn, and what a person does with it."""

import csv
import io
import re

import browser
import numpy as np
import pytest
import simulated

from scaling_jax import analysis, report, study

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

HOSTILE = "</script><img src=x onerror=window.hacked=1><b>$\\frac$"


@pytest.fixture(scope="module")
def found():
    table = simulated.ladder(noise=1e-4, rates=(0.01, 0.02, 0.04))
    table["loss"] *= 1 + 0.01 * (table.lr == 0.04)
    table.loc[(table.lr == 0.04) & (table.width > 60), ["status", "loss"]] = ["diverged", np.nan]
    table["scale"] = table.scale.replace("w48-d2", HOSTILE)
    table.loc[0, "run_id"] = "=cmd()"
    fit = study.Fit(bootstrap=40, metric="loss", also=("bits_per_byte",))
    return analysis.analyse(
        table, simulated.curves(table, points=12), fit=fit, hold_out=study.HoldOut(cut=0.4), name=f"simulated {HOSTILE}"
    )


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    report.write_report(found, folder)
    tab = browser.Browser()
    try:
        tab.open(folder / "index.html")
        yield tab
    finally:
        tab.close()


@pytest.fixture(autouse=True)
def nothing_went_wrong(page):
    """No test leaves an error in the console, a request to a network, or code of a name that ran."""
    yield
    assert page.errors == [] and page.requests == []
    assert page.eval("window.hacked") is None


def pixels(png: bytes) -> np.ndarray:
    from matplotlib import image

    return np.round(255 * image.imread(io.BytesIO(png))[..., :3])


def place(page, selector: str) -> dict:
    """Scrolls to an element; where it is in the window."""
    page.eval(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
    return page.eval(
        f"(r => ({{x: r.x, y: r.y, w: r.width, h: r.height}}))"
        f"(document.querySelector({selector!r}).getBoundingClientRect())"
    )


def test_every_chart_is_drawn(page, found):
    names = page.eval("[...document.querySelectorAll('figure')].map(f => f.dataset.chart)")
    assert {"frontier", "isoflop", "surface", "residuals", "parameters", "learning_curves", "sweeps", "cost"} <= set(
        names
    )
    assert {"bits_per_byte_frontier", "bits_per_byte_n_and_d"} <= set(names) and len(set(names)) == len(names)
    for name in names:
        box = place(page, f"figure[data-chart={name}] .plots")
        shot = pixels(page.screenshot())[
            int(box["y"]) : int(box["y"] + box["h"]), int(box["x"]) : int(box["x"] + box["w"])
        ]
        colored = (shot.max(-1) - shot.min(-1) > 40).sum() + (shot.max(-1) < 90).sum()
        assert colored > 300, f"{name} has {colored} pixels of ink"
    words = page.eval("document.body.innerText")
    for name in ("drift beyond the data", "N*", "D*", *(reason for reason in found.reasons)):
        assert name in words
    assert page.eval("document.title").startswith("simulated </script>")


def test_hover_names_the_run(page, found):
    run = found.runs.chosen.iloc[-1]
    spot = page.eval(
        """(() => {
          const box = document.querySelector('figure[data-chart=frontier] .js-plotly-plot');
          box.scrollIntoView({block: 'center'});
          for (const [k, trace] of box.data.entries()) for (const [i, id] of (trace.meta.runs || []).entries())
            if (id === RUN && trace.mode === 'markers') {
              const area = box.getBoundingClientRect(), {_size: margin, xaxis, yaxis} = box._fullLayout;
              return [area.x + margin.l + xaxis.d2p(trace.x[i]), area.y + margin.t + yaxis.d2p(trace.y[i])];
            }
        })()""".replace("RUN", repr(str(run.run_id)))
    )
    page.move(*spot)
    page.wait("document.querySelector('.hoverlayer .hovertext')")
    shown = page.eval("document.querySelector('.hoverlayer .hovertext').textContent")
    assert str(run.run_id) in shown and "FLOPs" in shown
    page.move(2, 2)


def test_a_scale_is_hidden_in_every_chart(page):
    visible = """[...document.querySelectorAll('.js-plotly-plot')].flatMap(b => b.data)
      .filter(t => t.meta.scale === 'w32-d2' && t.visible !== false).length"""
    before = page.eval(visible)
    button = """[...document.querySelectorAll('figure[data-chart=frontier] .legend button')]
      .find(b => b.textContent.startsWith('w32-d2'))"""
    page.eval(f"{button}.click()")
    assert before > 10 and page.eval(visible) == 0
    assert page.eval(f"{button}.getAttribute('aria-pressed')") == "false"
    page.eval(f"{button}.click()")
    assert page.eval(visible) == before


ROWS = "[...document.querySelectorAll('#runs tbody tr')].map(r => [...r.children].map(c => c.textContent))"


def test_the_table_sorts_filters_and_downloads(page, found):
    header = page.eval("[...document.querySelectorAll('#runs th')].map(h => h.textContent)")
    loss = header.index("loss")
    click = "document.querySelectorAll('#runs th button')[{}].click()"
    page.eval(click.format(loss))
    values = [float(row[loss]) for row in page.eval(ROWS) if row[loss]]
    assert values == sorted(values) and values[0] == pytest.approx(found.runs.table.y.min(), rel=1e-5)
    page.eval(click.format(loss))
    assert float(page.eval(ROWS)[0][loss]) == pytest.approx(found.runs.table.y.max(), rel=1e-5)
    page.eval("(b => { b.value = 'w96 diverged'; b.oninput() })(document.querySelector('#runs input'))")
    table = found.runs.table
    kept = table[table.scale.str.contains("w96") & (table.status == "diverged")]
    assert {row[0] for row in page.eval(ROWS)} == set(kept.run_id)
    assert page.eval("document.querySelector('#runs .count').textContent") == f"{len(kept)} of {len(table)} runs"
    page.eval("(b => { b.value = ''; b.oninput() })(document.querySelector('#runs input'))")
    page.eval(
        "URL.createObjectURL = blob => { window.saved = blob; return 'blob:nothing' };"
        "HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download };"
        "document.querySelector('#runs .csv').click()"
    )
    rows = list(csv.DictReader(io.StringIO(page.eval("saved.text()"))))
    assert page.eval("savedAs") == "runs.csv" and len(rows) == len(table)
    assert {row["run"] for row in rows} == {*table.run_id} - {"=cmd()"} | {"'=cmd()"}  # no formula for a spreadsheet
    by_run = table.set_index("run_id")
    assert all(float(r["loss"]) == by_run.y[r["run"]] for r in rows if r["loss"] and r["run"][0] != "'")


def test_dark_is_dark_and_legible(page):
    place(page, "figure[data-chart=frontier] .plots")
    light = pixels(page.screenshot()).mean()
    page.scheme("dark")
    page.wait("getComputedStyle(document.body).backgroundColor === 'rgb(18, 22, 27)'")
    page.wait("document.querySelector('.js-plotly-plot')._fullLayout.font.color === '#e4e8ec'")
    box = place(page, "figure[data-chart=frontier] .plots")
    shot = pixels(page.screenshot())
    assert light > 200 and shot.mean() < 60
    chart = shot[int(box["y"]) : int(box["y"] + box["h"]), int(box["x"]) : int(box["x"] + box["w"])]
    assert (chart.min(-1) > 180).sum() > 500  # the frontier, axes and labels
    page.scheme("light")
    page.wait("document.querySelector('.js-plotly-plot')._fullLayout.font.color === '#222222'")


def test_a_phone_does_not_scroll_sideways(page):
    page.resize(400, 800)
    page.wait("document.querySelector('.js-plotly-plot')._fullLayout.width < 400")
    assert page.eval("document.documentElement.scrollWidth") == 400
    wide = page.eval(
        "[...document.querySelectorAll('main *')]"
        ".filter(e => e.getBoundingClientRect().right > 401 && !e.closest('pre'))"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []
    overlapping = page.eval(
        "[...document.querySelectorAll('.js-plotly-plot')].filter(b => {"
        " const at = [...b.querySelectorAll('.xtick text')].map(t => t.getBoundingClientRect());"
        " at.sort((p, q) => p.x - q.x); return at.some((r, i) => i && r.x < at[i - 1].right);"
        "}).map(b => b.closest('figure').dataset.chart)"
    )
    assert overlapping == []
    page.resize(1200, 900)
    page.wait("document.querySelector('.js-plotly-plot')._fullLayout.width > 400")


def test_it_prints_in_light_and_whole(page):
    page.scheme("dark")
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
    assert 2 < pdf.count(b"/Type /Page\n") < 20
    page.scheme("light")


def test_paper_cuts_no_table_and_has_the_model(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    page.resize(720, 900)  # letter without its margins, 7.5 in
    page.wait("document.querySelector('.js-plotly-plot')._fullLayout.width < 720")
    page.eval("dispatchEvent(new Event('beforeprint'))")
    cut = page.eval(
        "[...document.querySelectorAll('section:not(.table-of-runs) table')]"
        ".filter(t => t.offsetParent && t.scrollWidth > t.closest('section').clientWidth + 1)"
        ".map(t => t.innerText.slice(0, 80))"
    )
    assert cut == []
    assert page.eval("document.querySelectorAll('details.answer:not([open])').length") == 0
    page.eval("dispatchEvent(new Event('afterprint'))")
    page.call("Emulation.setEmulatedMedia", media="")
    page.resize(1200, 900)
    page.wait("document.querySelector('.js-plotly-plot')._fullLayout.width > 720")


def test_ticks_are_whole_numbers_as_people_write_them(page):
    """A log axis of a decade or two says 5M, 10M and 20M, not 5, 10M and 2."""
    drawn = page.eval(
        "[...document.querySelectorAll('.js-plotly-plot')].flatMap(b => [b._fullLayout.xaxis, b._fullLayout.yaxis])"
        ".filter(a => a.type === 'log').map(a => a._vals.filter(v => !v.minor).map(v => [10 ** v.x, v.text]))"
    )
    units, plain = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}, 0
    for value, text in (pair for axis in drawn for pair in axis if pair[1]):
        if re.fullmatch(r"[0-9.]+[kMBT]?", text):
            number, plain = float(text.rstrip("kMBT")) * units.get(text[-1], 1.0), plain + 1
        else:
            power = re.fullmatch(r"(?:([0-9.]+)×)?10<sup>([−-]?\d+)</sup>", text)
            assert power, text
            digits, exponent = power.groups()
            number = float(digits or 1) * 10.0 ** int(exponent.replace("−", "-"))
        assert number == pytest.approx(value, rel=1e-3), text
    assert plain > 20


def test_without_an_answer_no_size_is_named(page, tmp_path):
    few = simulated.ladder(widths=(16, 32), flops=(1e12, 3e12, 9e12), tokens=(), rates=(0.02,))
    found = analysis.analyse(few, fit=study.Fit(bootstrap=20), name="few")
    assert found.verdict == "no answer"
    report.write_report(found, tmp_path)
    page.open(tmp_path / "index.html")
    words = page.eval("document.querySelector('main').innerText")
    assert "No answer" in words and "Next:" in words
    assert not any(
        heading in words for heading in ("The answer at the targets", "frontier L*(C)", "How to split compute")
    )
    assert page.eval("document.querySelectorAll('figure[data-chart=frontier] .js-plotly-plot').length") == 1
