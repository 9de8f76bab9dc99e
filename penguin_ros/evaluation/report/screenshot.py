"""A picture of the main parts of a report: what can be shown where a page cannot, as in a README.

Taken by a Chromium that is installed, without a window; knows nothing of what the page says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image, ImageChops

from penguin_models.errors import EvaluationError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WIDTH_PX, _MOST_PX, _MARGIN_PX, _LIMIT_S = 1100, 4000, 12, 120
_PARTS = """<style>
nav, footer, .filters, #costs, #memory > p, #memory figure.wide ~ figure.wide { display: none !important; }
#summary > :not(h2, ul, div:first-of-type), article:not(.shown) { display: none !important; }
</style>
<script>
const cards = [...document.querySelectorAll("article")];
const both = cards.filter((card) => card.querySelector("g.expected") && card.querySelector("g.given"));
(both.find((card) => card.querySelector(".answer").matches(".right")) ?? both[0] ?? cards[0])?.classList.add("shown");
</script>"""
"""Leaves the head of a page, its scores, one memory, and one question: if possible a right answer with boxes."""


def take_picture(page: Path, picture: Path) -> None:
    """Writes a picture of the main parts of a page.

    Args:
        page: a report.
        picture: PNG to write.

    Raises:
        EvaluationError: there is no browser, it cannot show the page, or the picture cannot be written.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise EvaluationError(f"a picture needs a browser, and there is none of {', '.join(BROWSERS)} on the path")
    with TemporaryDirectory() as folder:
        copy, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{_PARTS}</body>"), encoding="utf-8")
        command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", f"--screenshot={shot}"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={_WIDTH_PX},{_MOST_PX}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []  # root has no other way
        try:
            subprocess.run([*command, copy.as_uri()], capture_output=True, timeout=_LIMIT_S, check=True)
            _without_border(Image.open(shot).convert("RGB")).save(picture, "png", optimize=True)
        except (OSError, subprocess.SubprocessError) as err:
            raise EvaluationError(f"{browser} could not make {picture} of {page}: {err}") from err


def _without_border(image: Image.Image) -> Image.Image:
    """The picture down to the last line that is not white, with its full width."""
    white = Image.new("RGB", image.size, "white")
    box = ImageChops.difference(image, white).getbbox()
    return image if box is None else image.crop((0, 0, image.width, min(image.height, box[3] + _MARGIN_PX)))
