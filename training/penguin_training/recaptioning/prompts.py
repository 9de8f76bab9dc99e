"""What a captioner is asked. The paper (arXiv 2603.06569) fuses ten aspects; it does not list them, these are ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penguin_models.grounding import Box, TimeRange

ASPECTS: Mapping[str, str] = {
    "scene": "What kind of place or scene does the picture show? Answer in one or two sentences.",
    "objects": "Name all objects in the picture.",
    "counts": "How many are there of each kind of object?",
    "attributes": "Which colour, material, shape and size does each object have?",
    "positions": "Where is each object, and how do the objects lie to each other?",
    "people": "Describe people and animals: appearance, posture, and what they do. If there are none, say so.",
    "actions": "What happens in the picture, or what has just happened?",
    "text": "Which text, numbers, signs or logos can be read? Quote them. If there are none, say so.",
    "background": "Describe the background, the light and the weather.",
    "style": "What kind of picture is it (photograph, drawing, chart, screenshot), and from which viewpoint?",
}
DETECTION = "List all objects with their boxes."
CAPTION_REQUEST = "Describe the picture in detail."
CLIP_REQUESTS = {
    "dense": "Describe what happens, with times.",
    "paragraphs": "Describe the video in paragraphs.",
    "whole": "Summarise the video.",
}
REGION = "What is this object? Describe it in a few words."


def fusion(answers: Mapping[str, str]) -> str:
    """Returns the request to fuse the answers about aspects into one caption."""
    notes = "\n".join(f"- {aspect}: {' '.join(answer.split())}" for aspect, answer in answers.items())
    return (
        f"Notes about the picture, by aspect:\n{notes}\n"
        "Write one detailed caption of the picture from these notes. Leave out what the picture does not show, what "
        "the notes contradict, and remarks that something is absent. Answer with the caption alone."
    )


def segment(span: TimeRange) -> str:
    """Returns the request to describe frames of a part of a video."""
    return (
        f"These frames are from a video, {span.start_s:.1f} to {span.end_s:.1f} seconds. Describe what they show and "
        "what happens."
    )


def paragraph(parts: Sequence[tuple[TimeRange, str]]) -> str:
    """Returns the request to fuse descriptions of consecutive parts into one paragraph."""
    return f"{_listed(parts)}\nWrite one paragraph about this part of the video. Answer with the paragraph alone."


def summary(parts: Sequence[tuple[TimeRange, str]]) -> str:
    """Returns the request to summarise a whole video from its paragraphs."""
    return f"{_listed(parts)}\nSummarise the whole video in two or three sentences. Answer with the summary alone."


def describe_region(box: Box) -> str:
    """Returns the question whose answer is the caption of a region."""
    return f"Describe the object in the box ({box.x1},{box.y1},{box.x2},{box.y2})."


def refer_to(phrase: str) -> str:
    """Returns the question whose answer is a box."""
    return f"Where is {phrase}?"


def _listed(parts: Sequence[tuple[TimeRange, str]]) -> str:
    notes = "\n".join(f"- {span.start_s:.1f} to {span.end_s:.1f} seconds: {text}" for span, text in parts)
    return f"Descriptions of consecutive parts of a video:\n{notes}"
