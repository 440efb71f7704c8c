"""The tokens stage gives what XTuner's own process_hf_dataset gives: ids, labels, order, packs."""

import json
import random
import warnings

import pytest

import tiny
from tunemake import prompts, schema
from tunemake.cures import install_cures
from tunemake.faults import SampleError
from tunemake.stages import EVENTS, Job, tokens
from tunemake_builtins import prompts as own_prompts
from tunemake_builtins import xtuner_prompts

pytestmark = pytest.mark.slow

WORDS = ["tiny ", "wood", "who ", "你好", "🌲", "\n", "<|im_end|>", "{input}", "a  b ", "é"]


def template_of(name):
    found = getattr(own_prompts, name, None) or getattr(xtuner_prompts, name)
    return schema.with_defaults(found, schema.load_schema("prompt_template.schema.json"))


def text(chance, longest):
    return "".join(chance.choices(WORDS, k=chance.randint(1, longest)))


def samples(count, longest=12):
    """Give conversations: some with a system message, some of several turns, some that are too long."""
    chance = random.Random(count)
    for number in range(count):
        messages = [{"role": "system", "content": text(chance, 3)}] if number % 3 == 0 else []
        for _ in range(chance.randint(1, 3)):
            asked = text(chance, longest * 9 if number % 17 == 0 else longest)
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": text(chance, longest)}]
        yield {"messages": messages}


def job_of(folder, made, template, max_length, *, packing, seed=7):
    for name in ("data", "work"):
        (folder / name).mkdir(parents=True)
    (folder / "data" / "train.json").write_text(json.dumps(list(made)), "utf-8")
    tiny.write_tokenizer(folder / "base" / "model", bos="<|endoftext|>")
    parameters = {
        "prompt_template": template, "max_length": max_length, "packing": packing, "seed": seed,
        "trust_remote_code": False,
    }  # fmt: skip
    return Job(folder, folder / "work", parameters, {}, {name: folder / name for name in ("base", "data")})


def xtuners(job, cache):
    """Give what XTuner makes of the same, in a process that is seeded as its training is."""
    install_cures()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that import what others have deprecated since
        from datasets import load_dataset
        from mmengine.config import ConfigDict
        from mmengine.runner import set_random_seed
        from xtuner.dataset import process_hf_dataset
        from xtuner.dataset.map_fns import openai_map_fn, template_map_fn_factory

        from tunemake.engines.xtuner_tokenizer import load_tokenizer
    told = job.parameters
    form = prompts.as_xtuner(told["prompt_template"])
    set_random_seed(told["seed"])
    return process_hf_dataset(
        load_dataset("json", data_files=str(job.inputs["data"] / "train.json"), cache_dir=str(cache)),
        tokenizer=load_tokenizer(str(job.inputs["base"] / "model"), form, padding_side="right"),
        max_length=told["max_length"], dataset_map_fn=openai_map_fn,
        template_map_fn=template_map_fn_factory(ConfigDict(form)), remove_unused_columns=True,
        shuffle_before_pack=True, pack_to_max_length=told["packing"], map_num_proc=None,
    )  # fmt: skip


@pytest.mark.train
@pytest.mark.parametrize("packing", [True, False], ids=["packed", "unpacked"])
@pytest.mark.parametrize(
    ("name", "count", "max_length"),
    [("chatml", 2300, 64), ("vicuna", 700, 100), ("internlm2_chat", 30, 4000), ("llama2_chat", 1001, 256)],
)
def test_rows_are_xtuners(tmp_path, name, count, max_length, packing):
    from tunemake.engines.xtuner_data import token_rows

    job = job_of(tmp_path, samples(count), template_of(name), max_length, packing=packing)
    facts = tokens.run(job)
    expected, found = xtuners(job, tmp_path / "cache"), token_rows(str(job.work / "tokens.arrow"))
    assert len(found) == len(expected) == facts["rows"]
    for column in ("input_ids", "labels", "length"):
        assert list(found[column]) == list(expected[column]), column
    assert list(found.length) == list(expected.length)
    assert set(found.column_names) == set(expected.column_names)
    assert [path.name for path in job.work.iterdir() if not path.name.startswith(".")] == ["tokens.arrow"]


def test_a_tokenizer_for_which_xtuner_puts_its_own_two_tokens_first(tmp_path):
    from tunemake.engines.xtuner_rows import Encoder
    from tunemake.engines.xtuner_tokenizer import load_tokenizer

    install_cures()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mmengine.config import ConfigDict
        from xtuner.dataset.map_fns import openai_map_fn, template_map_fn_factory
        from xtuner.dataset.utils import encode_fn

    template = template_of("vicuna")
    form = prompts.as_xtuner(template)
    tiny.write_tokenizer(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), form)
    tokenizer.__class__ = type("ChatGLMTokenizer", (type(tokenizer),), {})
    for sample in samples(20):
        expected = encode_fn(template_map_fn_factory(ConfigDict(form))(openai_map_fn(sample)), tokenizer, 10_000)
        (rows,) = Encoder(tokenizer, template, 10_000).rows([sample])
        assert (list(rows.ids), list(rows.labels)) == (expected["input_ids"], expected["labels"])


def test_what_is_cut_and_left_out_is_counted_and_told(tmp_path):
    long, short = ({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": "yes"}]}
                   for asked in ("x" * 200, "x"))  # fmt: skip
    job = job_of(tmp_path / "a", [long, short], template_of("chatml"), 100, packing=False)
    facts = tokens.run(job)
    assert (facts["samples"], facts["left_out"], facts["rows"]) == (2, 1, 1)
    assert facts["cut_tokens"] > 100
    told = [json.loads(line) for line in (job.work / EVENTS).read_text().splitlines()]
    assert told[-1]["say"].endswith("; left out, since nothing of an answer lies within max_length: 1")
    with pytest.raises(SampleError, match="nothing is left to train on"):
        tokens.run(job_of(tmp_path / "b", [long], template_of("chatml"), 100, packing=True))
