"""Benchmarks about pictures: DocVQA, InfographicVQA, ChartQA, OCRBench, AI2D, RealWorldQA.

Prompts are those of lmms-eval 0.7 for models without settings of their own.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.benchmarks.items import (
    ImageMedia,
    Item,
    Mark,
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
from penguin_ros.evaluation.question_file import Expected, read_lines

SHORT = "\nAnswer the question using a single word or phrase."
ONE_WORD = "\nAnswer the question with a single word."
LETTER = "\nAnswer with the option's letter from the given choices directly."


def read_docvqa(folder: Path) -> Iterator[Item]:
    """DocVQA, validation: `val_v1.0_withQT.json` (or `val_v1.0.json`) and the page images it names.

    Source: Mathew et al. 2021, arXiv:2007.00398; files of the Robust Reading Competition.
    """
    file = find_file(folder, ("val_v1.0_withQT.json", "val_v1.0.json"))
    places = ("", "spdocvqa_images", "images", str(file.parent.relative_to(folder)))
    for item in entries(field(read_json(file), "data", str(file)), str(file)):
        where = f"{file}, question {item.get('questionId')}"
        name = str(field(item, "image", where))
        path = find_media(folder, name, places)
        if not path.exists():  # newer downloads leave out the folder "documents"
            path = find_media(folder, Path(name).name, places)
        group = (item.get("question_types") or [""])[0]
        yield _anls_item(item, where, path, group)


def read_infovqa(folder: Path) -> Iterator[Item]:
    """InfographicVQA, validation: `infographicsVQA_val_v1.0_withQT.json` and `infographicsvqa_images/`.

    Source: Mathew et al. 2022, arXiv:2104.12756; files of the Robust Reading Competition.
    """
    file = find_file(folder, ("infographicsVQA_val_v1.0_withQT.json", "infographicsVQA_val_v1.0.json"))
    for item in entries(field(read_json(file), "data", str(file)), str(file)):
        where = f"{file}, question {item.get('questionId')}"
        name = str(field(item, "image_local_name", where))
        path = find_media(folder, name, ("infographicsvqa_images", "images", "", str(file.parent.relative_to(folder))))
        group = (item.get("answer_type") or [""])[0]
        yield _anls_item(item, where, path, str(group))


def _anls_item(item: Any, where: str, path: Path, group: str) -> Item:
    if not item.get("answers"):
        raise EvaluationError(f"{where} has no answers: only the validation split can be scored here")
    expected = words(item["answers"], "anls", where)
    name = str(field(item, "questionId", where))
    return Item(name, f"{field(item, 'question', where)}{SHORT}", expected, ImageMedia(path), group)


def read_chartqa(folder: Path) -> Iterator[Item]:
    """ChartQA, test: `test_human.json` and `test_augmented.json` with the folder `png`.

    Source: Masry et al. 2022, arXiv:2203.10244; the authors' repository.
    """
    for group in ("human", "augmented"):
        file = find_file(folder, (f"test_{group}.json",))
        for index, item in enumerate(entries(read_json(file), str(file))):
            where = f"{file}, entry {index}"
            path = find_media(file.parent, str(field(item, "imgname", where)), ("png", "", "images"))
            expected = words([field(item, "label", where)], "relaxed", where)
            question = f"{field(item, 'query', where)}{ONE_WORD}"
            yield Item(f"{group}-{index}", question, expected, ImageMedia(path), group)


def read_ocrbench(folder: Path) -> Iterator[Item]:
    """OCRBench: `OCRBench.json` (or `FullTest.json`) and `OCRBench_Images/`; the score out of 1000 is right answers.

    Source: Liu et al. 2023, arXiv:2305.07895; the authors' repository.
    """
    file = find_file(folder, ("OCRBench.json", "FullTest.json"))
    for index, item in enumerate(entries(read_json(file), str(file))):
        where = f"{file}, entry {index}"
        answers = field(item, "answers", where)
        metric = "contains_formula" if item.get("dataset_name") == "HME100k" else "contains"
        path = find_media(folder, str(field(item, "image_path", where)), ("OCRBench_Images", "", "images"))
        group = str(item.get("type") or item.get("question_type") or "")
        question = str(field(item, "question", where)).strip()
        expected = words(answers if isinstance(answers, list) else [answers], metric, where)
        yield Item(str(index), question, expected, ImageMedia(path), group)


def read_ai2d(folder: Path) -> Iterator[Item]:
    """AI2D, test: `questions/*.json`, `images/`, `annotations/` and `ai2d_test_ids.csv`.

    Where a question speaks of letters, the texts of the diagram are replaced by the letters that the annotations give,
    as its authors did. Source: Kembhavi et al. 2016, arXiv:1603.07396.
    """
    ids = _test_ids(find_file(folder, ("ai2d_test_ids.csv",)))
    first = find_file(folder, ("questions/*.json",)) if not (folder / "questions").is_dir() else None
    root = folder if first is None else first.parents[1]
    files = sorted((root / "questions").glob("*.json"), key=lambda file: _number(file.name))
    for file in files:
        if file.name.split(".")[0] not in ids:
            continue
        content = read_json(file)
        image = str(field(content, "imageName", str(file)))
        for question, item in members(field(content, "questions", str(file)), str(file)):
            where = f"{file}, {question!r}"
            options = [str(option) for option in field(item, "answerTexts", where)]
            marks = _marks(root / "annotations" / f"{image}.json") if item.get("abcLabel") else ()
            yield Item(
                str(field(item, "questionId", where)),
                f"{question}\n{lettered(options)}{LETTER}",
                choice(options, int(field(item, "correctAnswer", where)), where),
                ImageMedia(root / "images" / image, marks),
            )


def _test_ids(file: Path) -> set[str]:
    with file.open(encoding="utf-8", newline="") as stream:
        return {row[0].strip() for row in csv.reader(stream) if row}


def _marks(file: Path) -> tuple[Mark, ...]:
    marks = []
    for name, item in members(field(read_json(file), "text", str(file)), str(file)):
        (x1, y1), (x2, y2) = field(item, "rectangle", f"{file}, {name}")
        marks.append(Mark((int(x1), int(y1), int(x2), int(y2)), str(item.get("replacementText") or "")))
    return tuple(marks)


def read_realworldqa(folder: Path) -> Iterator[Item]:
    """RealWorldQA: `annotations.jsonl` and the images it names; questions carry their own instruction.

    Source: xAI 2024, the archive released with Grok-1.5 Vision.
    """
    file = find_file(folder, ("annotations.jsonl",))
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            item = json.loads(line)
        except ValueError as err:
            raise EvaluationError(f"{where} is no JSON: {err}") from err
        question = str(field(item, "question", where)).strip()
        path = find_media(file.parent, str(field(item, "image", where)), ("", "images"))
        expected, group = _realworldqa_answer(question, str(field(item, "answer", where)).strip(), where)
        yield Item(str(number), question, expected, ImageMedia(path), group)


def _realworldqa_answer(question: str, answer: str, where: str) -> tuple[Expected, str]:
    options = re.findall(r"^([A-Z])\. (.*)$", question, re.MULTILINE)
    if len(answer) == 1 and answer.isalpha() and len(options) >= 2:
        return choice([text for _, text in options], ord(answer.upper()) - ord("A"), where), "choice"
    return words([answer], "normalised", where), "open"


def _number(name: str) -> tuple[int, str]:
    digits = re.match(r"\d+", name)
    return (int(digits[0]) if digits else 0, name)
