"""Pages looked at by an installed Chromium; tests that need one are skipped without it."""

import shutil
import subprocess

import pytest

from penguin_ros.evaluation.report.screenshot import BROWSERS

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="there is no browser")


def dump(address, profile):
    """What the scripts of a page make of it, as HTML; the profile is a folder of the browser's own."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
