"""Paths of the model and the bags that ship with the repository."""

from __future__ import annotations

from pathlib import Path

from penguin_models.errors import MediaError


def _find_root() -> Path:
    clone = Path(__file__).resolve().parents[1]
    if (clone / "package.xml").is_file():
        return clone
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory("penguin_vl"))
    except (ImportError, LookupError):  # installed with pip: nothing ships
        return clone


ROOT = _find_root()
"""The clone, or share/penguin_vl of an installed workspace."""
MODEL = ROOT / "models" / "penguin-tiny"
"""Checkpoint trained on the simulated table-top only."""
BAG = ROOT / "launch" / "bags" / "tabletop"
"""Bag that the demo can replay."""
EXAMPLE = ROOT / "launch" / "bags" / "evaluation"
"""Bags and `questions.jsonl` of `penguin-vl evaluate example`."""


def require_shipped(model: Path, bags: Path) -> None:
    """Raises MediaError if the folder of bags or the checkpoint (the shipped one or another) does not exist."""
    if not bags.is_dir():
        raise MediaError(f"the shipped bags are not in {ROOT}; run this from a clone or an installed workspace")
    if not model.is_dir():
        raise MediaError(f"the checkpoint {model} does not exist; give another one with --model")
