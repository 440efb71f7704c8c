"""An answer is the same whoever else is answered: rows join, leave and differ in length, and none changes another."""

import random
import warnings

import pytest
import torch

import tiny
from tunemake.cures import install_cures
from tunemake.faults import ModelError
from tunemake.serving.rows import Row, Rows
from tunemake.serving.sampling import Sampler, Wish

GREEDY = Wish(temperature=0)


def loaded(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, trust_remote_code=True).eval()


def prompts(count, longest=60):
    numbers = random.Random(4)
    return [[numbers.randrange(3, 250) for _ in range(numbers.randint(1, longest))] for _ in range(count)]


def alone(model, prompt, count, wish=GREEDY, **given):
    rows, row = Rows(model, adapted="adapter" in given), Row(prompt, Sampler(wish, prompt), **given)
    rows.add([row])
    ids = [row.last]
    for _ in range(count - 1):
        rows.step()
        ids.append(row.last)
    return ids


def together(model, wanted):
    """Answer all: each is (prompt, length, wish); one joins a step, and leaves when it is long enough."""
    rows, made, waiting = Rows(model), {}, list(enumerate(wanted))
    while waiting or rows.here:
        if rows.here:
            rows.step()
        new = []
        for number, (prompt, _, wish) in waiting[:2]:
            new.append(Row(prompt, Sampler(wish, prompt)))
            new[-1].number = number
        waiting = waiting[2:]
        if new:
            rows.add(new)
        for row in rows.here:
            made.setdefault(row.number, []).append(row.last)
        rows.keep([row for row in rows.here if len(made[row.number]) < wanted[row.number][1]])
    return [made[number] for number in range(len(wanted))]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    tiny.write_llama(folder, dtype="float32")
    return loaded(folder)


def test_greedy_answers_are_those_of_lone_requests(llama):
    wanted = [(prompt, 1 + 3 * number, GREEDY) for number, prompt in enumerate(prompts(9))]
    assert together(llama, wanted) == [alone(llama, prompt, length) for prompt, length, _ in wanted]


def test_drawn_answers_are_those_of_lone_requests_with_their_seed(llama):
    wanted = [(prompt, 12, Wish(temperature=1, seed=number)) for number, prompt in enumerate(prompts(5))]
    assert together(llama, wanted) == [alone(llama, *one) for one in wanted]


def test_greedy_answers_are_those_of_transformers(llama):
    for prompt in prompts(4):
        given = torch.tensor([prompt])
        made = llama.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=10, do_sample=False, eos_token_id=None,
            pad_token_id=2,
        )  # fmt: skip
        assert alone(llama, prompt, 10) == made[0, len(prompt) :].tolist()


def test_a_long_prompt_read_in_parts_says_what_it_says_as_a_whole(llama, monkeypatch):
    prompt, short = prompts(1, 200)[0] * 3, [5, 6]
    whole = together(llama, [(prompt[:180], 8, GREEDY), (short, 8, GREEDY)])
    monkeypatch.setattr("tunemake.serving.rows._CHUNK", 32)
    assert together(llama, [(prompt[:180], 8, GREEDY), (short, 8, GREEDY)]) == whole


def test_what_leaves_frees_its_keys(llama):
    rows = Rows(llama)
    long, short = (Row(prompt, Sampler(GREEDY, prompt)) for prompt in ([7] * 100, [8] * 5))
    rows.add([long, short])
    rows.step()
    rows.keep([short])
    assert [tuple(key.shape) for key, _ in rows._past.to_legacy_cache()] == [(1, 2, 6, 8)] * 2
    rows.keep([])
    assert rows._past is None
    assert rows.here == []


def test_a_model_with_code_of_its_own_and_one_of_another_family(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    install_cures()
    torch.manual_seed(3)
    own, other = tmp_path / "own", tmp_path / "other"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.write_internlm2(own)
        models = [loaded(own)]
    config = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=260, n_positions=128, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(other)
    for model in [*models, loaded(other)]:
        wanted = [(prompt, 6, GREEDY) for prompt in prompts(5)]
        assert together(model, wanted) == [alone(model, *one[:2]) for one in wanted]


def test_rows_of_several_adapters_are_answered_together(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    tiny.write_llama(tmp_path / "base", dtype="float32")
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        config = LoraConfig(r=4, lora_alpha=64, task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(loaded(tmp_path / "base"), config).save_pretrained(tmp_path / name)
    merged = [PeftModel.from_pretrained(loaded(tmp_path / "base"), tmp_path / name).merge_and_unload()
              for name in ("one", "two")]  # fmt: skip
    model = PeftModel.from_pretrained(loaded(tmp_path / "base"), tmp_path / "one", adapter_name="one")
    model.load_adapter(tmp_path / "two", adapter_name="two")
    rows, prompt = Rows(model.eval(), adapted=True), [9, 8, 7]
    here = [Row(prompt, Sampler(GREEDY, prompt), name) for name in ("one", "two", None)]
    rows.add(here)
    said = [[row.last] for row in here]
    for _ in range(6):
        rows.step()
        for ids, row in zip(said, here, strict=True):
            ids.append(row.last)
    assert said == [alone(one, prompt, 7) for one in [*merged, loaded(tmp_path / "base")]]
    assert said[0] != said[1]


def test_a_model_whose_cache_cannot_be_joined_is_told(llama):
    from transformers import StaticCache

    class Fixed(type(llama)):
        def forward(self, *args, past_key_values=None, **given):
            cache = StaticCache(self.config, max_batch_size=1, max_cache_len=8, device="cpu", dtype=torch.float32)
            return super().forward(*args, past_key_values=past_key_values or cache, **given)

    with pytest.raises(ModelError, match=r"Fixed: .* StaticCache; serve it with --engine vllm"):
        Rows(Fixed(llama.config).eval())
