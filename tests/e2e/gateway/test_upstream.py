"""The outbound client against real sockets: where it connects, whom it trusts, what it keeps."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from detent.gateway.errors import AddressRefused, BadAnswer, ConnectFailed, ConnectTimedOut
from detent.gateway.upstream import Client, Connection, Timeouts
from detent.guard.addresses import read_endpoint

pytestmark = pytest.mark.e2e

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
NEVER = float("inf")


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(work())


async def names_of(host: str, port: int) -> Sequence[str]:
    """A resolver for tests: everything is this machine."""
    del host, port
    return ("127.0.0.1",)


async def ask(client: Client, url: str, *, allow_private: bool = True) -> bytes:
    lane = client.lane(read_endpoint(url), allow_private=allow_private)
    connection = await lane.send(REQUEST, hold=False, total_deadline=NEVER)
    try:
        return await connection.read_all()
    finally:
        connection.release()


# Addresses


@pytest.mark.parametrize(
    ("answers", "refused"),
    [
        (["127.0.0.1"], True),
        (["8.8.8.8", "127.0.0.1"], True),  # one bad address condemns the name
        (["169.254.169.254"], True),
        (["::ffff:10.0.0.1"], True),
        (["64:ff9b::7f00:1"], True),
        (["168.63.129.16"], True),
        (["fe80::1%eth0"], True),
        ([], True),
    ],
)
def test_names_are_judged_by_every_address(answers: list[str], refused: bool) -> None:
    async def work() -> None:
        async def resolver(host: str, port: int) -> Sequence[str]:
            return answers

        client = Client(Timeouts(connect=0.5), resolver=resolver)
        with pytest.raises(AddressRefused):
            await ask(client, "http://provider.test/v1", allow_private=False)
        client.close()

    run(work)


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "168.63.129.16", "100.100.100.200", "224.0.0.1"])
def test_some_addresses_are_never_called(address: str) -> None:
    async def work() -> None:
        client = Client(Timeouts(connect=0.5))
        with pytest.raises(AddressRefused):
            await ask(client, f"http://{address}/v1", allow_private=True)

    run(work)


def test_the_name_is_resolved_once_and_the_judged_address_is_called(tools: ModuleType, upstream: Any) -> None:
    """A rebinding name server answers differently the second time; that answer is never asked for."""
    asked: list[str] = []

    async def work() -> None:
        async def resolver(host: str, port: int) -> Sequence[str]:
            asked.append(host)
            return ("127.0.0.1",) if len(asked) == 1 else ("169.254.169.254",)

        upstream.script((tools.answer(b'{"ok":1}'), tools.KEEP))
        client = Client(Timeouts(connect=0.5), resolver=resolver)
        url = f"http://rebinding.test:{upstream.port}/v1"
        for _ in range(3):
            assert await ask(client, url) == b'{"ok":1}'
        assert asked == ["rebinding.test"]
        assert upstream.connections == 1
        client.close()
        with pytest.raises(AddressRefused):  # a new connection is judged anew
            await ask(client, url)

    run(work)


def test_redirects_are_not_followed(tools: ModuleType, upstream: Any) -> None:
    async def work() -> None:
        upstream.script((tools.answer(b"", "302 Found", extra=f"location: {upstream.url}/away\r\n"), tools.KEEP))
        client = Client(Timeouts())
        lane = client.lane(read_endpoint(upstream.url), allow_private=True)
        connection = await lane.send(REQUEST, hold=False, total_deadline=NEVER)
        assert connection.status == 302
        connection.close()
        assert len(upstream.requests) == 1
        client.close()

    run(work)


def test_proxies_of_the_environment_are_not_used(
    tools: ModuleType, upstream: Any, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port}")

    async def work() -> None:
        upstream.script((tools.answer(b"{}"), tools.KEEP))
        client = Client(Timeouts())
        assert await ask(client, upstream.url) == b"{}"
        client.close()

    run(work)


def test_nobody_answers(free_port: int) -> None:
    async def work() -> None:
        async def stuck(host: str, port: int) -> Sequence[str]:
            await asyncio.sleep(60)
            raise AssertionError(host, port)

        async def unknown(host: str, port: int) -> Sequence[str]:
            raise OSError(-2, "Name or service not known")

        with pytest.raises(ConnectFailed, match="port"):
            await ask(Client(Timeouts()), f"http://127.0.0.1:{free_port}/v1")
        with pytest.raises(ConnectTimedOut):
            await ask(Client(Timeouts(connect=0.1), resolver=stuck), "http://slow.test/v1")
        with pytest.raises(ConnectFailed, match="resolve"):
            await ask(Client(Timeouts(), resolver=unknown), "http://unknown.test/v1")

    run(work)


# What is kept


def test_connections_are_kept_and_shared(tools: ModuleType, upstream: Any) -> None:
    async def work() -> None:
        upstream.script((0.05, tools.answer(b"{}"), tools.KEEP))
        client = Client(Timeouts())
        await asyncio.gather(*(ask(client, upstream.url) for _ in range(4)))
        await asyncio.gather(*(ask(client, upstream.url) for _ in range(4)))
        assert upstream.connections == 4
        client.close()

    run(work)


def test_what_a_provider_closes_or_says_unasked_is_not_kept(tools: ModuleType, upstream: Any) -> None:
    async def work() -> None:
        client = Client(Timeouts())
        lane = client.lane(read_endpoint(upstream.url), allow_private=True)
        closing = tools.answer(b"{}", extra="connection: close\r\n")
        for script in ((closing, tools.KEEP), (tools.answer(b"{}"), tools.HANG_UP)):
            upstream.script(script)
            assert await ask(client, upstream.url) == b"{}"
            await asyncio.sleep(0.05)
            assert lane.idle == []
        upstream.script((tools.answer(b"{}"), 0.05, tools.answer(b'{"smuggled":1}'), tools.KEEP))
        assert await ask(client, upstream.url) == b"{}"
        await asyncio.sleep(0.15)
        assert lane.idle == []
        upstream.script((tools.answer(b'{"fresh":1}'), tools.KEEP))
        assert await ask(client, upstream.url) == b'{"fresh":1}'
        client.close()

    run(work)


def test_two_answers_in_one_go_are_an_error_not_the_next_answer(tools: ModuleType, upstream: Any) -> None:
    async def work() -> None:
        client = Client(Timeouts())
        lane = client.lane(read_endpoint(upstream.url), allow_private=True)
        upstream.script((tools.answer(b"{}") + tools.answer(b'{"smuggled":1}'), tools.KEEP))
        with pytest.raises(BadAnswer, match="twice"):
            await ask(client, upstream.url)
        assert lane.idle == []
        client.close()

    run(work)


def test_old_idle_connections_are_closed(tools: ModuleType, upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from detent.gateway import upstream as module

    monkeypatch.setattr(module, "_KEPT_SECONDS", 0.2)

    async def work() -> None:
        upstream.script((tools.answer(b"{}"), tools.KEEP))
        client = Client(Timeouts())
        lane = client.lane(read_endpoint(upstream.url), allow_private=True)
        await ask(client, upstream.url)
        assert len(lane.idle) == 1
        await asyncio.sleep(2.2)
        assert lane.idle == []
        client.close()

    run(work)


def test_a_connection_shows_no_request_in_its_repr(tools: ModuleType, upstream: Any) -> None:
    async def work() -> None:
        upstream.script((tools.answer(b"{}"), tools.KEEP))
        client = Client(Timeouts())
        await ask(client, upstream.url)
        idle = client.lane(read_endpoint(upstream.url), allow_private=True).idle
        assert isinstance(idle[0], Connection)
        assert "content-length" not in repr(idle[0])
        client.close()

    run(work)


# TLS


class Authority:
    """A certificate authority of this test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self.file = folder / "ca.pem"
        own = self._certificate(self._name, self._key.public_key(), authority=True)
        self.file.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str, *, days: int = 1) -> ssl.SSLContext:
        """A server's context with a certificate for a name (or an address)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._certificate(subject, key.public_key(), name=name, days=days)
        path = self._folder / f"{name}-{days}.pem"
        plain = serialization.NoEncryption()
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _certificate(
        self, subject: x509.Name, key: Any, *, name: str = "", days: int = 1, authority: bool = False
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=5))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if name:
            try:
                kind: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
            except ValueError:
                kind = x509.DNSName(name)
            builder = builder.add_extension(x509.SubjectAlternativeName([kind]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secure(tools: ModuleType, authority: Authority) -> Iterator[Callable[..., Any]]:
    opened: list[Any] = []

    def begin(name: str, *, days: int = 1) -> Any:
        found = tools.Upstream(authority.server(name, days=days))
        found.script((tools.answer(b'{"safe":1}'), tools.KEEP))
        opened.append(found)
        return found

    yield begin
    for one in opened:
        one.close()


def trusting(authority: Authority) -> Client:
    return Client(
        Timeouts(connect=2), resolver=names_of, tls=lambda: ssl.create_default_context(cafile=str(authority.file))
    )


def test_tls_with_the_name_kept(secure: Callable[..., Any], authority: Authority) -> None:
    """The connection is made to an address, the certificate is checked for the name."""

    async def work() -> None:
        server = secure("api.provider.test")
        client = trusting(authority)
        assert await ask(client, f"https://api.provider.test:{server.port}/v1") == b'{"safe":1}'
        assert await ask(client, f"https://api.provider.test:{server.port}/v1") == b'{"safe":1}'
        assert server.connections == 1
        client.close()

    run(work)


def test_tls_to_an_address(secure: Callable[..., Any], authority: Authority) -> None:
    async def work() -> None:
        server = secure("127.0.0.1")
        client = trusting(authority)
        assert await ask(client, f"https://127.0.0.1:{server.port}/v1") == b'{"safe":1}'
        client.close()

    run(work)


@pytest.mark.parametrize("case", ["other name", "expired", "unknown authority", "no tls"])
def test_tls_that_cannot_be_trusted(
    case: str, secure: Callable[..., Any], authority: Authority, upstream: Any, tools: ModuleType
) -> None:
    async def work() -> None:
        client = trusting(authority)
        if case == "no tls":
            server = upstream
        else:
            server = secure("other.test" if case == "other name" else "api.test", days=-1 if case == "expired" else 1)
        if case == "unknown authority":
            client = Client(Timeouts(connect=2), resolver=names_of)
        with pytest.raises((ConnectFailed, ConnectTimedOut)):
            await ask(client, f"https://api.test:{server.port}/v1")
        assert server.requests == []
        client.close()

    if case == "no tls":
        upstream.script((tools.answer(b"{}"), tools.HANG_UP))
    run(work)


def test_a_worker_over_tls(
    start: Callable[..., Any], tools: ModuleType, secure: Callable[..., Any], authority: Authority
) -> None:
    server = secure("localhost")
    server.script((tools.answer(tools.completion("over TLS")), tools.KEEP), tools.GOOD_STREAM)
    worker = start(tools.snapshot({"m": [f"https://localhost:{server.port}/v1"]}), SSL_CERT_FILE=str(authority.file))
    worker.wait_ready()
    assert b"over TLS" in worker.chat().read()
    assert worker.chat({"stream": True}).read().endswith(b"data: [DONE]\n\n")
