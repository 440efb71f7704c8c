"""The report of a variant, as the build wrote it, within the page."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import streamlit as st


def report_view(root: Path, variant: str | None) -> None:
    """Draw the report of a variant, or say that there is none."""
    page = root / "build" / (variant or "") / "report" / "report.html"
    if variant is None or not page.exists():
        st.info("No report of this model: choose a trained one, and run `doit report`.", icon=":material/info:")
        return
    # As a data URL it has an origin of its own: nothing in it can reach this page.
    st.iframe(f"data:text/html;charset=utf-8;base64,{b64encode(page.read_bytes()).decode()}", height=1200)
