"""How a command of doit's ends: with the code of tunemake's own, and without a traceback for what is no bug."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tunemake.faults import TunemakeError


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Raise SystemExit in place of a TunemakeError, an interrupt, and output that nobody reads any more."""
    try:
        yield
    except TunemakeError as error:
        print(f"ERROR: {error}", file=sys.stderr)  # noqa: T201 - a command prints
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:
        sys.stdout = None  # nothing is flushed there at the end
        raise SystemExit(128 + signal.SIGPIPE) from None
