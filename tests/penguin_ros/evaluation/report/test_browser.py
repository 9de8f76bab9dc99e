"""The page of results in a browser, where there is one: its filters, its width, and a picture of it."""

import json

import numpy as np
import pytest
from browser import BROWSER, dump
from PIL import Image
from report_example import Page

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.report.screenshot import take_picture


def browse(tmp_path, html, address=""):
    """What the script of a page makes of it."""
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    return Page(dump(f"file://{file}{address}", tmp_path / "profile"))


def visible(page):
    return {a["id"] if "script" not in a["id"] else "evil" for a in page.all("article") if "hidden" not in a}


CLICKS = {
    "choose(form.verdict, 'wrong-0')": "q-colour at #verdict=wrong-0",
    "form.given.click()": "q-colour at #verdict=wrong-0 hide-given",
    "form.given.click(); form.expected.click()": "q-colour at #verdict=wrong-0 hide-expected",
    "form.expected.click(); choose(form.verdict, ''); choose(form.kind, 'event')": "q-when at #kind=event",
    "choose(form.camera, '/rear')": "at #camera=%2Frear&kind=event",
    "choose(form.kind, '')": "q-colour at #camera=%2Frear",
    "choose(form.camera, ''); type(form.search, 'BLUE')": "q-colour at #search=BLUE",
    "document.querySelector('a[href=\"#q-box\"]').click()": "q-box q-when q-colour evil at #q-box",
}
"""What is clicked in turn, and what is then to be seen, where, and which boxes are hidden."""
HAND = """<script>
const form = document.querySelector(".filters").elements;
function type(field, value) { field.value = value; field.dispatchEvent(new Event("input", { bubbles: true })); }
const choose = type;
(async () => {
  for (const click of CLICKS) {
    new Function("form", "type", "choose", click)(form, type, choose);
    await new Promise((done) => setTimeout(done, 50));
    const seen = [...document.querySelectorAll("article:not([hidden])")].map((card) => card.id);
    const line = document.createElement("pre");
    line.textContent = [...seen, "at", location.hash, document.body.className].join(" ");
    document.body.append(line);
  }
})();
</script>"""
WIDTHS = """<body><script>
for (const width of [390, 720, 1280]) {
  const frame = document.createElement("iframe");
  frame.width = width;
  frame.srcdoc = HTML;
  frame.onload = () => {
    const page = frame.contentDocument, tables = [...page.querySelectorAll(".scroll:has(table)")];
    const wide = [page.documentElement, ...tables].map((e) => e.scrollWidth - e.clientWidth);
    document.body.append(`${width} is too narrow by ${Math.max(...wide)}. `);
  };
  document.body.append(frame);
}
</script></body>"""


@BROWSER
def test_filters_are_clicked(two_methods, tmp_path):
    """A hand that chooses, types and clicks."""
    hand = HAND.replace("CLICKS", json.dumps([f"{click};" for click in CLICKS]))
    html = two_methods.replace("</body>", hand + "</body>").replace("script-src", "script-src 'unsafe-eval'")
    page = browse(tmp_path, html)
    evil = next(a["id"] for a in page.all("article") if "script" in a["id"])
    for told in CLICKS.values():
        assert told.replace("evil", evil) in page.words


@BROWSER
def test_the_page_is_as_wide_as_its_window(two_methods, tmp_path):
    """On a phone, on paper and on a desk nothing but the time lines must be scrolled sideways."""
    page = browse(tmp_path, WIDTHS.replace("HTML", json.dumps(two_methods).replace("</", "<\\/")))
    assert all(f"{width} is too narrow by 0." in page.words for width in (390, 720, 1280)), page.words


@BROWSER
@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("#camera=%2Ffront&verdict=right-1", {"q-when", "evil"}),
        ("#verdict=worse-1", {"q-box"}),
        ("#search=nothing+like+this", set()),
        ("#q-box", {"q-box", "q-when", "q-colour", "evil"}),
    ],
)
def test_filters_in_a_browser(two_methods, tmp_path, address, shown):
    """The state of the filters is in the address."""
    page = browse(tmp_path, two_methods, address)
    assert visible(page) == shown
    assert f"{len(shown)} of 4" in page.words
    assert ("hidden" in page.all("p", class_="none")[0]) == bool(shown)


@BROWSER
def test_a_picture_of_the_page(two_methods, tmp_path):
    """It shows the right answer with boxes and no other question, in the page's width and no longer than it is."""
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(two_methods, encoding="utf-8")
    take_picture(page, picture)
    image = Image.open(picture).convert("RGB")
    assert image.width == 1100 and 500 < image.height < 2500
    tan, gray = (np.abs(np.asarray(image, int) - colour).max(axis=2) < 4 for colour in ((210, 180, 140), 128))
    assert tan.sum() > 20_000 > gray.sum()  # the front camera, not the rear one
    with pytest.raises(EvaluationError, match=r"could not make .*none/page.png of .*report.html"):
        take_picture(page, tmp_path / "none" / "page.png")


def test_a_picture_without_a_browser(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match="needs a browser, and there is none of chromium, chromium-browser"):
        take_picture(tmp_path / "report.html", tmp_path / "page.png")
