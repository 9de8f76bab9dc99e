"""Recaptioning: pictures and clips -> detailed captions, region captions and boxes, as annotations for training.

`run.py` reads annotation files and writes new ones; `picture.py` and `clip.py` say what is asked about one sample,
`prompts.py` in which words, `captioner.py` whom, `consistency.py` which answers are not kept, and
`counting.py` which numbers they state.
"""
