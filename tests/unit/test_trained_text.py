"""What is counted as trained and cut is what XTuner's own functions encode, label, leave out and pack."""

import random
import warnings

import pytest

import tiny
from tunemake import prompts, schema
from tunemake.chat_templates import conversation
from tunemake.cures import install_cures
from tunemake.data_statistics import packs
from tunemake.faults import ModelError
from tunemake.trained_text import TrainedTexts
from tunemake_builtins import prompts as own_prompts
from tunemake_builtins import xtuner_prompts

SAMPLES = [
    {"messages": messages}
    for messages in (
        conversation([("How are you?", "Fine, thanks."), ("And\n\nwho? ", "He is 42."), ("好吗？", "好")], "Be kind."),
        conversation([("x" * 150, "y")]),
        conversation([("Say it.", "z" * 150)], ""),
        conversation([("a", "b")]),
    )
]


@pytest.fixture(scope="module")
def xtuner():
    install_cures()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that import what others have deprecated since
        from mmengine.config import ConfigDict
        from xtuner.dataset.map_fns import openai_map_fn, template_map_fn_factory
        from xtuner.dataset.utils import Packer, encode_fn

        from tunemake.engines.xtuner_hooks import load_tokenizer

    def encoded(sample, template, folder, longest):
        form = prompts.as_xtuner(template)
        made = template_map_fn_factory(ConfigDict(form))(openai_map_fn(sample))
        return encode_fn(made, load_tokenizer(str(folder), form), longest)

    return encoded, Packer


def template_of(name):
    found = getattr(own_prompts, name, None) or getattr(xtuner_prompts, name)
    return schema.with_defaults(found, schema.load_schema("prompt_template.schema.json"))


def test_special_tokens_are_the_tokenizers_own_and_those_of_the_models_other_files(tmp_path):
    tiny.write_tokenizer(tmp_path)
    before = TrainedTexts(tmp_path, template_of("chatml"), 120).special_tokens()
    assert {"<|im_start|>", "<|im_end|>"} <= before
    (tmp_path / "special_tokens_map.json").write_text('{"sep_token": {"content": "[SEP]"}}')
    assert TrainedTexts(tmp_path, template_of("chatml"), 120).special_tokens() == before | {"[SEP]"}


@pytest.mark.train
@pytest.mark.parametrize("name", ["chatml", "vicuna", "internlm2_chat", "llama2_chat"])  # with eos and bos, and without
def test_counts_are_xtuners(xtuner, tmp_path, name):
    encoded, _ = xtuner
    tiny.write_tokenizer(tmp_path, bos="<|endoftext|>")
    template = template_of(name)
    texts = TrainedTexts(tmp_path, template, 120)
    for sample, (tokens, trained, kept) in zip(SAMPLES, texts.lengths(SAMPLES), strict=True):
        whole, cut = (encoded(sample, template, tmp_path, longest) for longest in (10_000, 120))
        assert tokens == len(whole["input_ids"])
        assert trained == sum(label >= 0 for label in whole["labels"])
        assert kept == sum(label >= 0 for label in cut["labels"])
        parts = texts.parts(sample["messages"])
        assert sum(part.tokens for part in parts) == tokens
        assert sum(part.tokens for part in parts if part.trained and not part.cut) == kept
        assert sum(part.tokens for part in parts if part.cut) == max(0, tokens - 120)


@pytest.mark.train
@pytest.mark.parametrize(("count", "longest"), [(3, 500), (2500, 64), (2010, 1000), (1000, 100_000)])
def test_packs_are_xtuners(xtuner, count, longest):
    _, packer = xtuner
    lengths = [random.Random(count).randrange(1, 60) for _ in range(count)]
    pack = packer(longest)
    made = []
    for first in range(0, count, 1000):  # as datasets.map calls it
        rows = [[0] * length for length in lengths[first : first + 1000]]
        made += pack({"input_ids": rows, "labels": rows})["input_ids"]
    assert packs(lengths, longest) == (len(made), sum(map(len, made)))


def test_what_a_tokenizer_file_says_of_cutting_is_not_heeded(tmp_path):
    from tokenizers import Tokenizer

    tiny.write_tokenizer(tmp_path)
    file = str(tmp_path / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(file)
    (lengths,) = TrainedTexts(tmp_path, template_of("chatml"), 100).lengths(
        [{"messages": conversation([("abc", "d")])}]
    )
    assert lengths.tokens == len("user\nabc\nassistant\nd\n") + 4  # and ChatML's marks
    assert lengths.trained == 2


def test_a_broken_tokenizer(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer.json: cannot be read: "):
        TrainedTexts(tmp_path, template_of("chatml"), 100)
