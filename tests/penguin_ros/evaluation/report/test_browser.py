"""The report's page in a browser, if one is installed: its filters and its width."""

import json

import pytest
from browser import BROWSER, dump
from report_example import Page


def browse(tmp_path, html, address=""):
    """Returns the page after its script has run."""
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    return Page(dump(f"file://{file}{address}", tmp_path / "profile"))


def visible(page):
    return {a["id"] if "script" not in a["id"] else "evil" for a in page.all("article") if "hidden" not in a}


CLICKS = {
    "choose(form.verdict, 'wrong-0')": "q-colour at #verdict=wrong-0",
    "form.predicted.click()": "q-colour at #verdict=wrong-0 hide-predicted",
    "form.predicted.click(); form.expected.click()": "q-colour at #verdict=wrong-0 hide-expected",
    "form.expected.click(); choose(form.verdict, ''); choose(form.kind, 'event')": "q-when at #kind=event",
    "choose(form.camera, '/rear')": "at #camera=%2Frear&kind=event",
    "choose(form.kind, '')": "q-colour at #camera=%2Frear",
    "choose(form.camera, ''); type(form.search, 'BLUE')": "q-colour at #search=BLUE",
    "document.querySelector('a[href=\"#q-box\"]').click()": "q-box q-when q-colour evil at #q-box",
}
"""Successive clicks, each with the visible questions, the address and the hidden boxes that follow."""
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
def test_filters_react_to_clicks_and_typing(two_methods, tmp_path):
    hand = HAND.replace("CLICKS", json.dumps([f"{click};" for click in CLICKS]))
    html = two_methods.replace("</body>", hand + "</body>").replace("script-src", "script-src 'unsafe-eval'")
    page = browse(tmp_path, html)
    evil = next(a["id"] for a in page.all("article") if "script" in a["id"])
    for state in CLICKS.values():
        assert state.replace("evil", evil) in page.words


@BROWSER
def test_the_page_fits_its_window(two_methods, tmp_path):
    """On a phone, on paper and on a desktop, only the plots of memories scroll sideways."""
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
def test_filters_are_restored_from_the_address(two_methods, tmp_path, address, shown):
    page = browse(tmp_path, two_methods, address)
    assert visible(page) == shown
    assert f"{len(shown)} of 4" in page.words
    assert ("hidden" in page.all("p", class_="none")[0]) == bool(shown)
