"""`python -m detent.serving.engines.tiny --port P [--fd F]`: the engine process."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

# One thread: more of them only make products of this size slower. Read by the libraries when numpy is first imported.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model, bind or take over the socket, and serve."""
    parser = argparse.ArgumentParser(prog="python -m detent.serving.engines.tiny", description="Serve detent-tiny.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7402, help="TCP port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--fd", type=int, help="take over this listening socket instead of binding one")
    parser.add_argument("--model", type=Path, help="another model folder (default: the one that ships)")
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=FOLDER", help="serve a LoRA adapter as NAME"
    )
    parser.add_argument("--pace", type=float, default=0.0, metavar="MS", help="least milliseconds between two tokens")
    parser.add_argument(
        "--drain", type=float, default=30.0, metavar="S", help="seconds for answers in flight on a stop"
    )
    options = parser.parse_args(arguments)

    from detent.kernel.errors import DetentError
    from detent.kernel.log import set_up_log
    from detent.kernel.settings import load_settings
    from detent.serving.engines.tiny.runtime import DATA
    from detent.serving.engines.tiny.server import Limits, load, serve

    try:
        set_up_log(load_settings(os.environ).log)
        adapters = dict(_pair(text) for text in options.adapter)
        engine = load(options.model or DATA, adapters, limits=Limits(pace=options.pace / 1000))
        listener = _listen(options.host, options.port, options.fd)
    except (DetentError, OSError) as error:
        sys.stderr.write(f"detent-tiny cannot start: {error}\n")
        return 1
    serve(engine, listener, drain=options.drain)
    return 0


def _pair(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise SystemExit(f"--adapter wants NAME=FOLDER, not {text!r}")
    return name, Path(folder)


def _listen(host: str, port: int, fd: int | None) -> socket.socket:
    if fd is not None:
        return socket.socket(fileno=fd)
    listener = socket.create_server((host, port), backlog=1024)
    listener.set_inheritable(False)
    return listener


if __name__ == "__main__":
    sys.exit(main())
