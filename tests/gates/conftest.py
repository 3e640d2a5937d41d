"""A copy of the product to plant violations in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, its tools and its settings, free to be spoilt."""
    target = tmp_path / "copy"
    shutil.copytree(ROOT / "src", target / "src", ignore=shutil.ignore_patterns("__pycache__", "dist", "node_modules"))
    shutil.copytree(ROOT / "tools", target / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


@pytest.fixture
def run(copy: Path) -> Run:
    """Run a program of the environment in the copy, which is also what `import detent` finds."""

    def runner(*command: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).parent / command[0]
        environment = {**os.environ, "PYTHONPATH": str(copy / "src"), "NO_COLOR": "1", "COLUMNS": "200"}
        return subprocess.run(
            [str(program), *command[1:]], cwd=copy, env=environment, capture_output=True, text=True, check=False
        )

    return runner
