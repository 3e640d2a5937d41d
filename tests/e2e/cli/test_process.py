"""The command line as a process: streams, exit codes, pipes, and what it costs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

MOST_CPU_SECONDS = 0.2
HEAVY = {
    "sqlalchemy",
    "fastapi",
    "numpy",
    "pydantic",
    "alembic",
    "dbos",
    "cryptography",
    "starlette",
    "uvicorn",
    "detent.app",
}


def detent(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "detent", *arguments],
        env={**os.environ, "DETENT_HOME": str(home), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_data_goes_out_and_talk_to_err(home: Path) -> None:
    made = detent(home, "keys", "create", "--name", "N", "--json")
    assert (made.returncode, made.stderr) == (0, "")
    assert json.loads(made.stdout)["key"].startswith("dtk_")
    assert len(made.stdout.splitlines()) == 1
    refused = detent(home, "keys", "revoke", "nobody")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "Traceback" not in refused.stderr
    assert "Next:" in refused.stderr


def test_a_reader_that_has_enough_is_no_error(home: Path) -> None:
    command = f"{sys.executable} -m detent settings show | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "DETENT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "0"
    assert ran.stderr == ""


def test_a_home_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ran = detent(file, "keys", "list")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert "[storage_failed]" in ran.stderr


def test_no_colour_without_a_terminal(home: Path) -> None:
    detent(home, "keys", "create", "--name", "N")
    for env in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in detent(home, "keys", "list", **env).stdout


def test_completion(home: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = detent(home, "completion", shell)
        assert script.returncode == 0, script.stderr
        assert "_DETENT_COMPLETE" in script.stdout
    asked = detent(home, _DETENT_COMPLETE="bash_complete", COMP_WORDS="detent tr", COMP_CWORD="1")
    assert asked.stdout.split() == ["plain,traces"]


@pytest.mark.parametrize("arguments", [("--help",), ("keys", "--help"), ("traces", "list", "--help"), ("--version",)])
def test_help_is_light(home: Path, arguments: tuple[str, ...]) -> None:
    detent(home, *arguments)
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert detent(home, *arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) <= MOST_CPU_SECONDS, spent
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--help",), ("keys", "--help"), ("traces", "--help"), ("up", "--help")])
def test_help_loads_nothing_heavy(home: Path, arguments: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom detent.cli.root import run\nrun(sys.argv[1:])\nsys.stderr.write('\\n'.join(sys.modules))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert not HEAVY & set(ran.stderr.splitlines())


def test_importing_detent_loads_nothing(home: Path) -> None:
    program = "import sys; before = set(sys.modules); import detent; print(*(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert [name for name in ran.stdout.split() if name.startswith("detent.")] == []
    program = "import sys; import detent; detent.trace; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert not {"ssl", "http.client", "asyncio", *HEAVY} & set(ran.stdout.split())
