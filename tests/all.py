"""Runs all that must hold: style, types, tests. Stops at the first that does not."""

from __future__ import annotations

import subprocess
import sys

STEPS = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy",),
    # More workers than cores: builds that are killed, servers and clusters are waited for most of the time.
    ("pytest", "-n", "3", "--dist", "worksteal", "-m", "not main_job and not nightly"),
    ("pytest", "-m", "main_job"),  # alone, with all cores as a user's build has them
)


def main() -> int:
    """Give the exit code of the first step that fails, or 0."""
    for step in STEPS:
        print("$", *step, flush=True)
        code = subprocess.run([sys.executable, "-m", *step], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
