"""What a rendered XTuner config names for its data: the rows that the tokens stage made.

Imported by XTuner's process alone.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset


def token_rows(path: str) -> Any:
    """Give the rows of a tokens artifact's file, each with input_ids, labels and length; mapped, not read.

    They are those that process_hf_dataset makes of the same samples, in its order, packed as it packs.
    """
    rows = Dataset.from_file(path)
    rows.length = rows["length"]  # as process_hf_dataset sets it, for samplers that group by it
    return rows
