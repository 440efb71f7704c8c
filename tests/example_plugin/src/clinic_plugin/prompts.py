"""A prompt template of plain words."""

from __future__ import annotations

from tunemake.contracts import PromptTemplate

front_desk: PromptTemplate = {
    "summary": "visitor and front desk",
    "system": "Note: {system}\n",
    "instruction": "Visitor: {input}\nFront desk: ",
    "separator": "\n",
    "stop_words": ["\nVisitor:"],
}
