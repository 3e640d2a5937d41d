"""Write the reference pages under docs/reference/ from the code they describe.

Usage: `make docs`, or `python tools/docs.py [--check]`; with `--check` nothing is written and stale pages are named.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

import detent
from detent.gateway.operations import OPERATIONS
from detent.kernel.errors import DetentError, every_error
from detent.kernel.identity import ROLES, Permission
from detent.kernel.settings import Settings, every_field

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "reference"
NOTE = "<!-- Written by tools/docs.py; edit the code it describes instead. -->\n"

SETTINGS = """\
A setting is taken from, in this order: the flag of a command, the environment, `detent.toml`, the default. The file is
`$DETENT_CONFIG`, else `detent.toml` in the data folder. A value that cannot be used stops the start and is named.
"""
ERRORS = """\
Every face answers an error in one shape. `code` is stable; `message` says what went wrong and why; `hint` is the next
step; `field` names the input at fault. On the gateway the shape is that of the client's dialect, OpenAI's or
Anthropic's, with the same code and hint.

```json
{"error": {"code": "not_found", "message": "There is no route 'x'.", "hint": "List them with `detent routes list`."}}
```
"""
FACTS = """\
What the ledger can record. A fact also carries its position, id, stream, project, actor, time, reason and hash. Those
marked *at once* are chained in their own transaction on every database.
"""
API = """\
On the control port, for programs: send a virtual key as `Authorization: Bearer dtk_...`. The OpenAPI document is at
`/api/v1/openapi.json`. Errors have [one shape](errors.md).

Applications call models on the gateway's port instead, in OpenAI's or Anthropic's dialect:

{gateway}

`/v1/files` and `/v1/batches` are handed on from there to here. Beside them the gateway serves `/healthz`, `/readyz` and
`/metrics`. [What it does with a call](../a-call.md).
"""
CONSOLE = """\
Pages on the control port, for people. Filters are in the URL, so a view can be sent to somebody. `.json` behind a path
gives what the page shows as data, `.csv` its table (`/home.json` for `/`).

Keys: `j` and `k` to the next and previous row, `o` opens it, `u` goes up to the list, `/` searches, `f` follows live,
`n` makes something new, `e` edits, `t` changes the theme, Ctrl-K goes to anything, `?` shows the rest.
"""
METRICS = """\
`GET /metrics` on the gateway's port answers in Prometheus' text form, all workers added up.
"""
PERMISSIONS = """\
A key or session may do what its permissions and those of its issuer have in common at the time of the call.
"""


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; line ends and bars in cells are made harmless."""
    clean = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in [list(head), ["---"] * len(head), *clean]]
    return "\n".join(lines) + "\n"


def first(text: str | None) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


def section_of(text: str | None, heading: str) -> dict[str, str]:
    """The entries of a docstring's `Attributes:` or `Raises:` section."""
    found: dict[str, str] = {}
    lines = inspect.cleandoc(text or "").split("\n")
    if f"{heading}:" not in lines:
        return found
    names: list[str] = []
    for line in lines[lines.index(f"{heading}:") + 1 :]:
        if line and not line.startswith("    "):
            break
        if line.startswith("        ") and names:
            for name in names:
                found[name] += " " + line.strip()
        elif ":" in line:
            head, _, tail = line.strip().partition(":")
            names = [name.strip() for name in head.split(",")]
            found.update(dict.fromkeys(names, tail.strip()))
    return found


def module_names() -> list[str]:
    """All modules of the product that may be imported anywhere."""
    found = [info.name for info in pkgutil.walk_packages(detent.__path__, "detent.")]
    return [name for name in found if not name.endswith("__main__") and ".migrations" not in name]


def every_module() -> Iterator[str]:
    """Import everything, so that each subclass is known."""
    for name in module_names():
        importlib.import_module(name)
        yield name


# Pages


def settings_page() -> str:
    """All settings, by section, from their declarations."""
    parts = [
        "# Settings\n",
        SETTINGS,
        '```toml\n# detent.toml\n[gateway]\nport = 7400\nworkers = 2\n\n[telemetry]\ncontent = "drop"\n```\n',
    ]
    fields = list(every_field())
    for section in dict.fromkeys(field.section for field in fields):
        described = first(getattr(Settings(), section).__doc__) if section else "The installation."
        parts.append(f"## {section or 'home'}\n\n{described}\n")
        rows = [
            (
                f"`{f.section}.{f.name}`".replace("`.", "`"),
                f"`{f.env}`",
                f.type,
                f"`{_value(f.default)}`",
                f.description,
            )
            for f in fields
            if f.section == section
        ]
        parts.append(table(("setting", "environment", "type", "default", "what it does"), rows))
    return "\n".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)


def errors_page() -> str:
    """All error codes, by family."""
    list(every_module())
    rows = []
    for error in every_error():
        if error is DetentError or not error.__module__.startswith("detent."):
            continue
        code = f"`{error.code}`"
        rows.append((code, str(error.status), error.__name__, first(error.__doc__), error.__module__.split(".")[1]))
    body = table(("code", "status", "class", "meaning", "room"), sorted(rows, key=lambda row: (row[1], row[0])))
    return f"# Errors\n\n{ERRORS}\n{body}"


def facts_page() -> str:
    """All fact kinds with their fields."""
    from detent.app.catalog import catalog

    bodies = catalog().bodies
    parts = [
        "# Facts\n",
        FACTS,
    ]
    for kind, body in sorted(bodies.items()):
        chained = ", at once" if body.sealed_at_once else ""
        parts.append(f"## {kind}\n\nVersion {body.kind_version}{chained}. {first(body.__doc__)}\n")
        fields = msgspec.structs.fields(body)
        if fields:
            rows = [(f"`{f.name}`", _annotation(body, f.name), "yes" if f.required else "") for f in fields]
            parts.append(table(("field", "type", "required"), rows))
    return "\n".join(parts)


def _annotation(owner: type, name: str) -> str:
    """The type as it is written in the source."""
    for base in owner.__mro__:
        if name in getattr(base, "__annotations__", {}):
            return f"`{base.__annotations__[name]}`"
    return ""


def ports_page() -> str:
    """The ports and their methods, as written in the kernel."""
    source = (ROOT / "src/detent/kernel/ports.py").read_text()
    parts = ["# Ports\n", textwrap.dedent(ast.get_docstring(ast.parse(source)) or "") + "\n"]
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef) or "Protocol" not in [ast.unparse(base) for base in node.bases]:
            continue
        parts.append(f"## {node.name}\n\n{first(ast.get_docstring(node))}\n")
        rows = []
        for method in node.body:
            if isinstance(method, ast.FunctionDef):
                arguments = ast.unparse(method.args).removeprefix("self").removeprefix(", ")
                returns = ast.unparse(method.returns) if method.returns else ""
                rows.append((f"`{method.name}({arguments}) -> {returns}`", first(ast.get_docstring(method))))
        parts.append(table(("method", "does"), rows))
    return "\n".join(parts)


def permissions_page() -> str:
    """Permissions and the roles that hold them."""
    head = ("permission", *ROLES)
    rows = [(f"`{p.value}`", *("yes" if p in rights else "" for rights in ROLES.values())) for p in Permission]
    return f"# Permissions and roles\n\n{PERMISSIONS}\n{table(head, rows)}"


def metrics_page() -> str:
    """All metrics of the gateway."""
    from detent.gateway import metrics

    kinds = {"counter": metrics.COUNTERS, "histogram": metrics.HISTOGRAMS, "gauge": metrics.GAUGES}
    rows = [(f"`{name}`", kind, about) for kind, named in kinds.items() for name, about in named.items()]
    return f"# Metrics\n\n{METRICS}\n{table(('metric', 'type', 'counts'), rows)}"


def api_page() -> str:
    """Every route of the control plane, from its OpenAPI document."""
    from detent.api.document import describe

    paths = "\n".join(f"- `{path}`" for path in (*OPERATIONS, "/v1/models"))
    parts = [f"# HTTP API\n\n{API.format(gateway=paths)}"]
    by_tag: dict[str, list[tuple[str, ...]]] = {}
    for path, operations in describe()["paths"].items():
        for method, operation in operations.items():
            need = operation.get("x-detent-permission") or "none"
            named = [f"`{p['name']}`" for p in operation.get("parameters", ()) if p["in"] == "query"]
            row = (f"`{method.upper()} {path}`", need, first(operation.get("description")), ", ".join(named))
            by_tag.setdefault((operation.get("tags") or ["other"])[0], []).append(row)
    for tag, rows in by_tag.items():
        parts.append(f"## {tag}\n\n{table(('request', 'permission', 'does', 'query'), rows)}")
    return "\n".join(parts)


def pages_page() -> str:
    """Every page of the console."""
    from detent.web import console

    rows = []
    for page in console.PAGES:
        about = inspect.getdoc(sys.modules[page.view.__module__]) or ""
        need = page.needs.value if isinstance(page.needs, Permission) else "none"
        rows.append((f"`{page.path}`", need, first(inspect.getdoc(page.view) or about), "csv" if page.tables else ""))
    return f"# Console\n\n{CONSOLE}\n{table(('page', 'permission', 'shows', 'tables'), rows)}"


def cli_page() -> str:
    """Every command with its options, as `--help` prints it."""
    from detent.cli import root

    codes = inspect.cleandoc(root.__doc__ or "").partition("Exit codes:")[2].strip("\n")
    parts = [
        "# Command line\n",
        "`stdout` is data, `stderr` is talk. Every command takes `--json`. Exit codes:\n",
        f"```text\n{textwrap.dedent(codes)}\n```\n",
    ]
    parts.extend(f"## {path}\n\n```text\n{text}\n```\n" for path, text in every_command(root.root, "detent"))
    return "\n".join(parts)


def every_command(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Walk the tree of commands, hidden ones left out."""
    fixed: dict[str, Any] = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, parent, info_name=path.rpartition(" ")[2], **fixed)
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from every_command(child, f"{path} {name}", context)


def failures_page() -> str:
    """The failure matrix, from the rows that its test plays."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from tests.e2e.gateway import matrix

    return f"# Failures\n\n{matrix.page()}"


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "errors.md": errors_page,
    "facts.md": facts_page,
    "ports.md": ports_page,
    "permissions.md": permissions_page,
    "metrics.md": metrics_page,
    "api.md": api_page,
    "console.md": pages_page,
    "cli.md": cli_page,
    "failures.md": failures_page,
}


def text_of(name: str) -> str:
    """A page as it should be."""
    return NOTE + PAGES[name]().rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name the stale ones."""
    pages = {OUT / name: text_of(name) for name in PAGES}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale; run `make docs`")
        return 1 if stale else 0
    OUT.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(pages[path])
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
