"""Files of JSON lines as they grow: whole lines alone are read, and a text may hold any line end that JSON leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file's lines; [] where there is none. A last line that is cut short, as by a kill, is left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text("utf-8").rpartition("\n")
    # splitlines would also cut at U+2028 and others, which JSON leaves as they are inside a text.
    return [json.loads(line) for line in whole.split("\n") if line]
