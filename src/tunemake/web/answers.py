"""How the page shows what a model says: as it comes, with a cursor, as Markdown that loads and runs nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import closing

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from tunemake.generation import Answers
from tunemake.model_choice import Choice
from tunemake.web.state import hall, state

AVATARS = {"user": ":material/person:", "assistant": ":material/smart_toy:"}
_CURSOR = " ▌"
_PACE = 0.1  # seconds from one drawing of an answer to the next: a browser has to keep up
# An image is fetched at once from wherever it lies, and a directive such as :red[x] is Streamlit's, not Markdown.
_IMAGE, _DIRECTIVE = re.compile(r"!(?=\[)"), re.compile(r":(?=[a-zA-Z][\w+/-]*[:\[])")
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)


def markdown(text: str) -> str:
    """Give Markdown that shows a text; Streamlit takes no HTML in it."""
    parts = _CODE.split(_IMAGE.sub(r"\!", text))
    # Dollars are more often money than formulas. In code a backslash would be seen.
    parts[::2] = [_DIRECTIVE.sub(r"\:", part).replace("$", r"\$") for part in parts[::2]]
    return "".join(parts)


def show(place: DeltaGenerator, pieces: Generator[str, None, None]) -> str:
    """Show an answer as it comes; give it. Whatever ends the run of the page closes the pieces."""
    text, drawn = "", 0.0
    with closing(pieces) as coming:
        for piece in coming:
            text += piece
            if time.monotonic() - drawn > _PACE:
                place.markdown(markdown(text) + _CURSOR)
                drawn = time.monotonic()
    place.markdown(markdown(text) if text else "*no answer*")
    return text


def loaded(choice: Choice, place: DeltaGenerator) -> Answers:
    """Give a model in one's turn; its loading is seen."""
    if hall().has(choice):
        return hall().model(choice)
    with place, st.spinner(f"loading {choice.name}", show_time=True):
        return hall().model(choice)


def waiting(place: DeltaGenerator) -> None:
    """Say that another session is before."""
    place.info("Another session is being answered. This one is next.", icon=":material/hourglass_top:")


def copy_button(text: str) -> None:
    """Offer a text as it is, to be copied."""
    with st.popover("Copy", icon=":material/content_copy:", type="tertiary"):
        st.code(text, language=None, wrap_lines=True)


def stop_button() -> None:
    """Offer to end the answer: any click ends the page's run. Below, it stays where it is while the answer grows."""
    st.bottom.button("Stop", key="stop", icon=":material/stop_circle:", type="tertiary", on_click=_stop)


def _stop() -> None:
    state().stop()
