"""What Streamlit runs: the page of the project in the current folder."""

from __future__ import annotations

import traceback
from pathlib import Path

import streamlit as st

from tunemake.faults import Fault, TunemakeError
from tunemake.model_choice import Models
from tunemake.web.answers import markdown
from tunemake.web.chat_view import chat_view
from tunemake.web.compare_view import compare_view
from tunemake.web.report_view import report_view
from tunemake.web.sidebar import settings
from tunemake.web.state import state


def main() -> None:
    """Draw the page; a fault is a line on it."""
    st.set_page_config(page_title="tunemake")  # a Material icon here would be fetched from Google
    now, busy = state(), state().busy
    try:
        _draw(Models(Path.cwd()))
    except TunemakeError as error:
        now.faults = [str(fault) for fault in error.faults]
    except Exception as error:
        if not busy:
            raise
        traceback.print_exc()
        now.faults = [
            str(Fault("the answer", f"{type(error).__name__}: {error}", next_step="the server's log has more"))
        ]
    if busy:
        st.rerun()  # what could not be used meanwhile can be again
    for fault in now.faults:
        st.error(markdown(fault), icon=":material/error:")
    now.faults = []


def _draw(models: Models) -> None:
    choices = models.all()
    if not choices:
        st.info("No model is built yet: run `doit`.", icon=":material/info:")
        return
    chosen = settings(choices, busy=state().busy)
    if models.failed_gate(chosen.choice):
        st.warning(f"{chosen.choice.name}: this model failed its gate.", icon=":material/warning:")
    if chosen.view == "Compare":
        compare_view(models, chosen)
    elif chosen.view == "Report":
        report_view(models.root, models.variant_of(chosen.choice))
    else:
        chat_view(chosen)


main()
