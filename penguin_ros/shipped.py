"""What ships with a clone: a model, and bags to show it on. Where they lie is said here and nowhere else."""

from __future__ import annotations

from pathlib import Path

from penguin_models.errors import MediaError

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "penguin-tiny"
"""The checkpoint that ships: trained on the simulated table-top, and on nothing else."""
BAG = ROOT / "launch" / "bags" / "tabletop"
"""The bag that the demo can replay."""
EXAMPLE = ROOT / "launch" / "bags" / "evaluation"
"""Bags, and `questions.jsonl` about them."""


def require_shipped(model: Path, bags: Path) -> None:
    """Asks for files that only a clone has.

    Args:
        model: a checkpoint, which may be another than the one that ships.
        bags: a folder.

    Raises:
        MediaError: they are not there.
    """
    if not bags.is_dir():
        raise MediaError(f"the files that ship are not below {ROOT}; run this from a clone of the repository")
    if not model.is_dir():
        raise MediaError(f"the checkpoint {model} does not exist; give another with --model")
