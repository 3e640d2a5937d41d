"""What a call through the gateway costs: CPU, added latency, memory, time to ready.

    python benchmarks/gateway.py [--seconds N]

prints JSON. One worker with everything on (key, route, price, metrics, a span with its content spooled), 64-token
answers, keep-alive on both sides, a mock provider on loopback. CPU is user and system time of the worker's process tree
over the requests it served, so other work on the machine matters little. Added latency is the difference between the
same load through the gateway (200 requests/s, provider 50 ms; streams with 5 ms between events) and past it, taken in
turn, the best of five rounds each; it means something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from detent.gateway.keys import hash_token
from detent.gateway.snapshot import FORMAT, KeyEntry, ProviderEntry, RouteEntry, Snapshot, TargetEntry, publish
from detent.kernel.identity import Permission
from detent.kernel.money import Price

HERE = Path(__file__).resolve().parent
KEY = "dtk_" + "b" * 43
MODEL = "mock-model"
TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def provider(*options: str) -> Iterator[int]:
    """A mock provider; its port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "mock_provider.py"), *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def one_route(url: str) -> Snapshot:
    """A configuration whose only route leads to a provider."""
    key = KeyEntry("key", "default", (), 0, (Permission.GATEWAY_CALL,))
    route = RouteEntry(MODEL, "default", 0, (TargetEntry("default/mock", MODEL, 1, Price(150_000, 600_000)),))
    entry = ProviderEntry("mock", "openai", url, "", allow_private=True)
    return Snapshot(FORMAT, 1, 0, {str(hash_token(KEY)): key}, {"default/mock": entry}, {f"default/{MODEL}": route})


class Gateway:
    """One worker with a configuration."""

    def __init__(self, home: Path, snapshot: Snapshot, **environment: str) -> None:
        publish(snapshot, home / "snapshot")
        self._log = (home / "log").open("w+")
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "detent.gateway", "--home", str(home)],
            env={**os.environ, "DETENT_GATEWAY_PORT": "0", **environment},
            stderr=self._log,
        )
        self.port = self._port(home / "log")
        while not self._ready():
            time.sleep(0.005)
        self.ready_seconds = round(time.perf_counter() - begin, 2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"

    def cpu(self) -> float:
        """CPU seconds used so far, children included."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / TICKS

    def megabytes(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGESIZE") / 1_000_000, 1)

    def stop(self) -> None:
        """Drain and leave."""
        self.process.terminate()
        self.process.wait()
        self._log.close()

    def _port(self, log: Path) -> int:
        while True:
            for line in log.read_text().splitlines():
                if "listens on" in line:
                    return int(line.rpartition(":")[2])
            if self.process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.005)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@contextlib.contextmanager
def gateway(url: str, **environment: str) -> Iterator[Gateway]:
    """A worker on a data folder of its own."""
    with tempfile.TemporaryDirectory(prefix="detent-bench-") as folder:
        found = Gateway(Path(folder), one_route(url), **environment)
        try:
            yield found
        finally:
            found.stop()


def load(url: str, seconds: float, *options: str) -> dict[str, Any]:
    """Run the load generator; what it found. Anything but good answers spoils the run."""
    command = [sys.executable, str(HERE / "load.py"), "--url", url, "--key", KEY, "--seconds", str(seconds), *options]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    if set(found["statuses"]) != {"200"} or found["errors"] or found["unfinished"]:
        raise SystemExit(f"not every call was answered: {found}")
    return found


def cost(target: Gateway, seconds: float, *options: str) -> float:
    """CPU milliseconds per request, the best of three rounds."""
    load(target.url, 1, *options)
    best = float("inf")
    for _ in range(3):
        before = target.cpu()
        requests = load(target.url, seconds, *options)["requests"]
        best = min(best, (target.cpu() - before) * 1000 / requests)
    return round(best, 3)


def added(target: Gateway, port: int, seconds: float, what: str, *options: str) -> dict[str, float]:
    """Milliseconds that the gateway adds at p50 and p99: the best rounds through it and past it, in turn."""
    through: list[dict[str, float]] = []
    straight: list[dict[str, float]] = []
    load(target.url, 1, *options)
    for _ in range(5):
        straight.append(load(f"http://127.0.0.1:{port}/v1/chat/completions", seconds, *options)[what])
        through.append(load(target.url, seconds, *options)[what])
    return {p: round(min(t[p] for t in through) - min(s[p] for s in straight), 3) for p in ("p50", "p99")}


class Certificates(NamedTuple):
    """An authority, and localhost's certificate that it signed, with its key in the same file."""

    authority: Path
    localhost: Path


def certificates(folder: Path) -> Certificates:
    """Make both. The authority is one of its own because some clients refuse one that is a server too."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("mock authority", "localhost")]
    now = dt.datetime.now(dt.UTC)
    made = []
    for key, name, authority in zip(keys, names, (True, False), strict=True):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), critical=False)
            .add_extension(_usage(authority=authority), critical=True)
        )
        if not authority:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        made.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    found = Certificates(folder / "authority.pem", folder / "localhost.pem")
    found.authority.write_bytes(made[0])
    plain = serialization.NoEncryption()
    secret = keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    found.localhost.write_bytes(secret + made[1])
    return found


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def main() -> None:
    """Measure everything, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="length of one round")
    seconds = parser.parse_args().seconds
    found: dict[str, Any] = {"cpu_ms": {}, "added_ms": {}}

    with provider() as port, gateway(f"http://127.0.0.1:{port}/v1") as target:
        found["ready_seconds"] = target.ready_seconds
        found["megabytes_idle"] = target.megabytes()
        found["cpu_ms"]["whole"] = cost(target, seconds)
        found["cpu_ms"]["burst"] = cost(target, seconds, "--stream")
        found["megabytes_after_load"] = target.megabytes()

    with provider("--latency", "5", "--gap", "5") as port, gateway(f"http://127.0.0.1:{port}/v1") as target:
        found["cpu_ms"]["paced"] = cost(target, seconds * 2, "--stream", "--connections", "64")
        found["added_ms"]["first_token"] = added(target, port, seconds, "first_ms", "--stream", "--rate", "10")

    with provider("--latency", "50") as port, gateway(f"http://127.0.0.1:{port}/v1") as target:
        found["added_ms"]["total"] = added(target, port, seconds, "total_ms", "--rate", "200")

    with tempfile.TemporaryDirectory() as folder:
        made = certificates(Path(folder))
        with (
            provider("--certificate", str(made.localhost)) as port,
            gateway(f"https://localhost:{port}/v1", SSL_CERT_FILE=str(made.authority)) as target,
        ):
            found["cpu_ms"]["whole_tls"] = cost(target, seconds)
            found["cpu_ms"]["burst_tls"] = cost(target, seconds, "--stream")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
