"""What must hold of the whole, and is easily forgotten in a part."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tools import docs, gates

from detent.kernel.settings import every_field

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = {module.name: module for module in gates.modules(ROOT)}
MAX_PACKAGES = 45

# Who may ask the machine for the time or for chance: the sources themselves, and what must not depend on them.
SOURCES = {
    "time.time": {"detent.kernel.clock", "detent.cli.options", "detent.serving.engines.tiny.server"},
    "time.time_ns": {"detent.kernel.clock", "detent.cli.options", "detent.store.lake.files", "detent.sdk.span"},
    "datetime.now": set(),
    "uuid.uuid4": set(),
    "uuid.uuid1": set(),
    "random.random": {"detent.sdk.transport"},
}


def test_time_and_ids_come_from_outside() -> None:
    found = [
        (name, call)
        for name, module in MODULES.items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and (call := ast.unparse(node.func)) in SOURCES and name not in SOURCES[call]
    ]
    assert found == []


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~; ]", requirement)[0].lower() for requirement in requirements}


def test_every_dependency_has_a_decision() -> None:
    notes = "\n".join(p.read_text().lower() for p in (ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    wanted = names(PROJECT["project"]["dependencies"])
    missing = [name for name in wanted if not re.search(rf"\b{re.escape(name.removesuffix('-core'))}\b", notes)]
    assert [n for n in missing if n not in {"arro3-io", "arro3-core"}] == []


def test_decisions_are_half_a_page_and_numbered() -> None:
    notes = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [note.name[:4] for note in notes] == [f"{n:04d}" for n in range(1, len(notes) + 1)]
    for note in notes:
        text = note.read_text()
        assert text.startswith(f"# {note.name[:4]}: ")
        assert all(f"**{part}.**" in text for part in ("Context", "Choice", "Cost")), note.name
        assert len(text.split()) < 400, note.name


def test_the_default_installation_stays_small() -> None:
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "runtime.txt").read_text(), re.M)
    assert len(set(locked)) + 1 <= MAX_PACKAGES
    assert not {"torch", "pandas", "pyarrow", "litellm", "langchain", "transformers"} & set(locked)


def test_lock_files_name_no_index_and_pin_by_hash() -> None:
    for name in ("build", "runtime", "dev"):  # tune.txt names a build of torch, which each index packs in its own way
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert "://" not in text
        entries = re.findall(r"^([a-z0-9-]+)==\S+[^\n]*\\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.M)
        assert len(entries) == len(re.findall(r"^[a-z0-9-]+==", text, re.M))


def test_faces_are_found_by_name() -> None:
    for target in PROJECT["project"]["entry-points"]["detent.faces"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


DATA_PLANE = ("torch", "dbos", "numpy", "arro3", "fastapi", "pydantic", "sqlalchemy", "jinja2")
HEAVY = ("torch", "dbos", "numpy", "arro3", "fastapi", "pydantic", "sqlalchemy", "jinja2", "uvicorn", "asyncio")


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        ("import detent", HEAVY),
        ("import detent.cli", HEAVY),
        ("import detent.kernel.ports", HEAVY),
        ("import detent.sdk", tuple(set(HEAVY) - {"asyncio"})),
        (
            "import detent.gateway.worker",
            ("torch", "dbos", "numpy", "arro3", "fastapi", "pydantic", "sqlalchemy", "jinja2"),
        ),
    ],
)
def test_what_importing_costs(code: str, banned: tuple[str, ...]) -> None:
    """Nobody pays for what they do not use: importing these brings none of the heavy libraries along."""
    script = f"{code}\nimport sys\nprint(*[m for m in {banned!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_module_imports_without_doing_anything() -> None:
    """No output, no files and no threads from an import."""
    script = (
        "import sys, threading, importlib\n"
        f"for name in {docs.module_names()!r}:\n    importlib.import_module(name)\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert 'torch' not in sys.modules and 'dbos' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_settings_in_documents_exist() -> None:
    known = {f.env for f in every_field()} | {"DETENT_CONFIG", "DETENT_URL", "DETENT_KEY"}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    used = {(p.name, v) for p in pages for v in re.findall(r"\bDETENT_[A-Z_]+\b", p.read_text())}
    assert {(page, name) for page, name in used if name not in known} == set()


def test_the_version_is_one() -> None:
    import detent

    assert detent.__version__ == PROJECT["project"]["version"]
    assert f"## {detent.__version__}" in (ROOT / "CHANGELOG.md").read_text()
