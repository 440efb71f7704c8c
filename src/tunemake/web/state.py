"""What one session of the page remembers, and what all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import streamlit as st

from tunemake.conversation import Conversation
from tunemake.web.hall import Hall

_KEY = "tunemake"


@dataclass
class State:
    """A session's.

    asked: a question that waits for its answer. again: the last one is to be answered anew. told: what is told of the
    last answer. to_compare: a prompt that waits for two answers; compared: these by name, and the "prompt".
    faults: what went wrong in the last run of the page.
    """

    talk: Conversation = field(default_factory=Conversation)
    asked: str | None = None
    again: bool = False
    to_compare: str | None = None
    compared: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Say whether an answer is to be made in this run of the page."""
        return self.asked is not None or self.again or self.to_compare is not None

    def stop(self) -> None:
        """Take back what waits for an answer: Stop came before the first word. A question stays, without an answer."""
        if self.asked is not None:
            self.talk.turns.append((self.asked, ""))
            self.told = ["stopped"]
        self.asked, self.again, self.to_compare = None, False, None


def state() -> State:
    """Give this session's."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = State()
    return cast("State", st.session_state[_KEY])


@st.cache_resource(show_spinner=False)
def hall() -> Hall:
    """Give what all sessions share."""
    return Hall()
