"""Every example in README and guides runs, top to bottom, as one reader would type them, against a real platform.

Fenced blocks marked `bash` and `python` are run; others are output or files. `detent up` starts the platform and goes
on when it is ready. What a reader does by hand stands in a comment: `<!-- run: down -->` stops it as Ctrl-C would,
`<!-- skip: why -->` before a block leaves it out. Ports and data folder are of this test's own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import find_port

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
_PART = re.compile(r"<!-- (run|skip): (.*?) -->|^```(\w+)\n(.*?)^```", re.S | re.M)
_SECONDS = 120

PRELUDE = r"""
set -euo pipefail
up() {
  detent up >up.log 2>&1 &
  echo $! >up.pid
  for _ in $(seq 200); do
    if curl -sf -o /dev/null http://127.0.0.1:$DETENT_GATEWAY_PORT/readyz &&
       curl -sf -o /dev/null http://127.0.0.1:$DETENT_PORT/healthz; then return 0; fi
    kill -0 "$(cat up.pid)" || { cat up.log; return 1; }
    sleep 0.1
  done
  echo "detent up was not ready in 20 s"; cat up.log; return 1
}
down() {
  [ -f up.pid ] || return 0
  kill -TERM "$(cat up.pid)" 2>/dev/null || true
  wait "$(cat up.pid)" || true
  rm up.pid
}
trap 'status=$?; [ $status = 0 ] || { echo "--- up.log"; tail -30 up.log 2>/dev/null; }; down; exit $status' EXIT
"""


def script_of(document: Path) -> str:
    """All blocks of a document as one shell script."""
    text = document.read_text()
    lines, skip = [PRELUDE], False
    for part in _PART.finditer(text):
        directive, argument, language, body = part.groups()
        line = text.count("\n", 0, part.start()) + 1
        if directive == "skip":
            skip = True
            continue
        if directive == "run":
            lines.append(argument)
            continue
        if not skip and language in {"bash", "python"}:
            lines.append(f'echo "--- {document.name}:{line}"')
            if language == "python":
                lines.append(f"python - <<'END_OF_PYTHON'\n{body}END_OF_PYTHON")
            else:
                lines.append(re.sub(r"^(detent|make) up$", "up", body, flags=re.M))
        skip = False
    return "\n".join(lines)


@pytest.mark.e2e
@pytest.mark.timeout(_SECONDS + 30)
@pytest.mark.parametrize("document", GUIDES, ids=lambda p: p.name)
def test_the_examples_run(document: Path, home: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    script = script_of(document)
    if "curl" in script and shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    ports = {"7400": find_port(), "7401": find_port(), "7402": find_port()}
    for written, real in ports.items():
        script = re.sub(rf"\b{written}\b", str(real), script)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "DETENT_HOME": str(home),
        "DETENT_GATEWAY_PORT": str(ports["7400"]),
        "DETENT_PORT": str(ports["7401"]),
        "DETENT_ENGINE_PORT": str(ports["7402"]),
        "NO_COLOR": "1",
    }
    if "$DATABASE" in script:
        environment["DATABASE"] = request.getfixturevalue("postgres_url")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("document", GUIDES[1:], ids=lambda p: p.name)
def test_a_guide_ends_with_verify_and_troubleshoot(document: Path) -> None:
    headings = re.findall(r"^## (.+)$", document.read_text(), re.M)
    assert headings[-2:] == ["Verify", "Troubleshoot"]
