"""How right an answer in words is: text, numbers, choices, and "it is not there".

Each function takes what the model said and what is accepted, and knows nothing of bags or questions.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

ANLS_THRESHOLD = 0.5
RELAXED_TOLERANCE = 0.05
_NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBER = re.compile(rf"(?<![\w.])-?\d+(?:,\d{{3}})*(?:\.\d+)?|\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)
_NOTHING = re.compile(r"\b(?:no|none|nothing)\b", re.IGNORECASE)
_DENIAL = re.compile(
    r"^no\b|\bnone\b|\bnothing\b|\bnowhere\b|\bthere (?:is|are|was|were) (?:no|not)\b"
    r"|\bthere (?:isn|aren|wasn|weren)'t\b"
    r"|\bnot (?:there|present|visible|found|in (?:the|this) (?:scene|picture|image|view))\b"
    r"|\b(?:can(?:not| not|'t)|(?:could|do|did)(?: not|n't)) (?:see|find)\b"
    r"|\b(?:isn|aren|wasn|weren)'t (?:there|present|visible|any)\b|\bno such\b|\bnever\b",
    re.IGNORECASE,
)


def exact(answer: str, accepted: Sequence[str]) -> float:
    """1 if the answer is one of those accepted, character by character but for white space around it."""
    return float(answer.strip() in {text.strip() for text in accepted})


def normalised(answer: str, accepted: Sequence[str]) -> float:
    """1 if the answer is one of those accepted after `normalise`."""
    return float(normalise(answer) in {normalise(text) for text in accepted})


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces; number words as digits.

    As SQuAD v1.1 compares answers (Rajpurkar et al. 2016, arXiv:1606.05250), with the number words of VQA (Antol et
    al. 2015, arXiv:1505.00468).
    """
    text = re.sub(r"[^\w\s.\-/]", "", text.lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)  # a decimal point stays
    text = re.sub(r"(?<=\w)[-/]|[-/](?!\d)", " ", text)  # a minus sign stays
    return " ".join(_DIGITS.get(word, word) for word in text.split() if word not in _ARTICLES)


def contains(answer: str, accepted: Sequence[str]) -> float:
    """1 if one of those accepted is part of the answer, whatever the case.

    The rule of OCRBench (Liu et al. 2023, arXiv:2305.07895).
    """
    said = _one_line(answer)
    return float(any(_one_line(text) in said for text in accepted))


def contains_formula(answer: str, accepted: Sequence[str]) -> float:
    """As `contains`, but case counts and white space does not: OCRBench's rule for handwritten formulas."""
    said = "".join(answer.split())
    return float(any("".join(text.split()) in said for text in accepted))


def anls(answer: str, accepted: Sequence[str]) -> float:
    """Normalised Levenshtein similarity to the nearest accepted text, 0 below one half.

    s = 1 - NL if NL < 0.5, else 0, with NL the edit distance over the longer length, both in lower case with single
    spaces (Biten et al. 2019, arXiv:1905.13648; used by DocVQA and InfographicVQA). Averaged over questions it is
    ANLS.
    """
    said = _one_line(answer)
    best = max(Levenshtein.normalized_similarity(said, _one_line(text)) for text in accepted)
    return best if best > ANLS_THRESHOLD else 0.0


def relaxed(answer: str, accepted: Sequence[str]) -> float:
    """1 if the answer is a number within 5 % of an accepted one, or the same text whatever the case.

    ChartQA's relaxed accuracy (Masry et al. 2022, arXiv:2203.10244, section 5.1). Percentages are read as fractions.
    A target of 0 has no 5 %: it is compared as text, as ChartQA's script does.
    """
    return float(any(_relaxed(answer.strip(), text.strip()) for text in accepted))


def _relaxed(said: str, target: str) -> bool:
    value, wanted = _to_float(said), _to_float(target)
    if value is not None and wanted:
        return abs(value - wanted) <= RELAXED_TOLERANCE * abs(wanted)
    return said.lower() == target.lower()


def _to_float(text: str) -> float | None:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def find_number(answer: str) -> float | None:
    """The first number in an answer, as digits or a word up to twenty.

    Without one, "no", "none" and "nothing" are 0; else None.
    """
    if match := _NUMBER.search(answer):
        word = match[0].lower().replace(",", "")
        return float(_DIGITS.get(word, word))
    return 0.0 if _NOTHING.search(answer) else None


def find_choice(answer: str, options: Sequence[str]) -> str | None:
    """The letter that an answer chooses, "A" for the first option; None where that is not clear.

    Tried in turn: a letter that begins the answer; a letter after "answer is"; the only letter in brackets; the only
    option whose text is the answer, or is in it; the only capital letter that stands alone. A harness that guesses
    where nothing was found would score chance; here it is wrong.
    """
    letters = string.ascii_uppercase[: len(options)]
    text = answer.strip()
    if match := re.match(rf"([{letters}])(?:[).:,]|\s*$)", text):
        return match[1]
    if match := re.search(
        rf"\b(?:answer|option|choice)(?:\s+is|:)?\s*\(?([{letters}])\b(?!\s+[a-z])", text, re.IGNORECASE
    ):
        return match[1].upper()
    if found := set(re.findall(rf"\(([{letters}])\)", text)):
        return found.pop() if len(found) == 1 else None
    return _option_said(text, options, letters) or _single_letter(text, letters)


def _option_said(text: str, options: Sequence[str], letters: str) -> str | None:
    said = normalise(text)
    wanted = [normalise(option) for option in options]
    same = [letter for letter, option in zip(letters, wanted, strict=True) if option == said]
    inside = [letter for letter, option in zip(letters, wanted, strict=True) if option and f" {option} " in f" {said} "]
    for found in (same, inside):
        if len(found) == 1:
            return found[0]
    return None


def _single_letter(text: str, letters: str) -> str | None:
    found = set(re.findall(rf"\b([{letters}])\b(?!\s+[a-z])", text))  # "A cube" is an article
    return found.pop() if len(found) == 1 else None


def denies(answer: str) -> bool:
    """Whether an answer says that what was asked for is not there."""
    return _DENIAL.search(answer.strip().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")) is not None


def _one_line(text: str) -> str:
    return " ".join(text.lower().split())


TEXT_METRICS = {
    "exact": exact,
    "normalised": normalised,
    "contains": contains,
    "contains_formula": contains_formula,
    "anls": anls,
    "relaxed": relaxed,
}
"""What a question may name as the metric of an expected text."""
