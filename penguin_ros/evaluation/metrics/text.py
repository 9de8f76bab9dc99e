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
_UP_TO_20 = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_DIGITS = {word: str(number) for number, word in enumerate(_UP_TO_20)}
_WORDS = {word: number for number, word in enumerate(_UP_TO_20)} | {
    word: 10 * number for number, word in enumerate(_TENS, start=2)
}
_ARTICLES = frozenset(("a", "an", "the"))
_FIGURES = r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[-\s](?:{'|'.join(_UP_TO_20[1:10])}))?|{'|'.join(_UP_TO_20[:20])})"
_IN_WORDS = rf"(?:(?:{_BELOW_100}|an?)\s)?hundred(?:\s(?:and\s)?{_BELOW_100})?|{_BELOW_100}"
_NUMBER = re.compile(rf"(?P<figures>{_FIGURES})|\b(?:{_IN_WORDS})\b", re.IGNORECASE)
_LETTER_ENDS = r"(?![-'])(?!(?<=[AaIi])\s+(?!(?:because|since|is|or|and|nor)\b)(?:[a-z]|[A-Z][\w-]))"
"""After the letter of an option: it is no part of a word, no article, and not "I" before a verb."""
_NOTHING = re.compile(r"\b(?:no|none|nothing)\b", re.IGNORECASE)
_PLACE = r"(?:on|in|at|under|behind|near|inside|among|next to|left of|right of)"
_IS_NOT = r"(?:(?:is|are|was|were) not|(?:isn|aren|wasn|weren)'t)"
_DENIAL = re.compile(
    r"^no\b|\bnone\b|\bnothing\b(?! (?:but|else|other)\b)|\bnowhere\b|\bnever\b|\bno (?:such|longer)\b"
    r"|\bthere(?: (?:is|are|was|were)|'s) (?:no|not|neither)\b|\bthere (?:isn|aren|wasn|weren)'t\b"
    r"|\bnot (?:there|here|present|visible|found|in (?:the|this) (?:scene|picture|image|view))\b"
    r"|\b(?:can(?:not| not|'t)|(?:could|do|did)(?: not|n't)) (?:see|find)\b(?! (?:its|their)\b)"
    r"|\b(?:see|find|found) no\b"
    rf"|\b{_IS_NOT} (?:there|here|present|visible|any|anywhere)\b"
    rf"|\b{_IS_NOT} {_PLACE}\b(?!.*\b(?:but|instead|rather|it is|it's|they are|they're)\b)"
    r"|\b(?:is|are|was|were) (?:missing(?! (?:an?|its|the|their)\b)|absent|gone)\b",
    re.IGNORECASE | re.DOTALL,
)
_NO_MORE_THAN = r"(?!(?:no|not|none|nothing|never|neither|only|just|that)\b)"
_AFFIRMATION = re.compile(
    rf"^yes\b|\bthere(?: (?:is|are|was|were)|'s) {_NO_MORE_THAN}|\bi (?:can )?(?:see|find|found) {_NO_MORE_THAN}"
    rf"|\b(?:is|are|was|were) (?:{_PLACE}|there|here|visible|present)\b",
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
    """The first number in an answer, in figures ("-1,200.5", "1.5e3") or in words up to 999 ("twenty-one").

    Without one, "no", "none" and "nothing" are 0; else None.
    """
    match = _NUMBER.search(answer)
    if match is None:
        return 0.0 if _NOTHING.search(answer) else None
    if match["figures"]:
        return float(match[0].replace(",", ""))
    hundreds, hundred, rest = match[0].lower().rpartition("hundred")
    return float(100 * (_in_words(hundreds) or 1) * bool(hundred) + _in_words(rest))


def _in_words(words: str) -> int:
    return sum(_WORDS.get(word, 0) for word in re.split(r"[-\s]", words))


def find_choice(answer: str, options: Sequence[str]) -> str | None:
    """The letter that an answer chooses, "A" for the first option; None where that is not clear, as in "B or C".

    Tried in turn: a letter that is the whole answer, or begins it as "B." or "(b)" do; a letter after "answer is"; the
    only letter in brackets; the only option whose text is the answer, or is in it; the only capital letter that stands
    alone ("A" and "I" before another word are not letters). A letter that begins a list is not chosen. A harness that
    guesses where nothing was found would score chance; here it is wrong.
    """
    letters = string.ascii_uppercase[: len(options)]
    text = answer.strip()
    one = rf"[{letters}]"
    alone = rf"(?!\)?\s*(?:,|/|\b(?:or|and|nor)\b)\s*(?:or\s|and\s)?\(?{one}\b{_LETTER_ENDS})"
    for pattern, flags in (
        (rf"\W*({one})\W*$", re.IGNORECASE),
        (rf"\(?({one}){alone}(?:[):]|\.(?!\w))", re.IGNORECASE),
        (rf"({one}){alone},", 0),
    ):
        if match := re.match(pattern, text, flags):
            return match[1].upper()
    said = re.search(
        rf"\b(?:answer|option|choice)(?:\s+is|:)?\s*\(?({one})\b{_LETTER_ENDS}{alone}", text, re.IGNORECASE
    )
    if said:
        return said[1].upper()
    if found := set(re.findall(rf"(?<!\w)\(({one})\)", text.upper())):
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
    found = set(re.findall(rf"\b([{letters}])\b{_LETTER_ENDS}", text))
    return found.pop() if len(found) == 1 else None


def denies(answer: str) -> bool:
    """Whether an answer says that what was asked for is not there.

    What it says first counts: who says that something is there ("Yes", "I see a mug") does not deny, whatever is
    missing besides.
    """
    text = answer.strip().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    denial, affirmation = _DENIAL.search(text), _AFFIRMATION.search(text)
    return denial is not None and (affirmation is None or denial.start() <= affirmation.start())


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
