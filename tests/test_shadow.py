"""In the root of a checkout, `python -m hlm` finds the installed kernels behind the folder of sources."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / "hlm_ext" / "forest.pyx").exists(), reason="not in a checkout")
def test_command_line_from_the_root_of_a_checkout() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hlm", "Reaction ~ Days + (Days | Subject)", "sleepstudy"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1743.6283" in done.stdout
