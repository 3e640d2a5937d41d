"""The gates that no ready-made linter holds. Prints each violation as `file:line: sentence`; exits 1 if there is one.

Usage: `make gates`, or `python tools/gates.py [ROOT]`.

    imports   libraries listed in pyproject.toml under [tool.detent.imports] stay in functions or in their rooms
    cycles    no module reaches itself through imports, those inside functions counted
    sql       text that reaches a database is a literal; values are bound
    words     no machine's paths, package indexes or tracker numbers in committed files
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_EXECUTES = {"execute", "executemany", "executescript", "exec_driver_sql", "text"}
_CONSTANT = re.compile(r"_{0,2}[A-Z][A-Z0-9_]*")
_TEXT_FILES = {".md", ".py", ".toml", ".txt", ".html", ".css", ".ts", ".tsx", ".js", ".json", ".svg", ".yml", ".sh", ""}
_WORDS = (
    (re.compile(r"(?<![\w.:/-])/(?:work|home/[a-z]\w*|root|Users)/\w"), "a path of one machine"),
    (re.compile(r"\bpypi\.org|pythonhosted\.org|registry\.npmjs\.org|\b--(?:extra-)?index-url\b"), "a package index"),
    (re.compile(r"(?<![\w&#])#\d{1,5}\b(?![\w-])|\b[Ii]ssue \d+\b"), "a tracker number"),
)


class Violation(NamedTuple):
    """One thing that is wrong, where."""

    path: Path
    line: int
    sentence: str


class Module(NamedTuple):
    """A source file of the product, parsed."""

    name: str
    path: Path
    tree: ast.Module


def modules(root: Path) -> list[Module]:
    """Every module under src/detent."""
    found = []
    for path in sorted((root / "src" / "detent").rglob("*.py")):
        parts = path.relative_to(root / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(name, path, ast.parse(path.read_text(), str(path))))
    return found


# Imports


class Import(NamedTuple):
    """One imported name: `deferred` when it stands inside a function (or is for type checkers only)."""

    library: str
    line: int
    deferred: bool


def imports(tree: ast.Module) -> Iterator[Import]:
    """All imports of a module with their place."""
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, deferred = stack.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, deferred)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield Import(node.module or "", node.lineno, deferred)
        inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _for_types(node)
        stack.extend((child, inside) for child in ast.iter_child_nodes(node))


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _within(module: str, packages: list[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def check_imports(root: Path) -> Iterator[Violation]:
    """Deferred libraries inside functions, owned libraries in their rooms."""
    declared = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["detent"]["imports"]
    deferred: dict[str, list[str]] = declared["deferred"]
    only: dict[str, list[str]] = declared["only"]
    for module in modules(root):
        for found in imports(module.tree):
            library = found.library.partition(".")[0]
            if library in deferred and not found.deferred and not _within(module.name, deferred[library]):
                yield Violation(module.path, found.line, f"{library} is imported inside the function that needs it")
            if library in only and not _within(module.name, only[library]):
                yield Violation(module.path, found.line, f"{library} belongs to {', '.join(only[library])}")


def check_cycles(root: Path) -> Iterator[Violation]:
    """Strongly connected sets of modules (Tarjan), of which there must be none."""
    every = {module.name: module for module in modules(root)}
    graph = {name: _targets(module, every) - {name} for name, module in every.items()}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> Iterator[list[str]]:
        index[name] = low[name] = len(index)
        path.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                yield from visit(target)
                low[name] = min(low[name], low[target])
            elif target in path:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = path.index(name)
            ring = path[at:]
            del path[at:]
            if len(ring) > 1:
                yield sorted(ring)

    for name in sorted(graph):
        if name not in index:
            for ring in visit(name):
                yield Violation(every[ring[0]].path, 1, "import cycle: " + " <-> ".join(ring))


def _targets(module: Module, every: dict[str, Module]) -> set[str]:
    """The modules of the product that one imports; `from package import module` counts as that module."""
    found: set[str] = set()
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, base] if base else parent)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in every else base)
    return found & every.keys()


# SQL


def check_sql(root: Path) -> Iterator[Violation]:
    """Nothing is formatted into a statement but module constants, in capitals, and identifiers that `quote` wrote."""
    for module in modules(root):
        for scope in [module.tree, *(n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef))]:
            assigned = {
                target.id: node.value
                for node in ast.walk(scope)
                if isinstance(node, ast.Assign)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            for call in (n for n in ast.walk(scope) if isinstance(n, ast.Call) and n.args):
                name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                if name not in _EXECUTES:
                    continue
                statement = call.args[0]
                if isinstance(statement, ast.Name):
                    statement = assigned.get(statement.id, statement)
                if _is_formatted(statement):
                    yield Violation(module.path, call.lineno, "a statement is put together from text; bind its values")


def _is_formatted(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) and not _is_constant(part.value) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = (node.left, node.right)
        texts = [side for side in sides if isinstance(side, ast.Constant | ast.JoinedStr | ast.BinOp)]
        return bool(texts) and any(not isinstance(s, ast.Constant) and not _is_constant(s) for s in sides)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == "format" and isinstance(node.func.value, ast.Constant)
    return False


def _is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return "quote" in {getattr(node.func, "attr", ""), getattr(node.func, "id", "")}
    if isinstance(node, ast.Attribute):
        return _CONSTANT.fullmatch(node.attr) is not None
    return isinstance(node, ast.Constant) or (isinstance(node, ast.Name) and bool(_CONSTANT.fullmatch(node.id)))


# Words


def committed(root: Path) -> list[Path]:
    """The files under version control; all files where there is none."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        return [path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts]
    return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def check_words(root: Path) -> Iterator[Violation]:
    """Text that would tell of the place it was written at instead of the product."""
    for path in committed(root):
        if path.suffix not in _TEXT_FILES or path.name == "gates.py" or "tests/gates" in path.as_posix():
            continue
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            for pattern, what in _WORDS:
                if pattern.search(line) and not (what == "a tracker number" and _is_style(path)):
                    yield Violation(path, number, f"{what}: {line.strip()[:80]}")


def _is_style(path: Path) -> bool:
    """Style sheets and drawings write colours the way trackers write numbers."""
    return path.suffix in {".css", ".svg", ".html"}


def main(arguments: list[str]) -> int:
    """Run every check on a checkout."""
    root = Path(arguments[0] if arguments else Path(__file__).parent.parent).resolve()
    checks = (check_imports, check_cycles, check_sql, check_words)
    found = list(dict.fromkeys(violation for check in checks for violation in check(root)))
    for violation in found:
        print(f"{violation.path.relative_to(root)}:{violation.line}: {violation.sentence}")
    print(f"gates: {len(found)} violations" if found else "gates: nothing found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
