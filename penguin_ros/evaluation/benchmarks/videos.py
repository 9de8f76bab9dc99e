"""Benchmarks about videos: MVBench, EgoSchema, ActivityNet-QA, Perception Test, LongVideoBench, Charades-STA.

Prompts are those of lmms-eval 0.7 for models without settings of their own. Subtitles are not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.benchmarks.items import (
    VIDEO_ENDINGS,
    FramesMedia,
    Item,
    Media,
    VideoMedia,
    choice,
    entries,
    field,
    find_file,
    find_media,
    lettered,
    members,
    read_json,
    words,
)
from penguin_ros.evaluation.benchmarks.pictures import LETTER
from penguin_ros.evaluation.question_file import ExpectedTime, read_lines

_TVQA_RATE_HZ = 3.0
_CLEVRER, _PERCEPTION = ("clevrer/video_validation",), ("perception/videos",)
_STAR = ("star/Charades_v1_480", "star/Charades_segment")
MVBENCH_FOLDERS = {
    "action_sequence": _STAR,
    "action_prediction": _STAR,
    "action_antonym": ("ssv2_video", "ssv2_video_mp4"),
    "fine_grained_action": ("Moments_in_Time_Raw/videos",),
    "unexpected_action": ("FunQA_test/test",),
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": ("sta/sta_video", "sta/sta_video_segment"),
    "scene_transition": ("scene_qa/video",),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": ("nturgbd", "nturgbd_convert"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": ("vlnqa",),
    "episodic_reasoning": ("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment"),
    "counterfactual_inference": _CLEVRER,
}
"""Where the videos of each task lie, in the first release and in the one with videos cut already."""


def read_mvbench(folder: Path) -> Iterator[Item]:
    """MVBench: `json/TASK.json` for its twenty tasks, and `video/`; tasks that are not there are left out.

    Source: Li et al. 2023, arXiv:2311.17005; the authors' release.
    """
    present = [task for task in MVBENCH_FOLDERS if (folder / "json" / f"{task}.json").is_file()]
    if not present:
        raise EvaluationError(f"{folder / 'json'} has none of {', '.join(f'{task}.json' for task in MVBENCH_FOLDERS)}")
    for task in present:
        file = folder / "json" / f"{task}.json"
        for index, item in enumerate(entries(read_json(file), str(file))):
            where = f"{file}, entry {index}"
            options = [str(option) for option in field(item, "candidates", where)]
            answer = str(field(item, "answer", where))
            if answer not in options:
                raise EvaluationError(f"{where}: answer {answer!r} is none of its candidates")
            shown = lettered(options, "({letter}) {option}")
            question = f"Question:{field(item, 'question', where)}\nOption:\n{shown}\nOnly give the best option.\n"
            media = _mvbench_media(folder, task, item, where)
            yield Item(f"{task}-{index}", question, choice(options, options.index(answer), where), media, task)


def _mvbench_media(folder: Path, task: str, item: object, where: str) -> Media:
    # data0613.zip of the release holds videos that its star.zip and clevrer.zip lack.
    roots = ("video", ".", "video/data0613", "data0613")
    places = [f"{root}/{place}" for place in MVBENCH_FOLDERS[task] for root in roots]
    path = find_media(folder, str(field(item, "video", where)), places)
    bounds = dict(item) if isinstance(item, dict) else {}
    cut = "segment" in str(path)  # these files hold only the part already
    span = (0.0, float("inf")) if cut or "start" not in bounds else (float(bounds["start"]), float(bounds["end"]))
    return FramesMedia(path, _TVQA_RATE_HZ, *span) if path.is_dir() else VideoMedia(path, *span)


def read_egoschema(folder: Path) -> Iterator[Item]:
    """EgoSchema, the subset with public answers: `questions.json`, `subset_answers.json` and `videos/`.

    Source: Mangalam et al. 2023, arXiv:2308.09126; the authors' repository.
    """
    answers_file = find_file(folder, ("subset_answers.json",))
    answers = dict(members(read_json(answers_file), str(answers_file)))
    file = find_file(folder, ("questions.json",))
    for index, item in enumerate(entries(read_json(file), str(file))):
        where = f"{file}, entry {index}"
        name = str(field(item, "q_uid", where))
        if name not in answers:
            continue
        options = [str(field(item, f"option {i}", where)) for i in range(5)]
        path = find_media(folder, name, ("videos", "good_clips_git", ""), VIDEO_ENDINGS)
        question = f"{field(item, 'question', where)}\n{lettered(options)}{LETTER}"
        yield Item(name, question, choice(options, int(answers[name]), where), VideoMedia(path))


def read_activitynet_qa(folder: Path) -> Iterator[Item]:
    """ActivityNet-QA, test: `test_q.json`, `test_a.json` and the videos `v_NAME.mp4`.

    Scored by normalised text, as its authors did by exact text; harnesses that ask another model to judge give other
    figures. Source: Yu et al. 2019, arXiv:1906.02467; the authors' repository.
    """
    answers_file = find_file(folder, ("test_a.json",))
    answers = {
        str(field(item, "question_id", str(answers_file))): item
        for item in entries(read_json(answers_file), str(answers_file))
    }
    file = find_file(folder, ("test_q.json",))
    for index, item in enumerate(entries(read_json(file), str(file))):
        where = f"{file}, entry {index}"
        name = str(field(item, "question_id", where))
        if name not in answers:
            raise EvaluationError(f"{where}: {answers_file.name} has no answer to question {name}")
        video = f"v_{field(item, 'video_name', where)}"
        path = find_media(folder, video, ("videos", "all_test", ""), VIDEO_ENDINGS)
        question = (
            f"{str(field(item, 'question', where)).capitalize()}? Answer the question using a single word or phrase."
        )
        expected = words([field(answers[name], "answer", where)], "normalised", where)
        yield Item(name, question, expected, VideoMedia(path), f"type {answers[name].get('type', '')}".strip())


def read_perception_test(folder: Path) -> Iterator[Item]:
    """Perception Test, multiple-choice questions of the validation split: `mc_question_valid.json` and `videos/`.

    Source: Patraucean et al. 2023, arXiv:2305.13786; the authors' repository.
    """
    file = find_file(folder, ("mc_question_valid.json", "mc_question_val.json"))
    for video, content in members(read_json(file), str(file)):
        path = find_media(folder, video, ("videos", "valid/videos", ""), VIDEO_ENDINGS)
        for item in entries(field(content, "mc_question", f"{file}, {video}"), f"{file}, {video}"):
            where = f"{file}, {video}, question {item.get('id')}"
            options = [str(option) for option in field(item, "options", where)]
            question = f"{field(item, 'question', where)}\n{lettered(options)}{LETTER}"
            expected = choice(options, int(field(item, "answer_id", where)), where)
            yield Item(f"{video}-{item.get('id')}", question, expected, VideoMedia(path), str(item.get("area", "")))


def read_longvideobench(folder: Path) -> Iterator[Item]:
    """LongVideoBench, validation: `lvb_val.json` and `videos/`.

    Source: Wu et al. 2024, arXiv:2407.15754; the authors' release.
    """
    file = find_file(folder, ("lvb_val.json",))
    for index, item in enumerate(entries(read_json(file), str(file))):
        where = f"{file}, entry {index}"
        options = [str(option) for option in field(item, "candidates", where)]
        path = find_media(folder, str(field(item, "video_path", where)), ("videos", ""))
        question = f"{field(item, 'question', where)}\n{lettered(options)}{LETTER}\n"
        expected = choice(options, int(field(item, "correct_choice", where)), where)
        group = f"up to {item['duration_group']} s" if "duration_group" in item else ""
        yield Item(str(item.get("id", index)), question, expected, VideoMedia(path), group)


def read_charades_sta(folder: Path) -> Iterator[Item]:
    """Charades-STA, test: `charades_sta_test.txt` with lines "VIDEO START END##SENTENCE", and `Charades_v1_480/`.

    Source: Gao et al. 2017, arXiv:1705.02101; the authors' repository.
    """
    file = find_file(folder, ("charades_sta_test.txt",))
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        head, _, sentence = line.partition("##")
        parts = head.split()
        try:
            video, (start, end) = parts[0], map(float, parts[1:3])
        except (IndexError, ValueError) as err:
            raise EvaluationError(f"{file}, line {number} is not 'VIDEO START END##SENTENCE': {line!r}") from err
        path = find_media(folder, video, ("Charades_v1_480", "Charades_v1", "videos", ""), VIDEO_ENDINGS)
        expected = ExpectedTime(accept=[(start, max(start, end))])
        yield Item(str(number), _when(sentence.strip().rstrip(".")), expected, VideoMedia(path))


def _when(sentence: str) -> str:
    return (
        "Please find the visual event described by a sentence in the video, determining its starting and ending times. "
        "The format should be: 'The event happens in the start time - end time'. For example, The event 'person turn a "
        "light on' happens in the 24.3 - 30.4 seonds. Now I will give you the textual sentence: "
        f"{sentence}. Please return its start time and end time."
    )
