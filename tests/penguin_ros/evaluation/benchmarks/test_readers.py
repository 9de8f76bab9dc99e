"""Small files written by hand in the benchmarks' published formats: what is asked, and what is right."""

import json

import numpy as np
import pytest
from PIL import Image

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.benchmarks.items import FramesMedia, VideoMedia, load_picture
from penguin_ros.evaluation.benchmarks.run import BENCHMARKS, read_items
from penguin_ros.evaluation.metrics.scoring import Prediction, score

LETTER = "\nAnswer with the option's letter from the given choices directly."


def put(folder, files):
    """Writes files: text, JSON values, or pictures and empty videos where the content is None."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            if path.suffix in (".png", ".jpg", ".jpeg", ".webp"):
                Image.new("RGB", (40, 30), "gray").save(path)
            else:
                path.touch()
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def read(name, folder, files, **options):
    return read_items(name, put(folder, files), **options)


DOCVQA = {
    "spdocvqa_qas/val_v1.0_withQT.json": {
        "dataset_name": "SP-DocVQA",
        "dataset_split": "val",
        "data": [
            {
                "questionId": 49153,
                "question": "What is the 'actual' value per 1000?",
                "question_types": ["figure/diagram"],
                "image": "documents/pybv0228_81.png",
                "docId": 14465,
                "ucsf_document_id": "pybv0228",
                "answers": ["0.28", "0.280"],
            }
        ],
    },
}


@pytest.mark.parametrize("place", ["documents", "spdocvqa_images", "images/documents"])
def test_docvqa(tmp_path, place):
    (item,) = read("docvqa", tmp_path, DOCVQA | {f"{place}/pybv0228_81.png": None})
    assert item.id == "49153" and item.group == "figure/diagram"
    assert item.question == "What is the 'actual' value per 1000?\nAnswer the question using a single word or phrase."
    assert (item.expected.accept, item.expected.metric) == (["0.28", "0.280"], "anls")
    assert item.media.path.name == "pybv0228_81.png"


def test_docvqa_without_answers(tmp_path):
    files = json.loads(json.dumps(DOCVQA))
    del files["spdocvqa_qas/val_v1.0_withQT.json"]["data"][0]["answers"]
    with pytest.raises(EvaluationError, match="question 49153 has no answers: only the validation split"):
        read("docvqa", tmp_path, files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": 5}, r"val_v1.0.json holds 5, not a list: is this the benchmark's own format\?"),
        ({"data": ["a"]}, "val_v1.0.json, entry 0 is 'a', not an object"),
        ([], "val_v1.0.json has no field 'data'"),
        (
            {"data": [{"questionId": 7, "question": "?", "image": "a.png", "answers": "yes"}]},
            "question 7: answers are 'yes', they must be a list",
        ),
    ],
)
def test_docvqa_in_another_format(tmp_path, content, message):
    with pytest.raises(EvaluationError, match=message):
        read("docvqa", tmp_path, {"val_v1.0.json": content})


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "chartqa",
            {"test_human.json": {"a": 1}, "test_augmented.json": []},
            "test_human.json holds {'a': 1}, not a list",
        ),
        ("perception-test", {"mc_question_valid.json": [1]}, r"mc_question_valid.json holds \[1\], not an object"),
        ("egoschema", {"questions.json": [], "subset_answers.json": []}, r"answers.json holds \[\], not an object"),
    ],
)
def test_lists_and_objects_that_are_neither(tmp_path, name, files, message):
    with pytest.raises(EvaluationError, match=message):
        read(name, tmp_path, files)


def test_infovqa(tmp_path):
    data = {
        "questionId": 98313,
        "question": "Which social platform has heavy female audience?",
        "image_local_name": "38247.jpeg",
        "image_url": "https://example.invalid/38247.jpeg",
        "ocr_output_file": "38247.json",
        "answers": ["pinterest"],
        "answer_type": ["single span"],
    }
    files = {"infographicsVQA_val_v1.0_withQT.json": {"data": [data]}, "infographicsvqa_images/38247.jpeg": None}
    (item,) = read("infovqa", tmp_path, files)
    assert (item.id, item.group, item.expected.metric) == ("98313", "single span", "anls")
    assert item.question.endswith("audience?\nAnswer the question using a single word or phrase.")


def test_chartqa(tmp_path):
    files = {
        "test/test_human.json": [
            {"imgname": "41699051005347.png", "query": "How many food item is shown?", "label": "14"}
        ],
        "test/test_augmented.json": [{"imgname": "two.png", "query": "What is the value?", "label": "52.1%"}],
        "test/png/41699051005347.png": None,
        "test/png/two.png": None,
    }
    human, augmented = read("chartqa", tmp_path, files)
    assert human.question == "How many food item is shown?\nAnswer the question with a single word."
    assert (human.expected.accept, human.expected.metric, human.group) == (["14"], "relaxed", "human")
    assert (augmented.id, augmented.group) == ("augmented-0", "augmented")


def test_ocrbench(tmp_path):
    entry = {"question": "what is written in the image? ", "type": "Regular Text Recognition", "id": 0}
    files = {
        "OCRBench/OCRBench.json": [
            entry | {"dataset_name": "IIIT5K", "image_path": "IIIT5K/1.png", "answers": "CENTRE"},
            entry | {"dataset_name": "HME100k", "image_path": "HME/2.png", "answers": ["x ^ 2", "x^{2}"]},
        ],
        "OCRBench_Images/IIIT5K/1.png": None,
        "OCRBench_Images/HME/2.png": None,
    }
    word, formula = read("ocrbench", tmp_path, files)
    assert word.question == "what is written in the image?" and word.group == "Regular Text Recognition"
    assert (word.expected.accept, word.expected.metric) == (["CENTRE"], "contains")
    assert (formula.expected.accept, formula.expected.metric) == (["x ^ 2", "x^{2}"], "contains_formula")


AI2D = {
    "ai2d_test_ids.csv": "7\n10\n",
    "questions/7.png.json": {
        "imageName": "7.png",
        "questions": {
            "What does B show?": {
                "abcLabel": True,
                "answerTexts": ["root", "leaf", "stem", "fruit"],
                "correctAnswer": 1,
                "questionId": "7.png-0",
            },
            "What is it?": {
                "abcLabel": False,
                "answerTexts": ["a plant", "a cat"],
                "correctAnswer": 0,
                "questionId": "7.png-1",
            },
        },
    },
    "questions/8.png.json": {"imageName": "8.png", "questions": {}},
    "annotations/7.png.json": {
        "imageName": "7.png",
        "text": {"T0": {"rectangle": [[5, 5], [35, 25]], "replacementText": "B", "value": "leaf", "textId": "T0"}},
    },
    "images/7.png": None,
}


def test_ai2d(tmp_path):
    letters, plain = read("ai2d", tmp_path, AI2D)
    assert letters.id == "7.png-0" and letters.expected.answer == "B"
    assert letters.question == f"What does B show?\nA. root\nB. leaf\nC. stem\nD. fruit{LETTER}"
    assert plain.expected.options == ["a plant", "a cat"] and plain.media.marks == ()


def test_ai2d_letters_replace_the_texts_of_the_diagram(tmp_path):
    letters, plain = read("ai2d", tmp_path, AI2D)
    before, after = load_picture(plain.media), load_picture(letters.media)
    changed = np.argwhere((before != after).any(axis=2))
    assert changed.min(axis=0).tolist() == [5, 5] and changed.max(axis=0).tolist() == [25, 35]
    inside = after[5:26, 5:36]
    assert inside.max() == 255 and inside.min() < 60  # a letter in black on white


def test_realworldqa(tmp_path):
    suffix = "Please answer directly with only the letter of the correct option and nothing else."
    choice = f"In which direction is the front wheel of the car facing?\nA. Left\nB. Straight\nC. Right\n{suffix}"
    lines = [
        {"image": "0.webp", "question": choice, "answer": "C"},
        {"image": "1.webp", "question": "How many arrows are there? Answer with a number.", "answer": "2"},
    ]
    files = {"annotations.jsonl": "\n".join(map(json.dumps, lines)) + "\n", "0.webp": None, "1.webp": None}
    wheel, arrows = read("realworldqa", tmp_path, files)
    assert wheel.question == choice and wheel.expected.options == ["Left", "Straight", "Right"]
    assert (wheel.expected.answer, wheel.group) == ("C", "choice")
    assert (arrows.expected.accept, arrows.group) == (["2"], "open")


def test_realworldqa_with_a_broken_line(tmp_path):
    with pytest.raises(EvaluationError, match=r"annotations.jsonl, line 2 is no JSON"):
        read("realworldqa", tmp_path, {"annotations.jsonl": '{"image": "0.webp", "question": "a", "answer": "b"}\n{\n'})


def test_mvbench(tmp_path):
    files = {
        "json/action_sequence.json": [
            {
                "video": "ZS9XR.mp4",
                "question": "What happened after the person took the food?",
                "candidates": ["Ate the medicine.", "Tidied up the blanket."],
                "answer": "Tidied up the blanket.",
                "start": 11.1,
                "end": 19.6,
            }
        ],
        "json/moving_count.json": [
            {"video": "video_1.mp4", "question": "How many?", "candidates": ["2", "3", "4"], "answer": "2"}
        ],
        "json/episodic_reasoning.json": [
            {"video": "s01", "question": "Who?", "candidates": ["a", "b"], "answer": "a", "start": 1, "end": 3}
        ],
        "video/star/Charades_v1_480/ZS9XR.mp4": None,
        "video/clevrer/video_validation/video_1.mp4": None,
        "video/tvqa/frames_fps3_hq/s01/00001.jpg": None,
    }
    items = {item.group: item for item in read("mvbench", tmp_path, files)}
    action, count, episode = (items[n] for n in ("action_sequence", "moving_count", "episodic_reasoning"))
    assert action.question == (
        "Question:What happened after the person took the food?\nOption:\n(A) Ate the medicine.\n"
        "(B) Tidied up the blanket.\nOnly give the best option.\n"
    )
    assert action.expected.answer == "B"
    assert action.media == VideoMedia(tmp_path / "video/star/Charades_v1_480/ZS9XR.mp4", 11.1, 19.6)
    assert count.media == VideoMedia(tmp_path / "video/clevrer/video_validation/video_1.mp4")
    assert episode.media == FramesMedia(tmp_path / "video/tvqa/frames_fps3_hq/s01", 3.0, 1, 3)


def test_mvbench_with_videos_that_are_cut_already(tmp_path):
    entry = {"video": "a.mp4", "question": "q", "candidates": ["x", "y"], "answer": "x", "start": 5, "end": 9}
    (item,) = read(
        "mvbench", tmp_path, {"json/action_sequence.json": [entry], "video/star/Charades_segment/a.mp4": None}
    )
    assert item.media == VideoMedia(tmp_path / "video/star/Charades_segment/a.mp4")


def test_mvbench_with_videos_of_the_supplement(tmp_path):
    """The release adds a part of the videos of STAR and CLEVRER in a folder of its own."""
    entry = {"video": "a.mp4", "question": "q", "candidates": ["x", "y"], "answer": "x", "start": 5, "end": 9}
    place = "video/data0613/star/Charades_v1_480/a.mp4"
    (item,) = read("mvbench", tmp_path, {"json/action_sequence.json": [entry], place: None})
    assert item.media == VideoMedia(tmp_path / place, 5, 9)


def test_egoschema(tmp_path):
    entry = {"google_drive_id": "x", "question": "What is c doing?"} | {f"option {i}": f"c does {i}" for i in range(5)}
    files = {
        "questions.json": [entry | {"q_uid": "0074f737"}, entry | {"q_uid": "without a public answer"}],
        "subset_answers.json": {"0074f737": 3},
        "videos/0074f737.mp4": None,
    }
    (item,) = read("egoschema", tmp_path, files)
    assert (item.id, item.expected.answer) == ("0074f737", "D")
    assert item.question.startswith("What is c doing?\nA. c does 0\nB. ") and item.question.endswith(LETTER)


def test_activitynet_qa(tmp_path):
    question = {"video_name": "1QIUV7WYKXg", "question": "is the athlete wearing trousers", "question_id": "v_1_3"}
    files = {
        "dataset/test_q.json": [question],
        "dataset/test_a.json": [{"answer": "yes", "type": 3, "question_id": "v_1_3"}],
        "videos/v_1QIUV7WYKXg.mkv": None,
    }
    (item,) = read("activitynet-qa", tmp_path, files)
    assert item.question == "Is the athlete wearing trousers? Answer the question using a single word or phrase."
    assert (item.expected.accept, item.group, item.media.path.suffix) == (["yes"], "type 3", ".mkv")
    files["dataset/test_a.json"] = []
    with pytest.raises(EvaluationError, match=r"test_a.json has no answer to question v_1_3"):
        read("activitynet-qa", tmp_path, files)


def test_perception_test(tmp_path):
    question = {
        "id": 2,
        "question": "Is the camera moving?",
        "options": ["No", "Yes", "I don't know"],
        "answer_id": 1,
        "area": "physics",
        "reasoning": "descriptive",
        "tag": ["motion"],
    }
    files = {
        "mc_question_valid.json": {"video_8241": {"metadata": {"split": "valid"}, "mc_question": [question]}},
        "videos/video_8241.mp4": None,
    }
    (item,) = read("perception-test", tmp_path, files)
    assert (item.id, item.group, item.expected.answer) == ("video_8241-2", "physics", "B")
    assert item.question == f"Is the camera moving?\nA. No\nB. Yes\nC. I don't know{LETTER}"


def test_longvideobench(tmp_path):
    entry = {
        "video_id": "86CxyhFV9MI",
        "question": "Which subtitles appear?",
        "question_wo_referring_query": "Which?",
        "candidates": ["promisc", "run", "stop", "go"],
        "correct_choice": 1,
        "position": [4],
        "topic_category": "NP",
        "question_category": "TOS",
        "level": "L2-Relation",
        "id": "86CxyhFV9MI_0",
        "video_path": "86CxyhFV9MI.mp4",
        "subtitle_path": "86CxyhFV9MI_en.json",
        "duration_group": 15,
        "starting_timestamp_for_subtitles": 0,
        "duration": 190.16,
    }
    (item,) = read("longvideobench", tmp_path, {"lvb_val.json": [entry], "videos/86CxyhFV9MI.mp4": None})
    assert (item.id, item.expected.answer, item.group) == ("86CxyhFV9MI_0", "B", "up to 15 s")
    assert item.question == f"Which subtitles appear?\nA. promisc\nB. run\nC. stop\nD. go{LETTER}\n"


def test_charades_sta(tmp_path):
    lines = "3MSZA 24.3 30.4##person turn a light on.\nXYZ 0 5##person sits down."
    files = {"charades_sta_test.txt": lines, "Charades_v1_480/3MSZA.mp4": None, "Charades_v1_480/XYZ.mp4": None}
    light, _ = read("charades-sta", tmp_path, files)
    assert light.expected.accept == [(24.3, 30.4)]
    assert "textual sentence: person turn a light on. Please return its start time" in light.question
    with pytest.raises(EvaluationError, match=r"charades_sta_test.txt, line 1 is not 'VIDEO START END##SENTENCE'"):
        read("charades-sta", tmp_path, {"charades_sta_test.txt": "3MSZA##person"})


# What is the same for all.


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_folder_with_other_files(tmp_path, name):
    with pytest.raises(EvaluationError, match=r"has none of .*\.(json|jsonl|csv|txt)"):
        read_items(name, tmp_path)


def test_an_unknown_benchmark_and_a_missing_folder(tmp_path):
    with pytest.raises(EvaluationError, match="there is no benchmark 'mmlu'; there are docvqa, infovqa"):
        read_items("mmlu", tmp_path)
    with pytest.raises(EvaluationError, match="none is not a folder; --data"):
        read_items("docvqa", tmp_path / "none")


def test_media_that_are_missing(tmp_path):
    files = {
        "test/test_human.json": [{"imgname": f"{i}.png", "query": "?", "label": "1"} for i in range(3)],
        "test/test_augmented.json": [],
        "test/png/1.png": None,
    }
    put(tmp_path, files)
    with pytest.raises(EvaluationError, match=r"2 of 3 files are missing, the first is .*0.png; --skip-missing"):
        read_items("chartqa", tmp_path)
    (item,) = read_items("chartqa", tmp_path, skip_missing=True)
    assert item.id == "human-1"
    with pytest.raises(EvaluationError, match="no question of ChartQA, test whose file is there"):
        read_items("chartqa", tmp_path, limit=1, skip_missing=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test/test_human.json": "{"}, r"test_human.json is no JSON"),
        ({"test/test_human.json": [{"imgname": "a"}]}, r"entry 0 has no field 'label': is this the benchmark's own"),
        ({"test/test_human.json": ["a"]}, r"entry 0 is 'a', not an object"),
    ],
)
def test_files_of_another_format(tmp_path, files, message):
    with pytest.raises(EvaluationError, match=message):
        read("chartqa", tmp_path, {"test/test_augmented.json": []} | files)


def test_answers_that_are_blank_or_missing(tmp_path):
    chart = {"imgname": "a.png", "query": "?", "label": ""}
    files = {"test/test_human.json": [chart], "test/test_augmented.json": [], "test/png/a.png": None}
    (item,) = read("chartqa", tmp_path, files)
    assert item.expected.accept == [" "] and score(Prediction(""), [item.expected]).correct
    line = {"image_path": "a.png", "question": "?", "answers": []}
    with pytest.raises(EvaluationError, match=r"OCRBench.json, entry 0 has no answer"):
        read("ocrbench", tmp_path, {"OCRBench.json": [line]})


def test_an_answer_that_is_no_option(tmp_path):
    files = json.loads(json.dumps({k: v for k, v in AI2D.items() if v is not None}))
    files["questions/7.png.json"]["questions"]["What is it?"]["correctAnswer"] = 2
    with pytest.raises(EvaluationError, match="answer 2 is none of 2 options"):
        read("ai2d", tmp_path, files)
