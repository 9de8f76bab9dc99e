"""A simulated robot table-top, rendered without a GPU: pictures, clips and conversations with exact ground truth.

The main path: a seed (seeds.py) -> a planned scene (scene/) or clip (clips/) -> pixels and masks (render/) -> what is
visible (truth.py) -> questions and answers (conversations/) -> samples (dataset.py) -> files (files.py).
"""
