"""What the processes say: one line per event on standard error, for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys

from detent.kernel.clock import iso
from detent.kernel.settings import Settings


class JsonLines(logging.Formatter):
    """One JSON object per event."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": iso(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False)


class TextLines(logging.Formatter):
    """One line for people: time, level where it matters, who, what. Line breaks in a message cannot forge an event."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        line = f"{iso(int(record.created * 1e9))} {level}{record.name.removeprefix('detent.')}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def set_up_log(settings: Settings) -> None:
    """Speak on standard error from now on; libraries only when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log.format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("detent").setLevel(settings.log.level.upper())
