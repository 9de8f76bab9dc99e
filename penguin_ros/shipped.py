"""Paths of the files that ship with the package: a model, and bags to show it on."""

from __future__ import annotations

from pathlib import Path

from penguin_models.errors import MediaError


def _find_root() -> Path:
    """Returns the clone of the repository, or share/penguin_vl of the workspace that this file is installed in."""
    here = Path(__file__).resolve()
    clone = here.parents[1]
    shares = (parent / "share" / "penguin_vl" for parent in here.parents)
    return next((folder for folder in (clone, *shares) if (folder / "launch" / "bags").is_dir()), clone)


ROOT = _find_root()
MODEL = ROOT / "models" / "penguin-tiny"
"""Checkpoint trained on nothing but the simulated table-top."""
BAG = ROOT / "launch" / "bags" / "tabletop"
"""Recording of the simulated table-top, which the demo plays."""
CAMERA, TRUTH = "/camera/image_raw/compressed", "/ground_truth"
"""Topics of BAG: images, and the boxes of the objects in them."""
DEPTH_BAG = ROOT / "launch" / "bags" / "tabletop-depth"
"""What a depth camera sees of BAG, and the true positions of the objects."""
EXAMPLE = ROOT / "launch" / "bags" / "evaluation"
"""Bags, and `questions.jsonl` about them."""
DEMO_PARAMETERS = ROOT / "launch" / "config" / "demo.yaml"
"""Parameters of the node that suit MODEL."""


def require_shipped(model: Path, bags: Path) -> None:
    """Raises MediaError if the checkpoint (MODEL or another one) or the shipped bags do not exist."""
    if not bags.is_dir():
        raise MediaError(
            f"{bags} does not exist: pip does not install the files that ship; use a clone or a colcon workspace"
        )
    if not model.is_dir():
        raise MediaError(f"checkpoint {model} does not exist; give another one with --model")
