"""Write the lock files under requirements/ from pyproject.toml: exact versions with hashes, and no index host.

Usage: `make lock` (needs `uv`, a development tool only; installs from the lock use plain pip).
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "requirements"


def compile_lock(name: str, wanted: list[str], constraint: str | None = None) -> None:
    """Resolve `wanted` for every supported Python into requirements/<name>.txt."""
    command = ["uv", "pip", "compile", "-", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.11", "--quiet", "--output-file", str(OUT / f"{name}.txt")]
    if constraint:
        command += ["--constraint", str(OUT / f"{constraint}.txt")]
    subprocess.run(command, input="\n".join(wanted), text=True, check=True, cwd=ROOT)


def main() -> int:
    """Compile the three locks: what runs, what builds, what tests."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    OUT.mkdir(exist_ok=True)
    runtime = config["project"]["dependencies"]
    compile_lock("runtime", runtime)
    compile_lock("build", config["build-system"]["requires"] + ["editables"], "runtime")
    compile_lock("dev", runtime + config["dependency-groups"]["dev"], "runtime")
    return 0


if __name__ == "__main__":
    sys.exit(main())
