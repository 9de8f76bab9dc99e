"""The report's page, parsed."""

import base64
import io
import json
import re

import pytest
from PIL import Image
from report_example import EVIL, QUESTIONS, Page, make, question, record

from penguin_models.errors import EvaluationError, WriteError
from penguin_ros.evaluation.question_file import ExpectedNumber, ExpectedObjects
from penguin_ros.evaluation.report.page import render, titles_of, write_report
from penguin_ros.evaluation.results import BagInfo, load_results
from penguin_ros.evaluation.summary import summarise


def test_the_page_is_self_contained(two_methods):
    page = Page(two_methods)
    assert page.open == []
    assert not page.all("link") and not page.all("img")
    addresses = [value for _, a in page.tags for key, value in a.items() if key in ("src", "href", "xlink:href")]
    assert addresses and all(address.startswith(("#", "data:image/jpeg;base64,")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org)", two_methods)
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_text_is_escaped(two_methods):
    page = Page(two_methods)
    assert len(page.all("script")) == 1
    assert EVIL in page.words
    assert any(EVIL.lower() in a["data-search"] for a in page.all("article"))


def test_pictures_are_stored_once(two_methods):
    """The page has four questions about two frames; what is embedded is the JPEG itself."""
    page = Page(two_methods)
    images = {a["id"]: a["href"] for a in page.all("image")}
    assert len(images) == 2
    for address in images.values():
        data = base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(data)).size == (320, 240)
    assert {a["href"][1:] for a in page.all("use") if "href" in a} == set(images)


def test_boxes_are_drawn_in_pixels_of_the_frame(two_methods):
    """The expected mug is at 32, 24 to 160, 120 of 320x240; the answer says 100 to 500 thousandths: the same."""
    (article,) = re.findall(r'<article id="q-box".*?</article>', two_methods, re.DOTALL)
    boxes = re.findall(
        r'<g class="(\w+)"[^>]*><rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', article
    )
    found = [(kind, *map(float, sides)) for kind, *sides in boxes]
    assert found[:2] == [("expected", 32, 24, 128, 96), ("predicted", 32, 24, 128, 96)]
    assert found[2] == ("predicted", 32, 24, 128, 204)  # the wrong one of the other method


def test_every_question_has_a_card(two_methods):
    page = Page(two_methods)
    articles = {a["id"]: a for a in page.all("article")}
    assert len(articles) == len(QUESTIONS)
    assert articles["q-box"]["data-verdict"].split() == ["right-0", "wrong-1", "worse-1"]
    assert articles["q-colour"]["data-verdict"].split() == ["wrong-0", "wrong-1"]
    assert (articles["q-when"]["data-kind"], articles["q-when"]["data-camera"]) == ("event", "/front")
    for words in ("1.00 to 2.00 s", "“red”", "evidence 5.0 s old (recall)", "first token 0.210 s", "boxes: mug"):
        assert words in page.words


def test_filters_offer_the_values_of_the_run(two_methods):
    page = Page(two_methods)
    assert [a["name"] for a in page.all("select")] == ["bag", "camera", "kind", "verdict"]
    values = {a["value"] for a in page.all("option")}
    assert {"/front", "/rear", "event", "number", "right-0", "wrong-1", "better-1", "worse-1"} < values


def test_the_summary_has_scores_and_changed_verdicts(two_methods):
    page = Page(two_methods)
    assert "right answers 0.750" in page.words
    assert "Right only in memory: 1 – box" in page.words and "Right only in last-4: 0." in page.words
    assert "recent" in page.words and "recall" in page.words
    assert "every box with its label at IoU ≥ 0.5 and no other box" in page.words
    assert (
        "8 images, 4 frames processed, 2 keyframes; 1 shrunk, 1 removed, 3 in memory at the end; 1 damaged (why)"
        in page.words
    )
    assert "keyframes per minute" in page.words


def test_one_method_is_not_compared(result_folder):
    page = Page(render([make({"memory": "rrrr"})], [result_folder]))
    assert "against" not in page.words and "Right only in" not in page.words


def test_two_runs_are_compared(result_folder, tmp_path):
    html = render(
        [make({"memory": "rrww"}, "before"), make({"memory": "rwrr"}, "after")], [result_folder, result_folder]
    )
    page = Page(html)
    assert page.words.startswith("after against before")
    assert "Right answers 0.500 → 0.750, a difference of +0.250" in page.words
    assert "Right only in before: 1 – when" in page.words
    assert {"better-1", "worse-1"} < {a["value"] for a in page.all("option")}


def test_runs_with_the_same_title_are_numbered(result_folder):
    page = Page(render([make({"memory": "rrww"}), make({"memory": "rwrr"})], [result_folder, result_folder]))
    assert "second run against first run" in page.words


def test_titles_distinguish_runs():
    assert titles_of([make({"memory": "rrww"}, "a"), make({"memory": "rrww"}, "b")]) == ["a", "b"]
    assert titles_of([make({"memory": "rrww"}), make({"memory": "rrww"})]) == ["first run", "second run"]


def test_runs_without_a_common_method_are_not_compared(result_folder):
    with pytest.raises(EvaluationError, match="a and b share no method of answering"):
        render([make({"memory": "rrrr"}, "a"), make({"offline": "rrrr"}, "b")], [result_folder, result_folder])


def test_a_run_without_answers_has_no_page(result_folder):
    empty = make({"memory": ""}, questions=[])
    failed = empty.model_copy(update={"bags": [BagInfo(name="hall", path="hall", failed="is empty (0 bytes)")]})
    with pytest.raises(EvaluationError, match=r"no question was answered; hall: is empty \(0 bytes\)"):
        render([failed], [result_folder])


def test_failed_bags_and_answers_are_shown(result_folder):
    results = make({"memory": "rrrr"})
    failed = record(QUESTIONS[3], "memory", False, error="PromptError: no", text="", frame=None)
    records = [*results.records[:3], failed]
    broken = [BagInfo(name="hall", path="hall", failed="breaks off")]
    results = results.model_copy(update={"records": records, "bags": broken})
    page = Page(render([results.model_copy(update={"summary": summarise(results)})], [result_folder]))
    assert "Bag hall could not be evaluated completely: breaks off" in page.words
    assert "No answer: PromptError: no" in page.words
    assert "error-0" in {a["value"] for a in page.all("option")}


def test_unasked_questions_are_shown(result_folder):
    """The bag of two questions failed; one of them has a stamp and no camera."""
    results = make({"memory": "rrwr"})
    mug = [ExpectedObjects(topic="/truth")]
    lost = [
        question("lost", mug, at=3.0, bag="hall", camera="/front"),
        question("stamped", [ExpectedNumber(value=1)], time_s=None, stamp_ns=9, bag="hall"),
    ]
    bags = [*results.bags, BagInfo(name="hall", path="hall", failed="breaks off")]
    results = results.model_copy(update={"questions": [*QUESTIONS, *lost], "bags": bags})
    results = results.model_copy(update={"summary": summarise(results)})
    html = render([results], [result_folder])
    page = Page(html)
    articles = {a["id"]: a for a in page.all("article")}
    assert [articles[name]["data-verdict"] for name in ("q-lost", "q-stamped")] == ["unasked", "unasked"]
    assert "2 of 6 questions were not asked; they count in no score." in page.words
    assert "lost · hall · /front at 3.00 s · objects" in page.words and "stamped · hall · number" in page.words
    assert "boxes of /truth not asked bag hall could not be evaluated completely: breaks off" in page.words
    assert [page.all("option", value=value) for value in ("unasked", "hall")] == [
        [{"value": v}] for v in ("unasked", "hall")
    ]
    assert len(page.all("option", value="")) == 4  # no filter has an empty choice but "all"
    assert "not asked" not in render([make({"memory": "rrwr"})], [result_folder])


def test_problems_of_questions_are_shown(result_folder):
    problems = [f"question q{i} is about bag <b>; the bags are table" for i in range(12)]
    questions = [*QUESTIONS, question("q1", [ExpectedNumber(value=1)])]
    results = make({"memory": "rrwr"}).model_copy(update={"problems": problems, "questions": questions})
    page = Page(render([results.model_copy(update={"summary": summarise(results)})], [result_folder]))
    assert "could not be read or asked: question q0 is about bag <b>; the bags are table; question q1" in page.words
    assert "; and 2 more" in page.words and "the reason is among the problems at the top of the page" in page.words


def test_missing_pictures_are_reported(tmp_path):
    page = Page(render([make({"memory": "rrrr"})], [tmp_path]))
    assert page.words.count("The picture is missing.") == 4


def test_an_unwritable_page_is_a_clear_error(result_folder):
    (result_folder / "file").touch()
    with pytest.raises(WriteError, match=r"x.html cannot be written"):
        write_report(result_folder / "file" / "x.html", [make({"memory": "rrrr"})], [result_folder])


def test_energy_is_shown_if_it_was_measured(result_folder):
    results = make({"memory": "rrwr"})
    assert "joules" not in Page(render([results], [result_folder])).words
    records = [item.model_copy(update={"joules": 2.5}) for item in results.records]
    measured = results.model_copy(update={"records": records, "machine": {"cpu": "x", "energy": ["board"]}})
    words = Page(render([measured.model_copy(update={"summary": summarise(measured)})], [result_folder])).words
    assert "joules per answer 2.5" in words and "energy of board" in words and words.count("· 2.5 J") == 4


@pytest.mark.parametrize("file", ["/etc/passwd", "../../secret.jpg", "table/../../secret.jpg", "secret.txt"])
def test_frames_outside_the_folder_are_refused(tmp_path, file):
    text = make({"memory": "rrrr"}).model_dump_json().replace('"front.jpg"', json.dumps(file))
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(EvaluationError, match=r"is not a \.jpg file inside the folder of frames"):
        load_results(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"root:x:0:0", "is not a JPEG image"), (None, "leads out of the results")]
)
def test_only_jpeg_files_of_the_folder_are_embedded(tmp_path, content, message):
    secret, frame = tmp_path / "secret", tmp_path / "run" / "frames" / "front.jpg"
    frame.parent.mkdir(parents=True)
    secret.write_bytes(b"secret")
    if content is None:
        frame.symlink_to(secret)
    else:
        frame.write_bytes(content)
    with pytest.raises(EvaluationError, match=message):
        write_report(tmp_path / "report.html", [make({"memory": "rrrr"})], [tmp_path / "run"])
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("summary", [{}, {"methods": 1}, {"methods": {"memory": {}}}])
def test_results_that_contradict_themselves_are_one_error(result_folder, tmp_path, summary):
    results = make({"memory": "rrrr"}).model_copy(update={"summary": summary})
    with pytest.raises(EvaluationError, match=r"contradict themselves .* run the evaluation again"):
        write_report(tmp_path / "report.html", [results], [result_folder])
