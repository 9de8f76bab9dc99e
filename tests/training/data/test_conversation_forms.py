"""The same sample in every form of annotation files gives the same ids, labels and patches."""

import base64
import json

import pytest
from PIL import Image

from penguin_models.errors import DataError
from penguin_training.data.annotations import AnnotationFile, parse_annotation
from penguin_training.data.sample_reader import SampleReader
from penguin_training.settings.data import DataFile, DataSettings

QUESTION, ANSWER = "Which colours are there?", "red and green"


@pytest.fixture
def root(picture, tmp_path):
    for name in ("a b.png", "second.png"):
        Image.fromarray(picture(42, 56, seed=len(name))).save(tmp_path / name)
    return tmp_path


@pytest.fixture
def encode(processor, root):
    reader = SampleReader(processor, DataSettings(files=[DataFile("x")]), max_tokens=512, max_visual_tokens=256)

    def run(raw):
        annotation = parse_annotation(json.loads(json.dumps(raw)), root, "x")
        sample = reader.encode(annotation, reader.measure(annotation))
        return sample.ids.tolist(), sample.labels.tolist(), [image.patches.tobytes() for image in sample.images]

    return run


def data_uri(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def said(content, **fields):
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": ANSWER}], **fields}


def parts(*images, text=QUESTION):
    return [*images, {"type": "text", "text": text}]


FORMS = {
    "a string": lambda root: said(f"<image>\n{QUESTION}", image="a b.png"),
    "images": lambda root: said(f"<image>\n{QUESTION}", images=["a b.png"]),
    "a part without a path": lambda root: said(parts({"type": "image"}), images=["a b.png"]),
    "a placeholder in a part": lambda root: said(parts(text=f"<image>\n{QUESTION}"), image="a b.png"),
    "an image part": lambda root: said(parts({"type": "image", "image": "a b.png", "text": None})),
    "image_url": lambda root: said(parts({"type": "image_url", "image_url": {"url": "a b.png", "detail": "low"}})),
    "image_url as a string": lambda root: said(parts({"type": "image_url", "image_url": "a b.png"})),
    "a file URL": lambda root: said(parts({"type": "image_url", "image_url": {"url": (root / "a b.png").as_uri()}})),
    "a data URI": lambda root: said(parts({"type": "image_url", "image_url": {"url": data_uri(root / "a b.png")}})),
    "a data URI of the sample": lambda root: said(f"<image>\n{QUESTION}", image=data_uri(root / "a b.png")),
    "an answer in parts": lambda root: {
        "messages": [
            {"role": "user", "content": parts({"type": "image", "path": "a b.png"})},
            {"role": "assistant", "content": [{"type": "text", "text": ANSWER}], "tool_calls": None},
        ]
    },
    "roles in conversations": lambda root: {
        "conversations": said(f"<image>\n{QUESTION}")["messages"],
        "messages": None,
        "image": "a b.png",
    },
    "from and value in messages": lambda root: {
        "messages": [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": ANSWER}],
        "image": "a b.png",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_are_equal(encode, root, conversation, form):
    native = {"image": "a b.png", "conversations": conversation(f"<image>\n{QUESTION}", ANSWER)}
    assert encode(FORMS[form](root)) == encode(native)


def test_system_messages_and_several_images_keep_their_order(encode, root):
    system = {"role": "system", "content": "Be brief."}
    turns = said(parts({"type": "image", "image": "second.png"}, {"type": "image"}))["messages"]
    native = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": f"<image>\n<image>\n{QUESTION}"},
        {"from": "gpt", "value": ANSWER},
    ]
    expected = encode({"image": ["second.png", "a b.png"], "conversations": native})
    assert encode({"images": "a b.png", "messages": [system, *turns]}) == expected and len(expected[2]) == 2


def test_a_video_part_is_a_clip(root):
    for part in ({"type": "video", "video": "clip"}, {"type": "video_url", "video_url": {"url": "clip"}}):
        (clip,) = parse_annotation(said(parts(part)), root, "x").media
        assert clip.is_clip and clip.path == root / "clip"


def test_media_in_parts_are_learnt_from_without_the_conversation(root, jsonl):
    rows = [said(parts({"type": "image", "image": "a b.png"})), said("<image>Hm?", images=["second.png"])]
    file = AnnotationFile(jsonl(root / "a.jsonl", rows), conversations=False)
    assert [[media.path.name for media in file[row].media] for row in range(2)] == [["a b.png"], ["second.png"]]
    assert not file[0].has_text


def test_a_file_may_mix_forms(root, jsonl, conversation):
    rows = [said("What?"), {"conversations": conversation("What?", ANSWER)}, {"text": "a cup"}, {"question": "What?"}]
    file = AnnotationFile(jsonl(root / "a.jsonl", rows))
    assert file[0].messages == file[1].messages and file[2].text == "a cup"
    with pytest.raises(DataError, match="only question, but training reads `conversations`"):
        file[3]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"prompt": "a", "response": "b", "id": 3},
            "has only prompt, response, id, but training reads `conversations`",
        ),
        (
            {"image": "a.png", "question": "a", "answer": "b"},
            "only image, question, answer, but .*`conversations: false`",
        ),
        ({"image": "a.png", "instruction": "a", "messages": None}, "only image, instruction, but training reads"),
        (said("What?") | {"conversations": [{"from": "gpt", "value": "x"}]}, "not conversations and messages"),
        (said("What?") | {"text": "a"}, "not messages and text"),
        (said("What?") | {"tools": [{"type": "function"}]}, "has tools, which training does not support"),
        ({"messages": "x"}, "messages must be a list of turns"),
        ({"messages": ["x"]}, "must have 'from' and 'value', or 'role' and 'content'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "a turn has the role 'tool'; supported are human, user"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [1]}]}, "must have 'from' and 'value'"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]}, "a turn has tool_calls, which"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0}]}, "a turn has weight, which"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no turn of the assistant"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image"}]}]}, "an answer can hold text only"),
        (said([{"type": "audio"}]), "must be of type text, image, image_url, video, video_url: {'type': 'audio'}"),
        (said([{"type": "text"}]), "must be of type text"),
        (said(["x"]), "must be of type text"),
        (said([{"type": "image"}]), "has 1 <image> but the sample names 0"),
        (said("What?", images=["a.png"]), "has 0 <image> but the sample names 1"),
        (said("<image>", image="a.png", images=["a.png"]), "either image or images, not both"),
        (
            said(parts({"type": "image_url", "image_url": {"url": "https://a.org/b.png"}})),
            "URL 'https://a.org/b.png'; down",
        ),
        ({"image": "s3://bucket/b.png"}, "image is the URL 's3://bucket/b.png'; download it and give its path"),
        ({"image": "file://server/b.png"}, "is the URL 'file://server/b.png'; download it"),
        (
            said("<image>", image="data:image/png;base64,AAAA"),
            "data: URI that cannot be decoded: its bytes are no image",
        ),
        (said("<image>", image="data:image/png;base64,A*"), "data: URI that cannot be decoded"),
        (said("<image>", image="data:image/png,abc"), "does not begin with data:image/...;base64"),
        (said("<video>", video="data:video/mp4;base64,AAAA"), "clip in a data: URI; write it to a file"),
    ],
)
def test_what_is_not_supported_is_named(root, raw, message):
    with pytest.raises(DataError, match=message):
        parse_annotation(raw, root, "x")
