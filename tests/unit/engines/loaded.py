"""Loads XTuner configs as XTuner does, in a process of its own, and prints their values with types as dotted names."""

import json
import sys
from pathlib import Path

from tunemake.cures import install_cures

install_cures()

from mmengine.config import Config  # noqa: E402 - the cures come first


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else f"<{value}>"


for file in sorted(Path(sys.argv[1]).glob("*.py")):
    sys.stdout.write(json.dumps([file.stem, plain(Config.fromfile(file).to_dict())], ensure_ascii=False) + "\n")
