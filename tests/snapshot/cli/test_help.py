"""What people read: the help of every command, and results as text. Change them on purpose or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import pytest
from syrupy.assertion import SnapshotAssertion

from detent.app import platform as app
from detent.cli.root import NOUNS, root, run
from detent.gateway.batches.facts import BatchEnded, BatchStarted
from detent.kernel.clock import SECOND, FixedClock
from detent.kernel.facts import Draft
from detent.kernel.ids import CountedIds
from detent.kernel.settings import Settings
from detent.kernel.telemetry import Batch, Span

_TOKEN = re.compile(r"dtk_[\w-]+")
_OPERATOR = re.compile(r"operator:\d+ *")
Detent = Callable[[str], str]


def pages() -> list[str]:
    found = [""]
    context = click.Context(root)
    for noun, (_where, about) in NOUNS.items():
        command = root.get_command(context, noun)
        if about:
            found.append(noun)
            found += [f"{noun} {verb}" for verb in getattr(command, "commands", ())]
    return found


@pytest.fixture
def detent(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, clock: FixedClock, ids: CountedIds
) -> Detent:
    """Run a command; everything it said, with the exit code."""
    monkeypatch.setattr(app, "open_platform", partial(app.open_platform, clock=clock, ids=ids))
    monkeypatch.setenv("COLUMNS", "100")

    def call(line: str) -> str:
        clock.advance(SECOND)
        code = run(line.split())
        said = capsys.readouterr()
        shown = f"$ detent {line}\n{said.out}"
        shown += "".join(f"! {row}\n" for row in said.err.splitlines()) + f"= {code}\n"
        shown = _OPERATOR.sub("operator:<uid>", shown.replace(str(home), "HOME"))
        return _TOKEN.sub("dtk_***", shown)

    return call


def test_help(detent: Detent, snapshot: SnapshotAssertion) -> None:
    assert "\n".join(detent(f"{page} --help".strip()) for page in pages()) == snapshot


def test_a_first_session(detent: Detent, home: Path, clock: FixedClock, snapshot: SnapshotAssertion) -> None:
    lines = [
        "keys list",
        "providers list",
        "providers add acme --url https://api.acme.example/v1",
        "routes add support --to acme/large --to embedded/detent-tiny=2",
        "routes list",
        "models price acme/large --input 0.5 --output 1.25",
        "models list",
        "keys create --name bot",
        "traces list",
        "jobs list",
        "users list",
        "audit checkpoint",
        "audit verify",
        "blobs fsck",
    ]
    said = "\n".join(detent(line) for line in lines)
    assert re.sub(r"\b[0-9a-f]{64}\b|\b[0-9a-f]{16}\b", "<hex>", said) == snapshot


def test_traces_as_text(detent: Detent, home: Path, clock: FixedClock, snapshot: SnapshotAssertion) -> None:
    with app.open_platform(Settings(home=str(home)), clock=clock) as platform:
        start, trace = clock.now(), "a" * 32
        root_span = Span(
            trace_id=trace, span_id="b" * 16, name="chat support", operation="chat", start=start,
            end=start + 2 * SECOND, provider="acme", request_model="large", route="support", key_id="k1",
            input_tokens=1200, output_tokens=34,
            cost=80_000, ttft=SECOND // 4, stream=True, finish_reason="stop",
            input='[{"role":"user","content":"Where is my parcel?"}]',
            output='{"role":"assistant","content":"On its way."}',
        )  # fmt: skip
        tool = Span(
            trace_id=trace, span_id="c" * 16, parent_id="b" * 16, name="look up", operation="execute_tool",
            start=start + SECOND // 2, end=start + SECOND, status="error", error_type="KeyError",
        )  # fmt: skip
        later = start + SECOND
        other = Span(trace_id="d" * 32, span_id="e" * 16, name="rerank", start=later, end=later + 999_000)
        platform.traces.write(platform.access.operator(), Batch((root_span, tool, other)))
    rate = f"traces rate {trace} --down --comment late"
    lines = ["traces list", "traces search parcel", rate, f"traces show {trace}"]
    assert "\n".join(detent(line) for line in lines) == snapshot


def test_json_as_programs_read_it(detent: Detent, snapshot: SnapshotAssertion) -> None:
    lines = [
        "keys create --name bot --json",
        "keys list --json",
        "providers add acme --url https://api.acme.example/v1 --json",
        "routes add support --to acme/large --json",
        "routes list --json",
        "models price acme/large --input 0.5 --output 1.25 --json",
        "models list --json",
        "jobs start blobs.fsck --id mine --json",
        "routes remove ghost --json",
    ]
    said = "\n".join(detent(line) for line in lines)
    said = re.sub(r'"(created|updated)":"2[^"]*"', r'"\1":"<time>"', said)
    assert re.sub(r'"hint":"dtk_[^"]*"', '"hint":"<hint>"', said) == snapshot


def test_rules_as_text(detent: Detent, snapshot: SnapshotAssertion) -> None:
    rules = (
        "--policy weighted --fallback backup:timeout --retries 2 --sticky session --hedge 0.95 "
        "--timeout-first-token 20s --cache exact --shadow backup=0.1 --shadow-usd 5 --priority interactive"
    )
    lines = [
        "limits list",
        "budgets list",
        "weights list",
        "providers add claude --dialect anthropic --max-concurrency 20",
        "routes add backup --to claude/small",
        f"routes add support --to claude/large=3 --to embedded/detent-tiny {rules}",
        "routes show support",
        "routes list",
        "routes remove backup",
        "routes add backup --to claude/small --fallback support --replace",
        "limits add per-user --scope user --requests 60",
        "limits add bulk --scope route --subject support --tokens 100000 --per 1h",
        "limits add calls --concurrency 8",
        "limits list",
        "budgets add team --usd 100 --per month --alert 50 --alert 80",
        "budgets add model --usd 2.50 --per day --scope model --subject claude/large --soft",
        "budgets list",
        "weights set default 3",
        "limits remove calls",
    ]
    assert "\n".join(detent(line) for line in lines) == snapshot


def test_batches_as_text(detent: Detent, home: Path, clock: FixedClock, snapshot: SnapshotAssertion) -> None:
    file = home / "calls.jsonl"
    calls = [
        {"custom_id": f"c{n}", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m"}}
        for n in range(3)
    ]
    file.write_text("\n".join(json.dumps(call) for call in calls))

    def names(said: str) -> dict[str, str]:
        return dict.fromkeys(re.findall(r"\b(?:file-|batch_)[\w-]+", said), "")

    said = [detent("files list"), detent("batches list"), detent(f"files upload {file} --name calls.jsonl")]
    (stored,) = set(names(said[-1]))
    said += [detent("files list"), detent(f"batches submit {stored} --metadata team=search --window 2d")]
    batch = next(name for name in names(said[-1]) if name.startswith("batch_"))
    said += [detent("batches list"), detent(f"batches show {batch}"), detent(f"files remove {stored}")]
    started = BatchStarted(total=3)
    ended = BatchEnded(status="completed", completed=2, failed=1, output_file="file-out", error_file="file-err")
    with app.open_platform(Settings(home=str(home)), clock=clock) as platform:
        caller = platform.access.operator()
        for body in (started, ended):
            platform.ledger.append([Draft(f"batch/{batch}", body)], actor=caller.actor, project=caller.project)
            clock.advance(SECOND)
    lines = [f"batches show {batch} --wait", f"batches cancel {batch}", f"files remove {stored}", "blobs fsck"]
    said += [detent(line) for line in lines]
    shown = "\n".join(said)
    for number, name in enumerate(n for n in names(shown) if n not in {"file-out", "file-err"}):
        shown = shown.replace(name, name[: 6 if name.startswith("batch") else 5] + str(number))
    assert shown == snapshot


def test_a_plan_as_text(detent: Detent, home: Path, clock: FixedClock, snapshot: SnapshotAssertion) -> None:
    file = home / "gateway.toml"
    for line in (
        "providers add acme --url https://api.acme.example/v1",
        "routes add support --to acme/large --retries 1",
        "routes add old --to acme/large",
        "models price acme/large --input 10 --output 20",
        "models price acme/small --input 1 --output 2",
        "keys create --name bot --route support --route old",
    ):
        detent(line)
    with app.open_platform(Settings(home=str(home)), clock=clock) as platform:
        caller = platform.access.operator()
        key = platform.gateway.keys(caller)[0].id
        calls = [
            Span(
                trace_id=f"{n + 1:032x}", span_id=f"{n * 997 + 1:08x}00000000", name="chat", operation="chat",
                start=clock.now() + n * SECOND, end=clock.now() + (n + 1) * SECOND, provider="acme",
                request_model="large", route="old" if n == 5 else "support", key_id=key, input_tokens=1000,
                output_tokens=100, cost=12_000_000,
            )
            for n in range(6)
        ]  # fmt: skip
        platform.traces.write(caller, Batch(tuple(calls)))
    clock.advance(60 * SECOND)
    file.write_text(
        """
        [providers.acme]
        url = "https://api.acme.example/v1"
        [routes.support]
        targets = ["acme/large", "acme/small=3"]
        policy = "weighted"
        [limits.calm]
        scope = "key"
        unit = "requests"
        amount = 4
        [budgets.team]
        scope = "project"
        usd = "0.02"
        hard = false
        """
    )
    lines = [
        f"routes plan {file} --since 2026-01-01",
        f"routes apply {file} --yes --reason cheaper",
        f"routes plan {file}",
        "routes export",
    ]
    said = "\n".join(detent(line) for line in lines)
    assert re.sub(r"sha256:[0-9a-f]{64}", "sha256:<digest>", said) == snapshot


def test_an_import_as_text(detent: Detent, home: Path, snapshot: SnapshotAssertion) -> None:
    file = home / "config.yaml"
    file.write_text(
        """
model_list:
  - model_name: GPT 4o
    litellm_params: {model: openai/gpt-4o, api_key: sk-in-the-file, rpm: 60, temperature: 0.2}
  - model_name: llama
    litellm_params: {model: ollama/llama3.1, api_base: "http://localhost:11434"}
  - model_name: anthropic/*
    litellm_params: {model: anthropic/*}
router_settings: {num_retries: 2, fallbacks: [{"GPT 4o": [llama]}]}
litellm_settings: {success_callback: [langfuse]}
general_settings: {master_key: sk-master}
"""
    )
    lines = [
        f"import litellm {file}",
        f"import litellm {file} --dry-run",
        f"import litellm {file} --apply --yes",
        f"import litellm {file} --apply --yes",
    ]
    said = "\n".join(detent(line) for line in lines)
    assert "sk-" not in said
    assert re.sub(r"sha256:[0-9a-f]{64}", "sha256:<digest>", said) == snapshot
