"""The command line: `detent <noun> <verb>`; stdout is data, stderr is talk.

This package imports click and the kernel's errors only. A noun's module is imported when the noun is used, and the
platform is opened when a verb needs it.
"""

from __future__ import annotations

from detent.cli.root import main

__all__ = ["main"]
