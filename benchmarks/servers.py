"""The gateway's server and its client against what else there is, by CPU a request.

    python benchmarks/servers.py [--seconds 4] [--rounds 5] [--quick]

`server`: one worker with everything on, served by uvicorn with our protocol (as shipped) and by granian, in turn.
`client`: in a process of its own each, our client, aiohttp and httpx ask the mock provider for answers in one piece and
for streams at once, 16 at a time, and read them to their end; nothing else is done with them. The others are installed
into build/peers/servers only. Prints JSON, and keeps it in benchmarks/servers.json (`--quick`: in build/bench/).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import report
from detent.gateway.snapshot import publish
from gateway_peers import BUILD, CASES, TRIAL, Provider, Subject, bad, good_answer, load, say
from load import PROMPT
from peers.subjects import HERE as PINS
from peers.subjects import KEY, SPOOL, Running, carry_out, everything_on, spawn
from processes import free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FOLDER = BUILD / "servers"
CONCURRENT = 16
CLIENTS = ("detent", "aiohttp", "httpx")


def install() -> dict[str, str]:
    """What is compared with; their versions."""
    pins = (PINS / "servers.txt").read_text()
    stamp = FOLDER / "pins.txt"
    if not stamp.exists() or stamp.read_text() != pins:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--upgrade", "--target", str(FOLDER), "--no-deps"]
        carry_out([*pip, "-r", str(PINS / "servers.txt")], ROOT)
        stamp.write_text(pins)
    named = dict(line.split("==") for line in pins.split())
    return {name: named[name] for name in ("granian", "aiohttp", "httpx")} | {
        name: importlib.metadata.version(name) for name in ("uvicorn", "httptools")
    }


def search_path() -> dict[str, str]:
    """Our own packages first, then those that are compared with."""
    return {"PYTHONPATH": f"{ROOT / 'src'}:{FOLDER}"}


def serve(kind: str, home: Path, upstream: str) -> Running:
    """A worker behind one server or the other."""
    publish(everything_on(upstream), home / "snapshot")
    port = free_port()
    program = ["-m", "detent.gateway"] if kind == "uvicorn" else [str(PINS / "start_granian.py")]
    environment = {"DETENT_HOME": str(home), "DETENT_GATEWAY_PORT": str(port), **SPOOL, **search_path()}
    running = Running(
        spawn([sys.executable, *program], home / "log", environment), f"http://127.0.0.1:{port}/v1/chat/completions"
    )
    deadline = time.monotonic() + 30
    while not good_answer(Subject(running.url, KEY)):
        if running.process.poll() is not None or time.monotonic() > deadline:
            running.stop()
            raise SystemExit(f"{kind} gave no right answer: {(home / 'log').read_text()[-500:]}")
        time.sleep(0.05)
    return running


def servers(seconds: float, rounds: int) -> dict[str, Any]:
    """CPU milliseconds a request behind each server."""
    provider = Provider()
    found: dict[str, dict[str, list[float]]] = {}
    wrong: dict[str, int] = {"uvicorn": 0, "granian": 0}
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        try:
            for kind in wrong:
                home = Path(folder) / kind
                home.mkdir()
                running[kind] = serve(kind, home, f"http://127.0.0.1:{provider.port}/v1")
            for case, what in CASES.items():
                provider.tell(**what.upstream)
                found[case] = {kind: [] for kind in running}
                for number in range(rounds + 1):  # the first one warms up
                    for kind, one in running.items():
                        say(f"{case} {number}/{rounds} {kind}")
                        before = one.cpu()
                        got = load(Subject(one.url, KEY), seconds * what.longer, *what.options)
                        wrong[kind] += bad(got)
                        if number:
                            found[case][kind].append((one.cpu() - before) * 1000 / max(got["requests"], 1))
        finally:
            for one in running.values():
                one.stop()
            provider.stop()
    return {"cpu_ms": {case: summary(values) for case, values in found.items()}, "wrong": wrong}


def clients(seconds: float, rounds: int) -> dict[str, Any]:
    """CPU microseconds a request in each client."""
    provider = Provider()
    found: dict[str, dict[str, list[float]]] = {c: {n: [] for n in CLIENTS} for c in ("whole", "burst")}
    try:
        for number in range(rounds):
            for case, values in found.items():
                for name in CLIENTS:
                    say(f"{case} {number + 1}/{rounds} {name}")
                    command = [sys.executable, str(HERE / "servers.py"), "--ask", name, "--case", case]
                    command += ["--port", str(provider.port), "--seconds", str(seconds)]
                    told = subprocess.check_output(command, text=True, env=search_path() | {"PATH": "/usr/bin:/bin"})
                    values[name].append(json.loads(told)["cpu_us"])
    finally:
        provider.stop()
    return {"cpu_us": {case: summary(values) for case, values in found.items()}}


def summary(values: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Best and median of each."""
    return {
        name: {"best": round(min(some), 4), "median": round(statistics.median(some), 4)}
        for name, some in values.items()
    }


# Within a client's process

Ask = Callable[[], Awaitable[bytes]]


async def ask_for(name: str, case: str, port: int, seconds: float) -> float:
    """CPU microseconds of this process a request."""
    body: dict[str, Any] = {"model": "mock-model", "messages": [{"role": "user", "content": PROMPT}]}
    if case == "burst":
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body).encode()
    ask, close = await {"detent": with_ours, "aiohttp": with_aiohttp, "httpx": with_httpx}[name](port, data)
    count = 0

    async def loop(until: float) -> None:
        nonlocal count
        while time.monotonic() < until:
            answer = await ask()
            assert answer.count(b"tok ") + answer.count(b'tok"') == 64, answer[:200]
            count += 1

    await asyncio.gather(*(loop(time.monotonic() + seconds / 4) for _ in range(CONCURRENT)))
    count, before = 0, time.process_time()
    await asyncio.gather(*(loop(time.monotonic() + seconds) for _ in range(CONCURRENT)))
    used = time.process_time() - before
    await close()
    return round(used * 1_000_000 / count, 1)


async def with_ours(port: int, data: bytes) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    """`detent.gateway.upstream`."""
    from detent.gateway.upstream import Client, Timeouts
    from detent.guard.addresses import read_endpoint

    client = Client(Timeouts())
    lane = client.lane(read_endpoint(f"http://127.0.0.1:{port}/v1"), allow_private=True)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    payload = f"{head}content-length: {len(data)}\r\n\r\n".encode() + data

    async def ask() -> bytes:
        connection = await lane.send(payload, hold=False, total_deadline=float("inf"))
        pieces = []
        while piece := await connection.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def close() -> None:
        client.close()

    return ask, close


async def with_aiohttp(port: int, data: bytes) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    """aiohttp, read as it comes."""
    import aiohttp  # type: ignore[import-not-found]

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    headers = {"content-type": "application/json"}

    async def ask() -> bytes:
        async with session.post(url, data=data, headers=headers) as response:
            return b"".join([piece async for piece in response.content.iter_any()])

    return ask, session.close


async def with_httpx(port: int, data: bytes) -> tuple[Ask, Callable[[], Awaitable[None]]]:
    """httpx, read as it comes."""
    import httpx  # type: ignore[import-not-found]  # noqa: TID251  (what we are measured against)

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None, max_keepalive_connections=None))
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    headers = {"content-type": "application/json"}

    async def ask() -> bytes:
        async with client.stream("POST", url, content=data, headers=headers) as response:
            return b"".join([piece async for piece in response.aiter_raw()])

    return ask, client.aclose


def main() -> int:
    """Measure, keep, print; or be a client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ask", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        import uvloop

        print(json.dumps({"cpu_us": uvloop.run(ask_for(given.ask, given.case, given.port, given.seconds))}))
        return 0
    seconds, rounds = (1.0, 1) if given.quick else (given.seconds, given.rounds)
    found = {
        "versions": install(),
        "server": servers(seconds, rounds),
        "client": clients(seconds, rounds),
        "machine": report.machine(),
    }
    path = (TRIAL if given.quick else HERE) / "servers.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
