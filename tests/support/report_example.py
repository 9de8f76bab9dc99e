"""Results of one bag with chosen verdicts, and a parser of the page that shows them."""

from html.parser import HTMLParser

from penguin_ros.evaluation.question_file import ExpectedNumber, ExpectedObjects, ExpectedText, ExpectedTime, Question
from penguin_ros.evaluation.records import AnswerRecord, FrameRecord, ModelSpec, ObjectRecord, RunSettings, Timeline
from penguin_ros.evaluation.results import BagInfo, ModelInfo, Results, score_record
from penguin_ros.evaluation.summary import summarise

EVIL = "<script>alert(1)</script> & \"quotes\" 'too'"


class Page(HTMLParser):
    """The tags and the visible text of an HTML page; raises an AssertionError if a tag is not closed."""

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
        assert self.open.pop() == tag, f"</{tag}> has no matching opening tag"

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


def record(question, method, right, **fields):
    answers = {
        "box": {"text": "A mug.", "objects": [ObjectRecord(label="mug", box=(100, 100, 500, 500 if right else 950))]},
        "when": {"text": "Then.", "spans": [(1.0, 2.0)] if right else [(7.0, 9.0)]},
        "colour": {"text": "red" if right else "blue"},
        EVIL: {"text": "3" if right else EVIL, "raw": EVIL},
    }
    seconds = {"encode": 0.01, "prefill": 0.2, "decode": 0.5}
    values = {"question": question.id, "method": method, "key": "k", "time_s": question.time_s}
    values |= {"frame": frame(question.camera)} | answers[question.id]
    values |= {"seconds": seconds, "visual_tokens": 50, "frames": 5} | fields
    return score_record("table", question, AnswerRecord(**values))


def make(verdicts, title="run", questions=QUESTIONS, **fields):
    """Returns results with the given verdicts, by method: {"memory": "rrwr"} is right, right, wrong, right."""
    records = [
        record(item, method, verdict == "r")
        for method, row in verdicts.items()
        for item, verdict in zip(questions, row, strict=True)
    ]
    timeline = Timeline(
        bag="table",
        camera="/front",
        method="memory",
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
        settings=RunSettings(methods=list(verdicts)),
        machine={"cpu": "a processor", "cores": 2},
        bags=[BagInfo(name="table", path="table", cameras=["/front", "/rear"])],
        questions=list(questions),
        records=records,
        timelines=[timeline],
        **fields,
    )
    return results.model_copy(update={"summary": summarise(results)})
