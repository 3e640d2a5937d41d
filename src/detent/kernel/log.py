"""What the processes say: one line per event on standard error, for people or as JSON, with credentials masked."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Final

from detent.kernel.clock import iso
from detent.kernel.settings import LogSettings

_CREDENTIAL: Final = re.compile(
    r"\b(?:dt[a-z]_[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9_-]{16,}|(?i:bearer)\s+[A-Za-z0-9._~+/=-]{8,}|(?i:basic)\s+[A-Za-z0-9+/=]{16,})"
    r"|(?<=://)[^/\s:@]{0,256}:[^/\s@]{1,256}(?=@)"
)


def masked(text: str) -> str:
    """The text with everything that has a credential's form replaced by `***`: our tokens, providers' keys,
    `Authorization` values, and user and password in URLs."""
    return _CREDENTIAL.sub("***", text)


class JsonLines(logging.Formatter):
    """One JSON object per event."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": iso(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage()),
        }
        if record.exc_info:
            said["trace"] = masked(self.formatException(record.exc_info))
        return json.dumps(said, ensure_ascii=False)


class TextLines(logging.Formatter):
    """One line for people: time, level where it matters, who, what. Line breaks in a message cannot forge an event."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        message = masked(record.getMessage()).replace("\n", "\\n").replace("\r", "\\r")
        line = f"{iso(int(record.created * 1e9))} {level}{record.name.removeprefix('detent.')}: {message}"
        return f"{line}\n{masked(self.formatException(record.exc_info))}" if record.exc_info else line


def set_up_log(settings: LogSettings) -> None:
    """Speak on standard error from now on; libraries only when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("detent").setLevel(settings.level.upper())
    for chatty in ("uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
