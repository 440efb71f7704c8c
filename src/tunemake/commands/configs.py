"""tunemake configs: the training configs that train.template may name, and the text of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tunemake.engines import xtuner
from tunemake.faults import Fault, InputError


def list_configs(root: Path, pattern: str) -> Iterator[str]:
    """Give a line for each config whose name holds the pattern, in any case: its name, and what is to be known of it.

    root: the project's folder. Raises InputError where there is none, and where XTuner is not installed,
    after the others.
    """
    found = False
    for name, told in xtuner.known_templates(root, pattern):
        found = True
        yield f"{name:<60} {told}".rstrip()
    if not found:
        raise InputError(Fault(pattern, "no config has this in its name", next_step="tunemake configs lists all"))


def show_config(root: Path, name: str) -> str:
    """Give a config's text as it is written, and what else it is made of. Raises InputError where there is none."""
    main, *others = xtuner.config_sources(name, root)
    text = xtuner.source_path(main, root).read_text("utf-8")
    return text + "".join(f"\n{{# with {other} #}}" for other in others)
