"""A robot's table-top that can be rendered without a GPU: scenes, clips and conversations with exact ground truth.

The main path: a seed (seeds.py) -> a planned scene or clip (planning.py, director.py) -> pixels and masks (picture.py,
on PyBullet's software renderer) -> what is visible (truth.py) -> conversations (tasks) -> files (writer.py).
"""
