"""The page of results: parsed, and looked at by a browser where there is one."""

import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from browser import BROWSER, dump
from PIL import Image

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.questions import ExpectedNumber, ExpectedObjects, ExpectedText, ExpectedTime, Question
from penguin_ros.evaluation.records import AnswerRecord, FrameRecord, ModelSpec, ObjectRecord, RunSettings
from penguin_ros.evaluation.report import plots, svg
from penguin_ros.evaluation.report.page import render, titles_of, write_report
from penguin_ros.evaluation.report.screenshot import take_picture
from penguin_ros.evaluation.results import BagInfo, BagTimeline, ModelInfo, Results, score_record
from penguin_ros.evaluation.summary import summarise

EVIL = "<script>alert(1)</script> & \"quotes\" 'too'"


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag, **attributes):
        return [a for t, a in self.tags if t == tag and all(a.get(k.rstrip("_")) == v for k, v in attributes.items())]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def question(name, expected, at=5.0, **fields):
    return Question(**{"id": name, "time_s": at, "question": f"About {name}?", "expected": expected} | fields)


QUESTIONS = [
    question("box", [ExpectedObjects(objects=[{"label": "mug", "box": (32, 24, 160, 120)}])], camera="/front"),
    question("when", [ExpectedTime(accept=[(1.0, 2.0)])], camera="/front", kind="event"),
    question("colour", [ExpectedText(accept=["red"])], at=6.0, camera="/rear", evidence_s=(0.0, 1.0)),
    question(EVIL, [ExpectedNumber(value=3)], question=EVIL, camera="/front"),
]


def frame(camera):
    return FrameRecord(camera=camera, stamp_ns=7, time_s=4.5, width=320, height=240, file=f"{camera[1:]}.jpg")


def record(asked, arm, right, **fields):
    answers = {
        "box": {"text": "A mug.", "objects": [ObjectRecord(label="mug", box=(100, 100, 500, 500 if right else 950))]},
        "when": {"text": "Then.", "spans": [(1.0, 2.0)] if right else [(7.0, 9.0)]},
        "colour": {"text": "red" if right else "blue"},
        EVIL: {"text": "3" if right else EVIL, "raw": EVIL},
    }
    seconds = {"encode": 0.01, "prefill": 0.2, "decode": 0.5}
    values = {"question": asked.id, "arm": arm, "key": "k", "time_s": asked.time_s, "frame": frame(asked.camera)}
    values |= answers[asked.id] | {"seconds": seconds, "visual_tokens": 50, "frames": 5} | fields
    return score_record("table", asked, AnswerRecord(**values))


def make(verdicts, title="run", questions=QUESTIONS, **fields):
    """Results with the verdict of each question by arm: {"memory": "rrwr"} for right, right, wrong, right."""
    records = [
        record(asked, arm, verdict == "r")
        for arm, row in verdicts.items()
        for asked, verdict in zip(questions, row, strict=True)
    ]
    timeline = BagTimeline(
        bag="table",
        camera="/front",
        arm="memory",
        token_budget=60,
        time_s=[0.0, 0.5, 1.0, 1.5],
        kind=[0, 1, 0, 1],
        tokens=[20, 40, 60, 50],
        frames=[1, 2, 3, 3],
        shrunk=[0, 0, 0, 1],
        left=[0, 0, 0, 1],
        seconds=[0.1] * 4,
        images=8,
        bad=1,
        last_error="why",
    )
    results = Results(
        created="2030-01-01T00:00:00",
        package="0",
        title=title,
        model=ModelInfo(spec=ModelSpec(path="some/model"), hash="f" * 64, runtime="torch", dtype="float32"),
        settings=RunSettings(arms=list(verdicts)),
        machine={"cpu": "a processor", "cores": 2},
        bags=[BagInfo(name="table", path="table", cameras=["/front", "/rear"])],
        questions=list(questions),
        records=records,
        timelines=[timeline],
        **fields,
    )
    return results.model_copy(update={"summary": summarise(results)})


@pytest.fixture
def folder(tmp_path):
    """A folder of results with the pictures of both cameras."""
    (tmp_path / "frames").mkdir()
    for name, colour in (("front", "tan"), ("rear", "gray")):
        Image.new("RGB", (320, 240), colour).save(tmp_path / "frames" / f"{name}.jpg")
    return tmp_path


@pytest.fixture
def two_arms(folder):
    return render([make({"memory": "rrwr", "last-4": "wrwr"})], [folder])


def test_the_page_needs_nothing_else(two_arms):
    page = Page(two_arms)
    assert page.open == []
    assert not page.all("link") and not page.all("img")
    addresses = [value for _, a in page.tags for key, value in a.items() if key in ("src", "href", "xlink:href")]
    assert addresses and all(address.startswith(("#", "data:image/jpeg;base64,")) for address in addresses)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org)", two_arms)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_words_of_others_stay_words(two_arms):
    page = Page(two_arms)
    assert len(page.all("script")) == 1
    assert EVIL in page.words
    assert any(EVIL.lower() in a["data-search"] for a in page.all("article"))


def test_every_drawing_is_well_formed(two_arms):
    drawings = re.findall(r"<svg.*?</svg>", two_arms, re.DOTALL)
    assert len(drawings) > 10
    for drawing in drawings:
        ET.fromstring(drawing)


def test_pictures_are_stored_once(two_arms):
    page = Page(two_arms)
    assert two_arms.count("data:image/jpeg") == 2  # four questions, two frames
    names = {a["id"] for a in page.all("image")}
    assert {a["href"][1:] for a in page.all("use")} == names


def test_boxes_are_drawn_where_they_are(two_arms):
    """The expected mug is at 32, 24 to 160, 120 of 320x240; the answer says 100 to 500 thousandths: the same."""
    (article,) = re.findall(r'<article id="q-box".*?</article>', two_arms, re.DOTALL)
    boxes = re.findall(r'<g class="(\w+)"><rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', article)
    found = [(kind, *map(float, sides)) for kind, *sides in boxes]
    assert found[:2] == [("expected", 32, 24, 128, 96), ("given", 32, 24, 128, 96)]
    assert found[2] == ("given", 32, 24, 128, 204)  # the wrong one of the other arm


def test_every_question_has_its_card(two_arms):
    page = Page(two_arms)
    articles = {a["id"]: a for a in page.all("article")}
    assert len(articles) == len(QUESTIONS)
    assert articles["q-box"]["data-verdict"].split() == ["right-0", "wrong-1", "worse-1"]
    assert articles["q-colour"]["data-verdict"].split() == ["wrong-0", "wrong-1"]
    assert (articles["q-when"]["data-kind"], articles["q-when"]["data-camera"]) == ("event", "/front")
    for words in ("1.00 to 2.00 s", "“red”", "evidence 5.0 s old (recall)", "first token 0.210 s", "boxes: mug"):
        assert words in page.words


def test_filters_offer_what_is_there(two_arms):
    page = Page(two_arms)
    assert [a["name"] for a in page.all("select")] == ["bag", "camera", "kind", "verdict"]
    values = {a["value"] for a in page.all("option")}
    assert {"/front", "/rear", "event", "number", "right-0", "wrong-1", "better-1", "worse-1"} < values


def test_scores_and_flips_are_in_the_summary(two_arms):
    page = Page(two_arms)
    assert "right answers 0.750" in page.words
    assert "Right only in memory: 1 – box" in page.words and "Right only in last-4: 0." in page.words
    assert "recent" in page.words and "recall" in page.words
    assert "every box with its label at IoU ≥ 0.5 and no other box" in page.words
    assert "8 images, 4 frames taken, 2 key frames; 1 shrank, 1 left, 3 held at the end; 1 damaged (why)" in page.words
    assert "key frames per minute" in page.words


def test_one_arm_has_no_comparison(folder):
    page = Page(render([make({"memory": "rrrr"})], [folder]))
    assert "against" not in page.words and "Right only in" not in page.words


def test_two_runs_are_compared(folder, tmp_path):
    html = render([make({"memory": "rrww"}, "before"), make({"memory": "rwrr"}, "after")], [folder, folder])
    page = Page(html)
    assert page.words.startswith("after against before")
    assert "Right answers 0.500 → 0.750, a difference of +0.250" in page.words
    assert "Right only in before: 1 – when" in page.words
    assert {"better-1", "worse-1"} < {a["value"] for a in page.all("option")}


def test_runs_of_the_same_name_can_be_told_apart(folder):
    page = Page(render([make({"memory": "rrww"}), make({"memory": "rwrr"})], [folder, folder]))
    assert "second run against first run" in page.words


def test_titles_of_runs_are_told_apart():
    assert titles_of([make({"memory": "rrww"}, "a"), make({"memory": "rrww"}, "b")]) == ["a", "b"]
    assert titles_of([make({"memory": "rrww"}), make({"memory": "rrww"})]) == ["first run", "second run"]


def test_runs_without_a_common_arm_are_not_compared(folder):
    with pytest.raises(EvaluationError, match="a and b answered in no common way"):
        render([make({"memory": "rrrr"}, "a"), make({"offline": "rrrr"}, "b")], [folder, folder])


def test_a_run_without_answers_has_no_page(folder):
    empty = make({"memory": ""}, questions=[])
    failed = empty.model_copy(update={"bags": [BagInfo(name="hall", path="hall", failed="is empty (0 bytes)")]})
    with pytest.raises(EvaluationError, match=r"no question was answered; hall: is empty \(0 bytes\)"):
        render([failed], [folder])


def test_failures_are_shown(folder):
    results = make({"memory": "rrrr"})
    failed = record(QUESTIONS[3], "memory", False, error="PromptError: no", text="", frame=None)
    records = [*results.records[:3], failed]
    broken = [BagInfo(name="hall", path="hall", failed="breaks off")]
    results = results.model_copy(update={"records": records, "bags": broken})
    page = Page(render([results.model_copy(update={"summary": summarise(results)})], [folder]))
    assert "Bag hall could not be evaluated to its end: breaks off" in page.words
    assert "No answer: PromptError: no" in page.words
    assert "error-0" in {a["value"] for a in page.all("option")}


def test_questions_that_were_not_asked_are_shown(folder):
    """The bag of two of them failed; one is known by a stamp, without a camera."""
    results = make({"memory": "rrwr"})
    mug = [ExpectedObjects(topic="/truth")]
    lost = [
        question("lost", mug, at=3.0, bag="hall", camera="/front"),
        question("stamped", [ExpectedNumber(value=1)], time_s=None, stamp_ns=9, bag="hall"),
    ]
    bags = [*results.bags, BagInfo(name="hall", path="hall", failed="breaks off")]
    results = results.model_copy(update={"questions": [*QUESTIONS, *lost], "bags": bags})
    results = results.model_copy(update={"summary": summarise(results)})
    html = render([results], [folder])
    page = Page(html)
    articles = {a["id"]: a for a in page.all("article")}
    assert [articles[name]["data-verdict"] for name in ("q-lost", "q-stamped")] == ["unasked", "unasked"]
    assert "2 of 6 questions were not asked, as their bags failed; they count in no score." in page.words
    assert "lost · hall · /front at 3.00 s · objects" in page.words and "stamped · hall · number" in page.words
    assert "boxes of /truth not asked bag hall could not be evaluated to its end: breaks off" in page.words
    assert [page.all("option", value=value) for value in ("unasked", "hall")] == [
        [{"value": v}] for v in ("unasked", "hall")
    ]
    assert len(page.all("option", value="")) == 4  # no filter has an empty choice but "all"
    assert "not asked" not in render([make({"memory": "rrwr"})], [folder])


def test_pictures_that_were_not_kept(tmp_path):
    page = Page(render([make({"memory": "rrrr"})], [tmp_path]))
    assert page.words.count("The picture was not kept.") == 4


def test_a_page_that_cannot_be_written(folder):
    (folder / "file").touch()
    with pytest.raises(EvaluationError, match=r"report .*x.html cannot be written"):
        write_report(folder / "file" / "x.html", [make({"memory": "rrrr"})], [folder])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 47, [0, 10, 20, 30, 40]), (0, 1024, [0, 200, 400, 600, 800, 1000])],
)
def test_ticks_are_round(low, high, ticks):
    assert svg.Scale(low, high, 0, 100).ticks() == pytest.approx(ticks)


def test_logarithmic_scales():
    scale = svg.Scale(0.01, 100, 0, 400, log=True)
    assert [scale(value) for value in (0.01, 0.1, 1, 100)] == pytest.approx([0, 100, 200, 400])
    assert scale.ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert svg.Scale(2, 30, 0, 1, log=True).ticks() == pytest.approx([2, 5, 10, 20])


def test_questions_of_one_time_are_counted_together(folder):
    for verdicts, words in (("rrwr", "3 of 3 right"), ("rwww", "1 of 3 right"), ("wwww", "0 of 3 right")):
        assert words in Page(render([make({"memory": verdicts})], [folder])).words
    alone = [asked if asked.id != "when" else asked.model_copy(update={"time_s": 1.0}) for asked in QUESTIONS]
    assert "2 of 2 right" in Page(render([make({"memory": "rwwr"}, questions=alone)], [folder])).words


def test_labels_of_the_timeline_stay_in_the_drawing(folder):
    """A name that has no room on the right of its bar stands on its left."""
    late = QUESTIONS[1].model_copy(update={"expected": [ExpectedTime(accept=[(4.9, 5.0)])]})
    page = Page(render([make({"memory": "w"}, questions=[late])], [folder]))
    (bar,) = page.all("rect", fill="#f0c36d")
    assert "when, 4.9 to 5.0 s: About when?" in page.words
    (label,) = (a for a in page.all("text") if float(a["y"]) == float(bar["y"]) + 10)
    assert label["text-anchor"] == "end" and float(label["x"]) < float(bar["x"])


def test_labels_of_the_timeline_do_not_overlap():
    """Names stand on the right or on the left of their bars; letters are at least 5.5 wide."""
    times = [(0.0, 0.2), (1.0, 1.0), (2.4, 2.4), (3.0, 4.0), (4.4, 4.4), (5.0, 5.0), (5.0, 5.0)]
    spans = [plots.Span(*span, f"when it was {i}", "When?") for i, span in enumerate(times)]
    drawn = Page(plots.memory_plot(make({"memory": "rrwr"}).timelines[0], [], spans))
    rows = {}
    for bar in drawn.all("rect", fill="#f0c36d"):
        rows.setdefault(float(bar["y"]), []).append((float(bar["x"]), float(bar["x"]) + float(bar["width"])))
    for label in drawn.all("text", fill=svg.INK):
        if float(label["y"]) - 10 in rows:
            width = 5.5 * len(spans[0].name)
            x = float(label["x"]) - (width if label["text-anchor"] == "end" else 0)
            rows[float(label["y"]) - 10].append((x, x + width))
    assert sum(map(len, rows.values())) == 2 * len(times) and len(rows) < len(times)
    for places in map(sorted, rows.values()):
        assert all(left[1] <= right[0] for left, right in pairwise(places))


def test_energy_is_shown_where_it_was_measured(folder):
    results = make({"memory": "rrwr"})
    assert "joules" not in Page(render([results], [folder])).words
    records = [item.model_copy(update={"joules": 2.5}) for item in results.records]
    measured = results.model_copy(update={"records": records, "machine": {"cpu": "x", "energy": ["board"]}})
    words = Page(render([measured.model_copy(update={"summary": summarise(measured)})], [folder])).words
    assert "joules per answer 2.5" in words and "energy of board" in words and words.count("· 2.5 J") == 4


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
def test_filters_are_clicked(two_arms, tmp_path):
    """A hand that chooses, types and clicks."""
    hand = HAND.replace("CLICKS", json.dumps([f"{click};" for click in CLICKS]))
    html = two_arms.replace("</body>", hand + "</body>").replace("script-src", "script-src 'unsafe-eval'")
    page = browse(tmp_path, html)
    evil = next(a["id"] for a in page.all("article") if "script" in a["id"])
    for told in CLICKS.values():
        assert told.replace("evil", evil) in page.words


@BROWSER
def test_the_page_is_as_wide_as_its_window(two_arms, tmp_path):
    """On a phone, on paper and on a desk nothing but the time lines must be scrolled sideways."""
    page = browse(tmp_path, WIDTHS.replace("HTML", json.dumps(two_arms).replace("</", "<\\/")))
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
def test_filters_in_a_browser(two_arms, tmp_path, address, shown):
    """The state of the filters is in the address."""
    page = browse(tmp_path, two_arms, address)
    assert visible(page) == shown
    assert f"{len(shown)} of 4" in page.words
    assert ("hidden" in page.all("p", class_="none")[0]) == bool(shown)


@BROWSER
def test_a_picture_of_the_page(two_arms, tmp_path):
    """It shows the right answer with boxes and no other question, in the page's width and no longer than it is."""
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    page.write_text(two_arms, encoding="utf-8")
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


def test_a_picture_of_any_size_is_data(folder):
    """What is embedded is the JPEG itself."""
    import base64

    html = render([make({"memory": "rrrr"})], [folder])
    data = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html)
    assert Image.open(io.BytesIO(base64.b64decode(data[0]))).size == (320, 240)
