"""Questions about images and clips on the small checkpoint: budgets, costs and errors."""

import pytest

from penguin_engine.runtimes.torch import TorchRuntime
from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.scene.offline import ask, ask_each, label_clip
from penguin_models.errors import BudgetError, ContextLengthError, MediaError, PromptError
from penguin_models.media import ClipFrame
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import Size

FEW = Sampling(max_new_tokens=4)


class Frames:
    """A clip in memory that counts its reads."""

    def __init__(self, frames):
        self.frames, self.reads = frames, 0

    def __iter__(self):
        self.reads += 1
        yield from (ClipFrame(float(i), rgb) for i, rgb in enumerate(self.frames))


@pytest.fixture(scope="module")
def runtime(model):
    return TorchRuntime(model)


@pytest.fixture
def clip(picture):
    return Frames([picture(120, 160, seed) for seed in (0, 0, 1, 1, 1, 2)])


def test_an_answer_reports_its_costs(runtime, processor, clip, picture):
    pieces = []
    answer = ask(
        runtime, processor, "What?", images=[picture(60, 80)], clip=clip, policy=ReferencePolicy(),
        max_tokens=200, sampling=FEW, hooks=AnswerHooks(on_text=lambda piece, tokens: pieces.append(piece)),
    )  # fmt: skip
    assert answer.frames == 7 and 1 < answer.keyframes <= 7
    assert 0 < answer.visual_tokens <= 200 < answer.prompt_tokens + 200
    assert "".join(pieces) == answer.raw
    assert answer.generated_tokens == 4 and answer.ended_by == "length"
    assert answer.image_size == Size(120, 160)
    assert set(answer.seconds) == {"read", "encode", "prefill", "decode"}
    assert clip.reads == 2


def test_several_questions_share_one_encoding_and_get_their_own_answers(runtime, processor, clip, picture, monkeypatch):
    questions = ["What is on the table?", "Why?", "Where is the cup, and what is next to it?"]
    media = {"images": [picture(60, 80)], "clip": clip, "policy": ReferencePolicy(), "max_tokens": 200}
    alone = [ask(runtime, processor, question, sampling=FEW, **media) for question in questions]
    clip.reads, encoded = 0, []
    monkeypatch.setattr(runtime, "encode", lambda images, do=runtime.encode: encoded.append(len(images)) or do(images))
    together = ask_each(runtime, processor, questions, sampling=FEW, **media)
    assert [a.raw for a in together] == [a.raw for a in alone] and all(a.raw for a in alone)
    assert [a.prompt_tokens for a in together] == [a.prompt_tokens for a in alone]
    assert (clip.reads, encoded) == (2, [7])
    with pytest.raises(PromptError, match="empty"):
        ask_each(runtime, processor, ["What?", " "], sampling=FEW, **media)


def test_boxes_are_in_pixels_of_the_image(runtime, processor, picture, monkeypatch):
    def generate(*args):
        generation = args[4]
        generation.text, generation.ends, generation.probabilities = "A [cup](0,500,1000,1000).", [25], [0.25]
        yield generation.text

    monkeypatch.setattr("penguin_engine.scene.generation.generate", generate)
    result = ask(runtime, processor, "Where?", images=[picture(60, 80)], sampling=FEW).to_dict()
    assert result["answer"] == "A cup."
    assert result["objects"] == [{"label": "cup", "box_px": (0.0, 30.0, 80.0, 60.0), "score": 0.25}]


def test_a_question_needs_no_image(runtime, processor):
    answer = ask(runtime, processor, "Hello?", sampling=FEW)
    assert (answer.frames, answer.visual_tokens, answer.image_size) == (0, 0, None)


@pytest.mark.parametrize(("question", "error"), [(" ", "is empty"), ("a <image>?", "contains '<image>'")])
def test_a_bad_question_is_refused(runtime, processor, question, error):
    with pytest.raises(PromptError, match=error):
        ask(runtime, processor, question, sampling=FEW)


def test_the_context_length_is_checked_before_encoding(runtime, processor, picture, monkeypatch):
    monkeypatch.setattr(TorchRuntime, "encode", lambda *a: pytest.fail("encoded"))
    with pytest.raises(ContextLengthError, match=r"needs \d+ tokens, \d+ more than the 40960"):
        ask(runtime, processor, "why " * 50_000, images=[picture(60, 80)])


def test_a_budget_too_small_for_the_clip_is_refused(runtime, processor, clip):
    with pytest.raises(BudgetError, match=r"6 frames need at least 144 visual tokens .* the budget is 20"):
        ask(runtime, processor, "What?", clip=clip, policy=ReferencePolicy(), max_tokens=20)


def test_an_empty_clip_is_refused():
    with pytest.raises(MediaError, match="no frames"):
        label_clip(Frames([]), ReferencePolicy())


def test_frames_of_another_size_are_scaled_to_the_first(runtime, processor, picture, caplog):
    sizes = (40, 60), (80, 120), (60, 40)
    clip = Frames([picture(*size) for size in sizes])
    assert label_clip(clip, ReferencePolicy()).size == (40, 60)
    answer = ask(runtime, processor, "What?", clip=clip, policy=ReferencePolicy(), sampling=FEW)
    assert answer.frames == 3 and answer.image_size == (40, 60)
    assert [record.message for record in caplog.records] == [
        f"the clip changes from 60x40 to {size} pixels; all its frames are scaled to the first size"
        for size in ("120x80", "40x60")
    ]
