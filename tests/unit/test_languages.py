import pytest

from tunemake.languages import UNSURE, language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the largest ocean?", "en"), ("手指被纸划伤了怎么处理？", "zh"), ("はい、どうもありがとう", "ja"),
        ("Wer bist du? Ich bin ein Assistent.", "de"), ("42 …", UNSURE), ("def f(x): return x", UNSURE), ("", UNSURE),
    ],
)  # fmt: skip
def test_the_language_or_that_it_cannot_be_told(text, language):
    assert language_of(text) == language
