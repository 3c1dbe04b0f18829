"""The note that a running stack leaves under its home, so that other commands find it; light to import."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RECORD = "serve.json"


def running_record(run: Path) -> dict[str, Any] | None:
    """The `serve.json` of a stack that lives; None when there is none."""
    try:
        found = json.loads((run / RECORD).read_text(encoding="utf-8"))
        os.kill(int(found["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None
