"""tunemake compare: the variants side by side, as a table, for machines, or as a page."""

from __future__ import annotations

from pathlib import Path

from tunemake.comparison import as_json, as_text, compared
from tunemake.digests import replace_text
from tunemake.faults import Fault, InputError
from tunemake.project import load_variants


def table(root: Path, *, machine: bool) -> str:
    """Give the table, or JSON for machines."""
    rows = compared(root, [project.variant.name for project in load_variants(root)])
    return as_json(rows) if machine else as_text(rows)


def page(root: Path, file: Path) -> str:
    """Write the project's page; give a line that says so."""
    from tunemake.reports.project_page import comparison

    projects = load_variants(root)
    if not file.absolute().parent.is_dir():
        raise InputError(Fault(str(file), "its folder is not there", next_step=f"make {file.parent}"))
    text = comparison(root, projects[0].name, [one.variant.name for one in projects], file.absolute().parent)
    try:
        replace_text(file, text)
    except OSError as error:
        raise InputError(Fault(str(file), f"cannot be written: {error.strerror}")) from error
    return f"{file}: {len(projects)} variants"
