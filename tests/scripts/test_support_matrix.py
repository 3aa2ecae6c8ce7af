"""The page docs/support.md is what its script prints."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_script_prints():
    command = [sys.executable, "-X", "utf8", str(ROOT / "scripts" / "support_matrix.py")]
    printed = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    assert (ROOT / "docs" / "support.md").read_text(encoding="utf-8") == printed
