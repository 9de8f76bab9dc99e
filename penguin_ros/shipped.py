"""What ships with a clone: a model, and bags to show it on. Where the model lies is said here and nowhere else."""

from __future__ import annotations

from pathlib import Path

from penguin_models.errors import MediaError

_ROOT = Path(__file__).resolve().parents[1]
MODEL = _ROOT / "tests" / "data" / "reference" / "checkpoint"
DEMO_BAG = _ROOT / "launch" / "bags" / "tabletop"
EXAMPLE = _ROOT / "launch" / "bags" / "evaluation"
"""Bags, and `questions.jsonl` about them."""
UNTRAINED = (
    "The weights of this model are UNTRAINED (a 0.7 M-parameter random checkpoint that pins the arithmetic):\n"
    "what it says is noise by design.\n"
)


def is_trained() -> bool:
    """Whether answers of the model mean something: what lies among the tests was never trained."""
    return not MODEL.is_relative_to(_ROOT / "tests")


def require_clone() -> None:
    """Asks for the files that only a clone has.

    Raises:
        MediaError: they are not there.
    """
    if not all(path.is_dir() for path in (MODEL, DEMO_BAG, EXAMPLE)):
        raise MediaError(f"the files that ship are not below {_ROOT}; run this from a clone of the repository")
