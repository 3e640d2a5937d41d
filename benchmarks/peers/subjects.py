"""Each gateway under measurement: installation, configuration, start. All lead to the same upstream."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from detent.gateway.keys import hash_token
from detent.gateway.model import Budget, Limit, Unit
from detent.gateway.snapshot import FORMAT, KeyEntry, ProviderEntry, RouteEntry, Snapshot, TargetEntry, publish
from detent.kernel.identity import Permission
from detent.kernel.money import Price
from processes import cpu_seconds, free_port, megabytes

HERE = Path(__file__).resolve().parent
KEY = "dtk_" + "b" * 43
MODEL = "mock-model"
PRICE = Price(150_000, 600_000)
INSTALL_SECONDS = 1200
SPOOL = {"DETENT_TELEMETRY_SPOOL_MAX_BYTES": str(64 << 30)}
"""Nobody empties the spool here, and a closed loop fills gigabytes."""


class Unusable(Exception):
    """A peer that cannot be installed or started; says why."""


class Place(NamedTuple):
    """Where a peer runs and what it calls.

    Attributes:
        build: where environments are.
        folder: this run's own, for configuration and logs.
        upstream: base URL, up to and with `/v1`.
        certificate: the authority of a TLS upstream; None for plain HTTP.
    """

    build: Path
    folder: Path
    upstream: str
    certificate: Path | None = None


class Running:
    """A started gateway.

    Attributes:
        url: of its chat completions.
        key: that a client sends.
        model: what a client says for `model`.
        headers: that a client sends besides the usual ones.
        ready_seconds: from the start of its process to the first right answer.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        url: str,
        *,
        model: str = MODEL,
        key: str = KEY,
        headers: Sequence[str] = (),
    ) -> None:
        self.process = process
        self.url = url
        self.key = key
        self.model = model
        self.headers = tuple(headers)
        self.ready_seconds = 0.0

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_seconds(self.process.pid)

    def megabytes(self) -> float:
        """Resident memory now."""
        return megabytes(self.process.pid)

    def stop(self) -> None:
        """Ask it to leave; insist after a while."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Peer(ABC):
    """A gateway.

    Attributes:
        name: for people.
        on: what is switched on in the measurement.
        start_seconds: how long it may take to answer.
    """

    name: str
    on: str
    start_seconds = 120.0

    @abstractmethod
    def install(self, build: Path) -> str:
        """Install it if it is not; its version.

        Raises:
            Unusable: it cannot be had.
        """

    @abstractmethod
    def start(self, place: Place) -> Running:
        """Start it; it need not be ready yet.

        Raises:
            Unusable: it did not start.
        """


class Detent(Peer):
    """Detent, one worker, with everything on that a request can meet."""

    name = "Detent"
    on = "virtual key, 3 limits (requests, tokens, concurrency), a budget, prices, metrics, a span with content spooled"

    def install(self, _build: Path) -> str:
        """It is this checkout."""
        from detent.app.status import version

        return version()

    def start(self, place: Place) -> Running:
        """One worker on a snapshot of its own."""
        home = place.folder / "detent"
        publish(everything_on(place.upstream), home / "snapshot")
        port = free_port()
        more = {"SSL_CERT_FILE": str(place.certificate)} if place.certificate else {}
        environment = {"DETENT_GATEWAY_PORT": str(port), "DETENT_HOME": str(home), **SPOOL, **more}
        process = spawn([sys.executable, "-m", "detent.gateway"], place.folder / "detent.log", environment)
        return Running(process, f"http://127.0.0.1:{port}/v1/chat/completions")


def everything_on(upstream: str) -> Snapshot:
    """A key, a priced route, limits and a budget that are counted and never met."""
    path = f"default/{MODEL}"
    units: tuple[tuple[Unit, int], ...] = (("requests", 60), ("tokens", 60), ("concurrency", 0))
    limits = tuple(
        Limit(name=unit, project="default", scope="key", unit=unit, amount=1_000_000_000, window_seconds=seconds)
        for unit, seconds in units
    )
    budget = Budget(name="month", project="default", scope="project", amount=10**15)
    return Snapshot(
        FORMAT,
        1,
        0,
        {str(hash_token(KEY)): KeyEntry("key", "default", (), 0, (Permission.GATEWAY_CALL,))},
        {"default/mock": ProviderEntry("mock", "openai", upstream, "", allow_private=True)},
        {path: RouteEntry(MODEL, "default", 0, (TargetEntry("default/mock", MODEL, 1, PRICE),))},
        limits={"default": limits},
        budgets={"default": (budget,)},
    )


class LiteLlm(Peer):
    """LiteLLM's proxy, one worker, without a database."""

    name = "LiteLLM"
    on = "master key; production mode, httptools and uvloop, no database, so no budgets, limits or logs"

    def install(self, build: Path) -> str:
        """From PyPI, with the parser that its extra leaves out."""
        return python_environment(build, "litellm")

    def start(self, place: Place) -> Running:
        """By its own command."""
        port = free_port()
        config = place.folder / "litellm.yaml"
        config.write_text(
            json.dumps(  # JSON is YAML
                {
                    "model_list": [
                        {
                            "model_name": MODEL,
                            "litellm_params": {
                                "model": f"openai/{MODEL}",
                                "api_base": place.upstream,
                                "api_key": "none",
                            },
                        }
                    ],
                    "general_settings": {"master_key": f"sk-{KEY}"},
                    "litellm_settings": {"num_retries": 0, "request_timeout": 600, "set_verbose": False},
                }
            )
        )
        environment = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_TELEMETRY": "False",
            **({"SSL_CERT_FILE": str(place.certificate)} if place.certificate else {}),
        }
        command = [str(place.build / "litellm" / "bin" / "litellm"), "--config", str(config)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
        process = spawn(command, place.folder / "litellm.log", environment)
        return Running(process, f"http://127.0.0.1:{port}/v1/chat/completions", key=f"sk-{KEY}")


class Portkey(Peer):
    """Portkey's open-source gateway on Node."""

    name = "Portkey"
    on = "nothing: the open gateway has no keys, limits or logs of its own"

    def install(self, build: Path) -> str:
        """From npm, by the lock file beside this."""
        folder = build / "portkey"
        package = folder / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise Unusable("there is no node or npm on this machine")
        if not package.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / "portkey" / name, folder / name)
            carry_out(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        node = subprocess.check_output(["node", "--version"], text=True).strip()
        return f"{json.loads(package.read_text())['version']} (node {node.removeprefix('v')})"

    def start(self, place: Place) -> Running:
        """By its own script, without its console."""
        port = free_port()
        script = place.build / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
        environment = {
            "NODE_ENV": "production",
            "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost",
            **({"NODE_EXTRA_CA_CERTS": str(place.certificate)} if place.certificate else {}),
        }
        process = spawn(
            ["node", str(script), f"--port={port}", "--headless"], place.folder / "portkey.log", environment
        )
        return Running(
            process,
            f"http://127.0.0.1:{port}/v1/chat/completions",
            headers=["x-portkey-provider: openai", f"x-portkey-custom-host: {place.upstream}"],
        )


class TensorZero(Peer):
    """TensorZero's gateway in Rust, from its last wheel."""

    name = "TensorZero"
    on = "observability off; no keys, limits or budgets"

    def install(self, build: Path) -> str:
        """From PyPI."""
        return python_environment(build, "tensorzero")

    def start(self, place: Place) -> Running:
        """Within a Python process that does nothing else; it chooses its port."""
        config = place.folder / "tensorzero.toml"
        config.write_text(
            "[gateway]\nobservability.enabled = false\n\n"
            f'[models.{MODEL}]\nrouting = ["mock"]\n\n'
            f'[models.{MODEL}.providers.mock]\ntype = "openai"\nmodel_name = "{MODEL}"\n'
            f'api_base = "{place.upstream}/"\napi_key_location = "none"\n'
        )
        log = place.folder / "tensorzero.log"
        environment = {"SSL_CERT_FILE": str(place.certificate)} if place.certificate else {}
        command = [str(place.build / "tensorzero" / "bin" / "python"), str(HERE / "start_tensorzero.py"), str(config)]
        process = spawn(command, log, environment)
        base = first_line(process, log, "http://", 60)
        return Running(process, f"{base}/chat/completions", model=f"tensorzero::model_name::{MODEL}")


class Nginx(Peer):
    """nginx as a plain proxy: what any gateway pays at least."""

    name = "nginx"
    on = "`proxy_pass` with keep-alive, one worker: the floor, it reads no body"

    def install(self, _build: Path) -> str:
        """Debian's; installed only where that may be done."""
        program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if program is None and os.getuid() == 0 and shutil.which("apt-get"):
            with contextlib.suppress(Unusable):
                carry_out(["apt-get", "update", "-qq"], Path.cwd())
            environment = {"DEBIAN_FRONTEND": "noninteractive"}
            carry_out(["apt-get", "install", "-qq", "-y", "--no-install-recommends", "nginx"], Path.cwd(), environment)
            program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
        if program is None:
            raise Unusable("it is not on this machine and cannot be installed without being root")
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
        return said.strip().rpartition("/")[2]

    def start(self, place: Place) -> Running:
        """In the foreground, on a configuration of its own."""
        port = free_port()
        scheme, _, authority = place.upstream.removesuffix("/v1").partition("://")
        folder = place.folder / "nginx"
        folder.mkdir(exist_ok=True)
        paths = "".join(
            f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        tls = ""
        if place.certificate:
            tls = (
                f"proxy_ssl_trusted_certificate {place.certificate}; proxy_ssl_verify on; proxy_ssl_name localhost;"
                " proxy_ssl_server_name on; proxy_ssl_session_reuse on;"
            )
        config = folder / "nginx.conf"
        config.write_text(
            ("user root;\n" if os.getuid() == 0 else "")
            + f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
            "events { worker_connections 4096; }\n"
            f"http {{\n  access_log off;\n{paths}"
            "  keepalive_requests 1000000000;\n  client_body_buffer_size 1m;\n"
            f"  upstream mock {{ server {authority}; keepalive 256; keepalive_requests 1000000000; }}\n"
            f"  server {{\n    listen 127.0.0.1:{port};\n    location / {{\n"
            f"      proxy_pass {scheme}://mock; proxy_http_version 1.1; proxy_set_header Connection '';\n"
            f"      proxy_buffering off; {tls}\n    }}\n  }}\n}}\n"
        )
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        process = spawn([program, "-p", str(folder), "-c", str(config)], folder / "log", {})
        return Running(process, f"http://127.0.0.1:{port}/v1/chat/completions")


PEERS: dict[str, Peer] = {
    "detent": Detent(),
    "litellm": LiteLlm(),
    "portkey": Portkey(),
    "tensorzero": TensorZero(),
    "nginx": Nginx(),
}


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process in a group of its own that writes to a log."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DETENT_", "LITELLM_"))}
    if "detent.gateway" not in command:
        kept.pop("PYTHONPATH", None)
    with log.open("wb") as file:
        try:
            return subprocess.Popen(
                list(command), env={**kept, **environment}, stdout=file, stderr=file, start_new_session=True
            )
        except OSError as error:
            raise Unusable(f"{Path(command[0]).name} cannot be started: {error.strerror}") from error


def first_line(process: subprocess.Popen[bytes], log: Path, begins: str, seconds: float) -> str:
    """The first line of a log that begins so."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith(begins):
                return line.strip().rstrip("/")
        if process.poll() is not None:
            break
        time.sleep(0.01)
    raise Unusable(f"it did not start: {last_words(log)}")


def last_words(log: Path) -> str:
    """The end of a log, on one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-300:] or "it said nothing"


def carry_out(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a step of an installation."""
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unusable(f"`{' '.join(command[:3])}` failed: {error}") from error
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise Unusable(f"`{' '.join(command[:3])}` failed: {' / '.join(said[-2:])[-300:]}")


def python_environment(build: Path, name: str) -> str:
    """An environment with the versions that `NAME.txt` pins; the version of the package called so."""
    python = build / name / "bin" / "python"
    pins = (HERE / f"{name}.txt").read_text()
    stamp = build / name / "pins.txt"
    if not stamp.exists() or stamp.read_text() != pins:
        carry_out([sys.executable, "-m", "venv", "--clear", str(build / name)], HERE)
        carry_out([str(python), "-m", "pip", "install", "-q", "--no-deps", "-r", str(HERE / f"{name}.txt")], HERE)
        stamp.write_text(pins)
    asked = f"import importlib.metadata as m; print(m.version({name!r}))"
    return subprocess.check_output([str(python), "-c", asked], text=True).strip()
