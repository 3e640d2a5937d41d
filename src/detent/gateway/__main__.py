"""`python -m detent.gateway`."""

from __future__ import annotations

import sys

from detent.gateway.worker import main

if __name__ == "__main__":
    sys.exit(main())
