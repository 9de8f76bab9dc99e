"""Recaptioning with a scripted captioner, a real model and a real server: what is kept, left out, and done once."""

import json

import numpy as np
import pytest

pytest.importorskip("inflect", reason="recaptioning is an extra: pip install '.[recaption]'")

from openai_servers import Misbehaving, running
from PIL import Image

from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.server.answering import ModelAnswerer
from penguin_models.errors import DataError, PromptError, RemoteServerError
from penguin_models.grounding import parse
from penguin_models.media import ClipFrame
from penguin_training.data.annotations import AnnotationFile
from penguin_training.recaptioning.captioner import ModelCaptioner, ServerCaptioner
from penguin_training.recaptioning.prompts import ASPECTS, DETECTION
from penguin_training.recaptioning.run import left_out_path, recaption


class Scripted:
    """Answers from a table by the beginning of the prompt, and remembers what it was asked."""

    def __init__(self, in_flight=1, **answers):
        self.in_flight, self.asked = in_flight, []
        self._answers = {"List all objects": "[red cube](0,10,90,200), [blue cube](300,10,390,200)"} | answers

    def answers(self, frames, prompts):
        self.asked += [(len(frames), prompt) for prompt in prompts]
        found = [self._answer(prompt) for prompt in prompts]
        for answer in found:
            if isinstance(answer, Exception):
                raise answer
        return found

    def _answer(self, prompt):
        return next((answer for start, answer in self._answers.items() if prompt.startswith(start)), "Two cubes.")


@pytest.fixture
def files(tmp_path):
    """An annotation file with two pictures, a damaged one, a clip, and a sample of text."""
    for name in ("a", "b"):
        Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    (tmp_path / "clip").mkdir()
    for second in range(0, 75, 5):
        Image.fromarray(np.full((28, 28, 3), second, np.uint8)).save(tmp_path / "clip" / f"{second * 1000:08d}.jpg")
    rows = [{"id": "a", "image": "a.png"}, {"id": "bad", "image": "bad.png"}, {"id": "b", "image": ["b.png"]}]
    rows += [{"id": "c", "video": "clip"}, {"id": "pair", "image": ["a.png", "b.png"]}]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [path]


def test_annotations_can_be_trained_on_and_faults_are_listed(files, tmp_path):
    out, captioner = tmp_path / "out.jsonl", Scripted(in_flight=2)
    counts = recaption(files, out, captioner)
    assert (counts.written, counts.annotations, counts.left_out) == (3, 7, 2)
    made = AnnotationFile(out)
    assert [made.name(row) for row in range(7)] == [
        *("a/caption", "a/regions", "b/caption", "b/regions", "c/dense", "c/paragraphs", "c/whole")
    ]
    assert all(made[row].has_text and len(made[row].media) == 1 for row in range(7)) and made[1].independent_turns
    assert set(made.raw(0)["aspects"]) == set(ASPECTS) and len(ASPECTS) == 10
    texts = [turn["value"] for turn in made.raw(1)["conversations"]]
    assert texts[0].startswith("<image>\nDescribe the object in the box (0,10,90,200)")
    assert texts[3] == "[red cube](0,10,90,200)" and texts[2] == "Where is the red cube?"
    dense = parse(made.raw(4)["conversations"][1]["value"])
    assert [(span.start_s, span.end_s) for span in dense.time_ranges][:2] == [(0.0, 5.0), (10.0, 15.0)]
    assert made.raw(5)["conversations"][1]["value"] == "Two cubes.\n\nTwo cubes."  # a minute, and the rest
    left_out = {row["of"]: row["reasons"] for row in map(json.loads, left_out_path(out).open())}
    assert set(left_out) == {"bad", "pair"} and "2 images and clips; one" in left_out["pair"][0]


def test_an_interrupted_run_goes_on_where_it_was(files, tmp_path):
    out = tmp_path / "out.jsonl"
    recaption(files, tmp_path / "whole.jsonl", Scripted())
    fails = Scripted(**{"These frames": RemoteServerError("the captioner is gone")})
    with pytest.raises(RemoteServerError, match="is gone"):
        recaption(files, out, fails)
    lines = out.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    out.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # killed while it wrote the second picture
    again = Scripted()
    counts = recaption(files, out, again)
    assert (counts.earlier, counts.written) == (2, 2) and out.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert sum(prompt == DETECTION for _, prompt in again.asked) == 1
    for foreign in ('{"id": "other"}\n', '[{"id": "other", "image": "a.png"}]', "notes"):
        out.write_text(foreign)
        with pytest.raises(DataError, match="not the output of an earlier run"):
            recaption(files, out, again)
        assert out.read_text() == foreign


def test_a_prompt_that_is_refused_or_contradictory_costs_one_sample(files, tmp_path):
    wrong = Scripted(**{"Notes about": "Three cubes.", "These frames": PromptError("too long")})
    counts = recaption(files, tmp_path / "out.jsonl", wrong)
    assert (counts.written, counts.left_out) == (0, 5)
    reasons = {row["of"]: row["reasons"] for row in map(json.loads, left_out_path(tmp_path / "out.jsonl").open())}
    assert reasons["a"] == ["the caption counts 3 of the kind cube, there are 2 boxes"] and reasons["c"] == ["too long"]


def test_two_samples_with_the_same_id_are_refused_before_anything_is_asked(files, tmp_path):
    """Lines are those of an editor: blank ones count. Samples without an id are distinguished by their files."""
    out, captioner = tmp_path / "out.jsonl", Scripted()
    lines = files[0].read_text().splitlines()
    files[0].write_text("\n".join([lines[0], "", *lines[1:], lines[0]]) + "\n")
    with pytest.raises(DataError, match=r"the id 'a': \S+in.jsonl, line 1 and \S+in.jsonl, line 7; ids must differ"):
        recaption(files, out, captioner)
    (tmp_path / "list.json").write_text(json.dumps([{"image": "a.png"}, {"id": "c", "image": "a.png"}]))
    files[0].write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"the id 'c': \S+in.jsonl, line 4 and \S+list.json, sample 2"):
        recaption([*files, tmp_path / "list.json"], out, captioner)
    assert not captioner.asked and not out.exists()


def test_a_model_and_a_server_answer_alike(model, processor):
    runtime = TorchRuntime(model)
    local = ModelCaptioner(runtime, processor, 3)
    frames = [ClipFrame(float(second), np.full((56, 56, 3), 60 * second, np.uint8)) for second in (1, 2)]
    expected = local.answers(frames, ["What <image> is it?", "Why?"])
    assert all(expected) and local.answers([], ["Why?"])
    with running(ModelAnswerer(runtime, processor, 10**6)) as server:
        served = ServerCaptioner(f"{server.address}/v1", "tiny", None, 3, 4).answers(frames, ["Why?"])
    assert served == expected[1:]
    with Misbehaving((400, {}, "too long")) as broken, pytest.raises(PromptError, match="too long"):
        ServerCaptioner(broken.url, "m", None, 3, 1).answers(frames, ["Why?"])
    with Misbehaving((401, {}, "no key")) as broken, pytest.raises(RemoteServerError, match="no key"):
        ServerCaptioner(broken.url, "m", None, 3, 1).answers(frames, ["Why?"])
