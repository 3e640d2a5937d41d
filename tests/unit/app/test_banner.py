"""What `detent up` prints."""

from __future__ import annotations

from detent.app.state import State
from detent.app.status import Part, Ready, version
from detent.app.supervisor import banner
from detent.kernel.settings import ControlSettings, Settings

STATE = State(
    pid=1,
    started=2,
    gateway_url="http://127.0.0.1:7400",
    console_url="http://127.0.0.1:7401",
    engine_url="http://127.0.0.1:7402",
)

FIRST = f"""\
Detent {version()} is up (ready in 2.0 s). Stop it with Ctrl-C.

  gateway   http://127.0.0.1:7400/v1   what applications call (OpenAI's dialect)
  console   http://127.0.0.1:7401      pages, API (/api/v1), OTLP (/v1/traces)
  data      /data                      SQLite ledger, 1 facts; lake, 0 spans
  security  The gateway listens on 127.0.0.1 (loopback only).
            No admin has a password yet.

  sign in   http://127.0.0.1:7401/login?token=dtl_x
            (once, within the hour; then set a password)

First call, in another terminal:

  KEY=$(detent keys create --name first)
  curl http://127.0.0.1:7400/v1/chat/completions -H "Authorization: Bearer $KEY" \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "detent-tiny", "messages": [{{"role": "user", "content": "Where is my order 1234?"}}]}}'
"""


def test_the_first_time() -> None:
    ready = Ready(
        sign_in="http://127.0.0.1:7401/login?token=dtl_x",
        storage="SQLite ledger, 1 facts; lake, 0 spans",
        security=("The gateway listens on 127.0.0.1 (loopback only).", "No admin has a password yet."),
    )
    assert banner(Settings(home="/data"), STATE, ready, [], seconds=2.04, command="detent") == FIRST


def test_later_behind_a_proxy_with_a_part_missing() -> None:
    settings = Settings(home="/data", control=ControlSettings(public_url="https://detent.example.org"))
    missing = [Part(name="engine-detent-tiny", kind="engine", state="restarting", detail="It left with status 1.")]
    lines = banner(settings, STATE, Ready(), missing, seconds=15, command="detent --home /data").splitlines()
    assert lines[2:7] == [
        "  gateway   http://127.0.0.1:7400/v1     what applications call (OpenAI's dialect)",
        "  console   https://detent.example.org   pages, API (/api/v1), OTLP (/v1/traces)",
        "  data      /data",
        "  waiting   engine-detent-tiny is restarting. It left with status 1.",
        "",
    ]
    assert "  KEY=$(detent --home /data keys create --name first)" in lines
    assert not any("sign in" in line for line in lines)
