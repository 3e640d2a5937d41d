"""A gate that never fails proves nothing: each is given a violation and must report it, and nothing without one."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
from tests.gates.conftest import Run


def plant(copy: Path, module: str, code: str) -> None:
    """Add code to a module of the copy; a module that is not there is made."""
    path = copy / "src" / "detent" / module
    path.parent.mkdir(exist_ok=True)
    before = path.read_text() if path.exists() else '"""Planted."""\n'
    path.write_text(before + "\n" + dedent(code))


CONTRACTS = {
    "layers: kernel imports a room above": (
        "kernel/planted.py",
        "import detent.guard.vault",
        "Rooms import down",
    ),
    "layers: ground imports work": ("traces/planted.py", "import detent.gateway.model", "Rooms import down"),
    "layers: siblings on the ground": ("guard/planted.py", "import detent.traces", "Rooms import down"),
    "layers: work imports change, in a function": (
        "gateway/planted.py",
        "def f() -> None:\n    import detent.governance",
        "Rooms import down",
    ),
    "layers: gateway and serving are siblings": (
        "serving/planted.py",
        "import detent.gateway.keys",
        "Rooms import down",
    ),
    "layers: a face imports another": ("web/planted.py", "import detent.api", "Rooms import down"),
    "layers: the composition imports a face": ("app/planted.py", "import detent.web", "Rooms import down"),
    "layers: the sdk imports more than the kernel": ("sdk/planted.py", "import detent.traces", "Rooms import down"),
    "layers: a room without a layer": ("novelty/__init__.py", "", "Rooms import down"),
    "store: a face reaches an adapter": ("api/planted.py", "import detent.store.secrets", "Only the composition"),
    "store: governance reaches an adapter": ("governance/planted.py", "import detent.store", "Only the composition"),
    "domain: a model opens a socket": ("gateway/model.py", "import socket", "Domain types do no I/O"),
    "domain: facts know a database": ("gateway/facts.py", "import sqlalchemy", "Domain types do no I/O"),
    "domain: the kernel starts processes": ("kernel/ids.py", "import subprocess", "Domain types do no I/O"),
    "data plane: a web framework": ("gateway/planted.py", "import fastapi", "The data plane stays raw"),
    "data plane: a database": ("gateway/planted.py", "import sqlite3", "The data plane stays raw"),
    "sdk: a heavy package": ("sdk/planted.py", "import numpy", "The SDK needs"),
    "acyclic: two modules, one import in a function": (
        "kernel/errors.py",
        "def f() -> None:\n    from detent.kernel import identity",
        "No cycles",
    ),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_import_contracts_fail_on(name: str, copy: Path, run: Run) -> None:
    module, code, contract = CONTRACTS[name]
    plant(copy, module, code)
    found = run("lint-imports", "--no-cache", "--no-logo")
    assert found.returncode != 0, found.stdout
    broken = [line for line in found.stdout.splitlines() if "BROKEN" in line or "exhaustive" in line.lower()]
    assert any(contract in line for line in broken), found.stdout


OWN = {
    "imports: a heavy library at module level": ("serving/planted.py", "import torch", "torch is imported inside"),
    "imports: numpy outside its rooms": ("traces/planted.py", "import numpy as np", "numpy is imported inside"),
    "imports: in a class body": ("traces/planted.py", "class A:\n    import polars", "polars is imported inside"),
    "imports: a library in another's room": (
        "traces/planted.py",
        "def f() -> None:\n    import jinja2",
        "jinja2 belongs to detent.web",
    ),
    "cycles: two modules through a function": (
        "kernel/errors.py",
        "def f() -> None:\n    from detent.kernel import identity",
        "import cycle: detent.kernel.errors <-> detent.kernel.identity",
    ),
    "cycles: a module and its package": (
        "kernel/__init__.py",
        "def f() -> None:\n    import detent.kernel.ids\n",
        None,
    ),
    "sql: an f-string": ("store/planted.py", 'def f(c, x):\n    c.execute(f"SELECT {x}")', "put together from text"),
    "sql: percent": ("store/planted.py", 'def f(c, x):\n    c.execute("SELECT %s" % x)', "put together from text"),
    "sql: format": ("store/planted.py", 'def f(c, x):\n    c.execute("SELECT {}".format(x))', "put together from text"),
    "sql: plus": ("store/planted.py", 'def f(c, x):\n    c.execute("SELECT " + x)', "put together from text"),
    "sql: by way of a name": (
        "store/planted.py",
        'def f(c, x):\n    query = f"SELECT {x}"\n    c.execute(query)',
        "put together from text",
    ),
    "sql: sqlalchemy's text": (
        "store/planted.py",
        'def f(sa, x):\n    sa.text(f"SELECT {x}")',
        "put together from text",
    ),
    "words: a machine's path": ("traces/planted.py", 'PATH = "/home/somebody/x"', "a path of one machine"),
    "words: a package index": ("traces/planted.py", "# from pypi.org/simple", "a package index"),
    "words: a tracker number": ("traces/planted.py", "# see #1234", "a tracker number"),
}


@pytest.mark.parametrize("name", OWN)
def test_own_gates_fail_on(name: str, copy: Path, run: Run) -> None:
    module, code, sentence = OWN[name]
    plant(copy, module, code)
    found = run("python", "tools/gates.py", str(copy))
    if sentence is None:
        assert found.returncode == 0, found.stdout
        return
    assert found.returncode == 1, found.stdout
    assert sentence in found.stdout


def test_a_constant_may_stand_in_a_statement(copy: Path, run: Run) -> None:
    plant(
        copy,
        "store/planted.py",
        'COLUMNS = "a, b"\n\n\ndef f(c, quote):\n    c.execute(f"SELECT {COLUMNS} FROM {quote(1)}")',
    )
    assert run("python", "tools/gates.py", str(copy)).returncode == 0


RUFF = {
    "pickle": ("traces/planted.py", "import pickle", "TID251"),
    "another outbound client": ("traces/planted.py", "import requests", "TID251"),
    "urllib.request": ("traces/planted.py", "from urllib.request import urlopen", "TID251"),
    "a blind except": ("traces/planted.py", "try:\n    x = 1\nexcept Exception:\n    x = 2\n", "BLE001"),
    "a naive time": ("traces/planted.py", "import datetime\n\nNOW = datetime.datetime.now()\n", "DTZ005"),
    "a public function without docstring": ("traces/planted.py", "def f() -> None:\n    return\n", "D103"),
    "a public class without docstring": ("traces/planted.py", "class A:\n    x = 1\n", "D101"),
    "shell": ("traces/planted.py", 'import subprocess\n\nsubprocess.run("ls", shell=True)\n', "S602"),
}


@pytest.mark.parametrize("name", RUFF)
def test_ruff_fails_on(name: str, copy: Path, run: Run) -> None:
    module, code, rule = RUFF[name]
    plant(copy, module, code)
    found = run("ruff", "check", "--no-cache", "--output-format", "concise", f"src/detent/{module}")
    assert found.returncode == 1
    assert rule in found.stdout


def test_mypy_is_strict(copy: Path, run: Run) -> None:
    plant(copy, "guard/planted.py", "def f(x):\n    return x\n\n\ny: int = f('a') + 'b'\nz: int = 'c'\n")
    found = run("mypy", "--no-incremental", "--follow-imports=silent", "--package", "detent.guard")
    assert found.returncode == 1
    assert {"[no-untyped-def]", "[no-untyped-call]", "[assignment]"} <= set(found.stdout.split())


def test_the_copy_itself_is_clean(copy: Path, run: Run) -> None:
    for command in (
        ("lint-imports", "--no-cache"),
        ("python", "tools/gates.py", str(copy)),
        ("ruff", "check", "--no-cache", "src"),
    ):
        found = run(*command)
        assert found.returncode == 0, found.stdout
