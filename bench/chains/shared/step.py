"""One action of the chain: half of its target, a pause in which a fault can hit, then the other half."""

import sys
import time
from pathlib import Path

from words import END

PAUSE_SECONDS = 0.4


def main(how: str, source: str, target: str, mark: str = "") -> None:
    """Write the lines of source, without comments, into target. how: the string method that each goes through."""
    with Path("ran.log").open("a", encoding="utf-8") as log:
        log.write(f"{target}\n")
    lines = [line for line in Path(source).read_text("utf-8").splitlines() if not line.startswith("#")]
    made = [getattr(line, how)() + mark + END + "\n" for line in lines]
    half = len(made) // 2
    with Path(target).open("w", encoding="utf-8") as file:
        file.writelines(made[:half])
        file.flush()
        time.sleep(PAUSE_SECONDS)
        file.writelines(made[half:])


if __name__ == "__main__":
    main(*sys.argv[1:])
