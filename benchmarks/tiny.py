"""What detent-tiny costs: time to load, per prompt and per token, per answer through HTTP, and memory.

    python benchmarks/tiny.py [--count N]

prints JSON. CPU times are those of one process on one thread; the messages are held-out ones of the model's domain.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = "1"
TICKS = os.sysconf("SC_CLK_TCK")


def in_process(count: int) -> dict[str, Any]:
    """Load once, then answer greedily, one after another."""
    began = time.process_time()
    importlib.import_module("numpy")
    imported = time.process_time()
    from detent.serving.engines.tiny.domain import examples
    from detent.serving.engines.tiny.generation import Tiny
    from detent.serving.engines.tiny.measure import conversation, measure

    began, imported = time.process_time(), imported - began
    model = Tiny.load()
    loaded = time.process_time() - began
    asked = [conversation(example) for example in examples(77, count, "values")]
    for messages in asked[:20]:
        model.answer(messages)
    wall, cpu, prompt, tokens = [], [], [], 0
    for messages in asked:
        began, used = time.perf_counter(), time.process_time()
        made = model.begin(messages)
        pieces = iter(made)
        next(pieces)
        first = time.process_time()
        for _ in pieces:
            pass
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((time.process_time() - used) * 1000)
        prompt.append((first - used) * 1000)
        tokens += made.completion_tokens
    spent = sum(cpu) - sum(prompt)
    return {
        "answers": count,
        "numpy_import_cpu_ms": round(imported * 1000, 1),
        "load_cpu_ms": round(loaded * 1000, 1),
        "answer_cpu_ms": {
            "p50": _rounded(cpu, 0.5),
            "p95": _rounded(cpu, 0.95),
            "mean": round(statistics.mean(cpu), 2),
        },
        "answer_wall_ms": {"p50": _rounded(wall, 0.5), "p95": _rounded(wall, 0.95)},
        "prompt_cpu_ms": {"p50": _rounded(prompt, 0.5)},
        "tokens_per_answer": round(tokens / count, 1),
        "tokens_per_cpu_second": round(tokens / spent * 1000),
        "exact_match": measure(model, "values", count=count).exact,
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
    }


def through_http(count: int) -> dict[str, Any]:
    """The engine process: ready, then calls on one kept connection, whole and streamed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        began = time.perf_counter()
        command = [sys.executable, "-m", "detent.serving.engines.tiny", "--port", str(port), "--fd", str(fd)]
        process = subprocess.Popen(command, pass_fds=(fd,), stderr=subprocess.DEVNULL, cwd=ROOT)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        found: dict[str, Any] = {"ready_seconds": round(time.perf_counter() - began, 3)}
        for name, stream in (("whole", False), ("streamed", True)):
            used = _cpu(process.pid)
            walls = [_call(connection, number, stream=stream) for number in range(count)]
            spent = (_cpu(process.pid) - used) / count
            found[name] = {"wall_ms_p50": _rounded(walls, 0.5), "cpu_ms": round(spent * 1000, 2)}
        found["megabytes"] = round(_resident(process.pid), 1)
    finally:
        connection.close()
        process.terminate()
        process.wait(timeout=20)
    return found


def _call(connection: http.client.HTTPConnection, number: int, *, stream: bool) -> float:
    message = f"My kettle arrived broken. Order {48000 + number}. I live in Leeds. Please hurry."
    body = {"model": "detent-tiny", "messages": [{"role": "user", "content": message}], "stream": stream}
    began = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise SystemExit(f"the engine answered {answer.status}")
    return (time.perf_counter() - began) * 1000


def _rounded(values: Sequence[float], share: float) -> float:
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 2)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _resident(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=300, help="answers of each kind")
    options = parser.parse_args()
    found = {"in_process": in_process(options.count), "http": through_http(options.count)}
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
