"""All phrasings of questions and answers, by task. They are training data: changing one changes every data set.

A phrasing that begins with a lower-case letter is capitalised when it is used.
"""

from __future__ import annotations

from penguin_tabletop.clips.events import EventKind

BRIEFLY = ("Answer with one word.", "Answer briefly.", "In one word.", "Short answer.")
"""Appended to a question that wants a single word."""

# fmt: off
QUESTIONS: dict[str, tuple[str, ...]] = {
    # Captions of pictures.
    "caption_short": (
        "Describe the image in one sentence.", "What do you see?", "Give a short caption.", "What is on the table?",
        "What is in the picture?", "Name the objects.", "Write a short caption for this picture.",
        "Say briefly what the image shows.",
    ),
    "caption_medium": (
        "Describe the image.", "Describe the picture in a few sentences.", "What does the image show?",
        "Tell me about this picture.", "Describe what is on the table.", "Describe the scene.",
    ),
    "caption_detailed": (
        "Describe the image in detail.", "Describe everything that you see.",
        "Give a detailed description of the picture.",
        "Describe the scene in detail, with all objects and where they are.", "Write a long caption.",
    ),
    "caption_grounded": (
        "Describe the image with boxes.", "Describe the picture and give the box of each object.",
        "Give a grounded caption.", "What is on the table, and where? Use boxes.", "Caption the image with boxes.",
    ),
    "find_everything": (
        "List all objects with their boxes.", "Find all objects.", "Detect every object.",
        "Where are the objects? List them with boxes.", "Give the box of every object.",
    ),
    # Boxes for words, and words for boxes.
    "find": (
        "Where is {what}?", "Find {what}.", "Point to {what}.", "Give the box of {what}.", "Locate {what}.",
        "Show me {what}.", "In which box is {what}?",
    ),
    "find_all": ("find all {what}.", "where are the {what}?", "give the boxes of all {what}."),
    "name_in_box": (
        "what is in the box {box}?", "what is at {box}?", "name the object in {box}.", "which object is in {box}?",
        "{box}: what is this?",
    ),
    "list_boxes": (
        "List the boxes and say what is in each.", "Give all boxes with their contents.",
        "Name the object in every box.",
    ),
    "describe_box": (
        "describe the object in the box {box}.", "tell me about the object at {box}.", "describe what is in {box}.",
    ),
    # Short questions about a picture.
    "count": (
        "how many {what} are there?", "how many {what} do you see?", "count the {what}.",
        "what is the number of {what}?", "how many {what} are on the table?",
    ),
    "colour": (
        "what colour is the {kind}?", "which colour does the {kind} have?", "tell me the colour of the {kind}.",
    ),
    "list_colours": (
        "Which colours do the objects have?", "List the objects with their colours.", "What colour is each object?",
    ),
    "kind": (
        "what is the {colour} object?", "which object is {colour}?", "what kind of object is {colour}?",
    ),
    "relation": (
        "where is the {a} relative to the {b}?",
        "how does the {a} lie to the {b}: left of, right of, in front of, behind or on?",
        "is the {a} left of, right of, in front of, behind or on the {b}?", "where is the {a}, seen from the {b}?",
    ),
    "relation_yes_no": ("is the {a} {r} the {b}?", "does the {a} lie {r} the {b}?"),
    "existence": (
        "is there {an}?", "do you see {an}?", "is {an} on the table?", "can you see {an} in the picture?",
    ),
    "what_is_on": ("what is on the {b}?", "which object stands on the {b}?", "what does the {b} carry?"),
    "size": ("which {kind} is larger, the {a} one or the {b} one?", "is the {a} or the {b} {kind} larger?"),
    "side": (
        "is the {label} on the left, in the middle or on the right?",
        "on which side is the {label}: left, middle or right?",
        "where in the picture is the {label}: on the left, in the middle or on the right?",
    ),
    "table": ("What kind of table is it?", "What is the table like?", "Describe the table in one word."),
    "reading": (
        "what does the {name} say?", "read the {name}.", "which word is on the {name}?",
        "what is printed on the {name}?", "read the word on the {name}.",
    ),
    # Clips.
    "clip_dense": (
        "Describe what happens, with times.", "When does what happen?", "List the events with their times.",
        "Describe the video event by event, with times.", "Give a dense caption with times.",
    ),
    "clip_paragraph": (
        "Describe the video.", "Describe the video in a paragraph.", "Tell me what happens in this video.",
        "What happens in the clip? Tell it in order.", "Describe the clip from beginning to end.",
    ),
    "clip_whole": (
        "Describe the video in one sentence.", "What happens?", "What happens in the video?",
        "Give a short caption for the video.", "Say briefly what happens.",
    ),
    "when": ("When {clause}?", "At what time {clause}?", "From when to when {clause}?"),
    "what_during": (
        "What happens during the period {period}?", "During the period {period}, what happens?",
        "What can be seen during the period {period}?",
    ),
    "what_first": ("what happens {word}?", "what is the {word} thing that happens?"),
    "count_at_end": ("How many objects are there at the end?", "How many objects are on the table at the end?"),
    "where_at_end": ("where is the {label} at the end?", "in which box is the {label} at the end?"),
    "what_changed": (
        "What has changed?", "What is different at the end?", "What is different?",
        "Compare the beginning and the end.", "What has changed between the beginning and the end?",
    ),
    # Recordings: what is no longer in view.
    "was_there": (
        "Was there {an} on the table before?", "Has there been {an} on the table?", "Did you see {an} earlier?",
    ),
    "which_first": (
        "which came first, the {a} or the {b}?", "what appeared first, the {a} or the {b}?",
        "did the {a} or the {b} come first?",
    ),
    "how_often": ("how often was the {label} moved?", "how many times was the {label} moved?"),
    "what_left": ("what left {word}?", "which object left {word}?", "what was taken away {word}?"),
    "colour_left": ("what colour was the {kind} that left?", "which colour did the {kind} have that left?"),
    "last_seen": (
        "where was the {label} last seen: on the left, in the middle or on the right?",
        "on which side was the {label} before it left: left, middle or right?",
    ),
    # Texts without pictures.
    "text_fact": ("what is {an}?", "tell me about {an}.", "what does {an} look like?"),
    "text_join": ("which word is {letters}?", "read these letters: {letters}"),
    "text_summary": ("Say it in one sentence.", "Make it shorter.", "In short?"),
    "repeat": ("Repeat: {text}", "Say this again: {text}", "Copy this: {text}"),
}

ANSWERS: dict[str, tuple[str, ...]] = {
    "caption_short": (
        "there {are} {things} on a {table} table.", "{things} on a {table} table.",
        "the picture shows {things} on a {table} table.", "I see {things} on a {table} table.",
    ),
    "caption_grounded": (
        "there {are} {things} on a {table} table.", "{things} on a {table} table.",
        "I see {things} on a {table} table.",
    ),
    "place": ("the {label} is {where}.", "{where} is the {label}."),
    "word_of": ('the {label} says "{word}".', 'on the {label} is the word "{word}".'),
    "reading": ('"{word}"', 'the {name} says "{word}".', 'it says "{word}".'),
    "name_in_box": ("{an}.", "this is {an}.", "it is {an}."),
    "what_is_on": ("{an}.", "{an} is on the {b}."),
    "clip_beginning": (
        "at the beginning there {are} {things} on a {table} table.", "{things} {are} on a {table} table.",
    ),
    "clip_end": ("in the end, {n} {objects} {are} there.", "in the end there {are} {n} {objects}."),
    "nothing_happens": ("Nothing happens.", "Nothing moves.", "Everything stays as it is."),
    "nothing_changed": ("Nothing has changed.", "Nothing is different.", "Everything is as before."),
}

CONDITIONS: dict[str, tuple[str, ...]] = {
    "there": (
        "{an} is on the table", "there is {an}", "there is {an} on the table", "{an} can be seen", "I see {an}",
        "{an} is there", "{an} is in view",
    ),
    "not_there": (
        "there is no {name}", "there is no {name} on the table", "no {name} can be seen", "no {name} is on the table",
        "the {name} is gone", "the {name} is missing",
    ),
    "colour": ("the {kind} is {colour}", "the {kind} on the table is {colour}"),
    "count": (
        "there {are} {n} {what}", "there {are} {n} {what} on the table", "{n} {what} {are} on the table",
        "I see {n} {what}", "{n} {what} can be seen",
    ),
    "side": ("the {label} is {where}", "the {label} is {where} of the picture"),
    "something": (
        "something is on the table", "there is something on the table", "there is an object on the table",
        "the table is not empty",
    ),
    "nothing": (
        "nothing is on the table", "there is nothing on the table", "the table is empty", "no object is on the table",
    ),
}
"""Statements that a model judges."""

VERBS: dict[EventKind, tuple[str, ...]] = {
    "appears": ("appears", "comes into view", "is put on the table"),
    "moved": ("is moved", "changes its place"),
    "falls": ("falls",),
    "leaves": ("leaves", "goes out of view", "is taken away"),
    "camera": ("moves", "turns"),
}
VERBS_DONE: dict[EventKind, tuple[str, ...]] = {
    "appears": ("has appeared", "is new"),
    "moved": ("has been moved", "is in another place"),
    "falls": ("has fallen", "fell"),
    "leaves": ("is gone", "has been taken away"),
    "camera": ("has moved", "has turned"),
}
"""Verbs of events, during a clip and after it. No two kinds share a verb, so that answers can be parsed."""
VERBS_WITHOUT_PLACE = (
    "comes into view", "is put on the table", "changes its place", "is in another place", "is new",
)

EVENT_QUESTIONS: dict[EventKind, tuple[str, str, str]] = {
    # Clauses for: when does it happen, does it happen at all, how many times.
    "appears": ("does the {label} appear", "does something appear", "appear"),
    "moved": ("is the {label} moved", "is something moved", "are moved"),
    "falls": ("does the {label} fall", "does something fall", "fall"),
    "leaves": ("does the {label} leave", "does something leave", "leave"),
    "camera": ("does the camera move", "does the camera move", ""),
}

FACTS = {
    "cube": "A cube has six equal sides.",
    "ball": "A ball is round and can roll.",
    "cylinder": "A cylinder is round and has a flat top.",
    "cone": "A cone is round at the bottom and has a point.",
    "ring": "A ring is round and has a hole in the middle.",
    "bottle": "A bottle is tall and has a small top.",
    "bowl": "A bowl is round and open at the top.",
    "mug": "A mug is a cup with a handle.",
    "duck": "A duck is a toy bird with an orange beak.",
    "teddy": "A teddy is a toy bear.",
    "rabbit": "A rabbit is a toy animal with long ears.",
    "brick": "A brick is a toy block with small round studs.",
    "tray": "A tray is flat and can carry other objects.",
    "odd shape": "An odd shape looks like no other object.",
    "card": "A card is thin and has a word on it.",
    "box": "A box is tall and has a word on it.",
    "robot arm": "A robot arm is orange and grey and can move things.",
}
