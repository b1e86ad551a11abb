"""Runs `work.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def run(*arguments: object, under: Sequence[str | Path] = ()) -> Any:
    """What a task found; ``under`` is a program that it runs under."""
    done = subprocess.run(
        [*under, sys.executable, HERE / "work.py", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
