import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import write_sentencepiece

import tiny
from tunemake import schema
from tunemake.folder_proof import folder_faults
from tunemake.model_folder import copy_companions, set_chat_template
from tunemake.speech_proof import speech_faults
from tunemake.tensors import create, read_model
from tunemake_builtins import prompts as own_prompts
from tunemake_builtins import xtuner_prompts

NAMES = ["chatml", "smollm2", *xtuner_prompts._forms()]
KINDS = ["bytes", "bytes_bos", "first", "always", "legacy"]


def template_of(name):
    found = getattr(own_prompts, name, None) or getattr(xtuner_prompts, name)
    filled = schema.with_defaults(found, schema.load_schema("prompt_template.schema.json"))
    del filled["summary"]
    return filled


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Give a base model's folder, but for real weights, by the kind of its tokenizer."""
    found = {kind: tmp_path_factory.mktemp("bases") / kind for kind in KINDS}
    for kind, folder in found.items():
        if kind.startswith("bytes"):
            tiny.write_tokenizer(folder, bos="<|endoftext|>" if kind == "bytes_bos" else "<|im_start|>")
        else:
            write_sentencepiece(folder, manner=kind)
        (folder / "config.json").write_text('{"eos_token_id": 7}')
        (folder / "LICENSE").write_text("free")
        create(folder / "model.safetensors", [])
    return found


def speaking(base, out, name="chatml"):
    out.mkdir()
    shutil.copy(base / "config.json", out)
    copy_companions(base, out)
    create(out / "model.safetensors", [])
    set_chat_template(out, template_of(name))
    return out


def faults(merged, base, name="chatml"):
    found = [*folder_faults(merged, base, {}, None, untied=False), *speech_faults(merged, base, template_of(name))]
    return [str(fault) for fault in found]


@pytest.mark.parametrize("kind", KINDS)
def test_every_prompt_template_that_ships_is_proven(bases, tmp_path, kind):
    for name in NAMES:
        told = faults(speaking(bases[kind], tmp_path / name, name), bases[kind], name)
        assert [line for line in told if "none of the model's weight files" not in line] == [], name


@pytest.fixture(scope="module")
def spoken(bases, tmp_path_factory):
    return speaking(bases["bytes"], tmp_path_factory.mktemp("spoken") / "merged"), bases["bytes"]


@given(st.data())
@settings(max_examples=100)
def test_a_chat_template_with_one_changed_character_is_caught(spoken, data):
    merged, base = spoken
    path = merged / "tokenizer_config.json"
    before = path.read_text("utf-8")
    told = json.loads(before)
    source = told["chat_template"]
    at = data.draw(st.integers(0, len(source) - 1))
    other = data.draw(st.characters(codec="utf-8", exclude_characters=source[at]))
    path.write_text(json.dumps(told | {"chat_template": source[:at] + other + source[at + 1 :]}), "utf-8")
    found = list(speech_faults(merged, base, template_of("chatml")))
    path.write_text(before, "utf-8")
    assert len(found) == 1
    assert "the chat template" in found[0].what


@pytest.fixture
def right(bases, tmp_path):
    return speaking(bases["bytes"], tmp_path / "merged"), bases["bytes"]


def test_another_projects_template_is_shown_where_it_parts(right):
    merged, base = right
    set_chat_template(merged, template_of("zephyr"))
    told = faults(merged, base)
    what = "the chat template is not the prompt template; expected 'im_start|>user\\nWho are you?<|i', got 'im"
    assert any(what in line for line in told)


def test_a_template_that_refuses_or_is_preferred_is_told(right):
    merged, base = right
    (merged / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    told = faults(merged, base)
    assert any("chat_template.jinja is there, and transformers prefers it" in line for line in told)
    assert any("the chat template cannot be rendered; got TemplateError: no" in line for line in told)


def test_a_swapped_tokenizer_is_caught(right, bases):
    merged, base = right
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bases["first"] / name, merged / name)
    told = "\n".join(faults(merged, base))
    assert "merge: tokenizer.json is not the base's, byte for byte" in told
    assert 'merge: tokenizer_config.json: eos_token is not the base\'s; expected "<|im_end|>", got "</s>"' in told


def test_files_that_are_missing_or_foreign_are_caught(right):
    merged, base = right
    (merged / "tokenizer.json").unlink()
    (merged / "LICENSE").write_text("not free")
    (merged / "modeling_other.py").write_text("")
    told = faults(merged, base)
    assert "merge: tokenizer.json is missing, and the base has it" in told
    assert "merge: LICENSE is not the base's, byte for byte" in told
    assert "merge: modeling_other.py is none of the base's files" in told


@pytest.mark.parametrize(("ends", "got"), [([7], "[7]"), ([2, 7, 9], "[2, 7, 9]"), (None, "[]")])
def test_generation_that_ends_elsewhere_is_caught(right, ends, got):
    merged, base = right
    (merged / "generation_config.json").write_text(json.dumps({"eos_token_id": ends, "top_k": 3}))
    told = faults(merged, base)
    what = "merge: generation_config.json: eos_token_id is not the base's with the template's stop words"
    assert f"{what}; expected [2, 7], got {got}" in told
    assert "merge: generation_config.json: top_k is not the base's; expected null, got 3" in told


def test_a_broken_file_is_told(right):
    merged, base = right
    (merged / "generation_config.json").write_text("[1")
    with pytest.raises(Exception, match=r"generation_config\.json: no JSON object"):
        faults(merged, base)
    assert read_model(merged) == {}
