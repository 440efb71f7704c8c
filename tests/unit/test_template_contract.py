"""What XTuner's own functions make of a conversation is what the merged model's tokenizer makes of it."""

import warnings

import pytest
from made_tokenizers import write_all

from tunemake import prompts, schema
from tunemake.chat_templates import conversation
from tunemake.cures import install_cures
from tunemake.seams import chat_template_for, encoder
from tunemake_builtins import prompts as own_prompts
from tunemake_builtins import xtuner_prompts

TURNS = [("How are {you}?", "Fine, thanks."), ("  And\n\nwho? ", "He is 42 {input}."), ("好吗？", "好")]
CONVERSATIONS = [
    conversation(TURNS), conversation(TURNS[:1]), conversation(TURNS, "Be {kind}."), conversation(TURNS[1:2], ""),
]  # fmt: skip
NAMES = ["chatml", "smollm2", *xtuner_prompts._forms()]
KINDS = ["bytes", "bytes_bos", "bytes_without_bos", "first", "always", "legacy", "smollm2"]
# With these, XTuner's pieces join to other tokens when the text is read as a whole, whatever stands between them.
REFUSED = {"smollm2": {"cohere_chat", "deepseek_v2", "llama3_chat"}}


def template_of(name):
    found = getattr(own_prompts, name, None) or getattr(xtuner_prompts, name)
    filled = schema.with_defaults(found, schema.load_schema("prompt_template.schema.json"))
    del filled["summary"]
    return filled


@pytest.fixture(scope="session")
def folders(tmp_path_factory, pytestconfig):
    gguf = pytestconfig.cache.mkdir("tunemake-models") / "smollm2.gguf"
    return write_all(tmp_path_factory.mktemp("tokenizers"), gguf)


@pytest.fixture(scope="session")
def trained():
    """XTuner's training path, with its own functions: a sample, a template, a folder to token ids."""
    install_cures()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that import what others have deprecated since
        from mmengine.config import ConfigDict
        from xtuner.dataset.map_fns import openai_map_fn, template_map_fn_factory
        from xtuner.dataset.utils import encode_fn

        from tunemake.engines.xtuner_hooks import load_tokenizer

    def ids(messages, template, tokenizer):
        sample = template_map_fn_factory(ConfigDict(prompts.as_xtuner(template)))(openai_map_fn({"messages": messages}))
        return encode_fn(sample, tokenizer, 10_000)["input_ids"]

    return ids, load_tokenizer


class Kind:
    """A tokenizer, as XTuner is given it with and without its bos, and plain."""

    def __init__(self, folder, load):
        from transformers import AutoTokenizer

        self.folder, self._load, self._loaded = folder, load, {}
        self.plain = AutoTokenizer.from_pretrained(folder)
        self.encode = encoder(folder, trust_remote_code=False)

    def bos(self, template):
        return prompts.bos_of(template, self.plain.bos_token, type(self.plain).__name__)

    def for_xtuner(self, template):
        key = self.bos(template) is None
        if key not in self._loaded:
            self._loaded[key] = self._load(str(self.folder), prompts.as_xtuner(template))
        return self._loaded[key]

    def chat_template(self, template):
        return chat_template_for(template, self.folder, self.encode)


@pytest.fixture(scope="session", params=KINDS)
def kind(request, folders, trained):
    made = Kind(folders[request.param], trained[1])
    made.name = request.param
    return made


@pytest.mark.parametrize("name", NAMES)
def test_what_is_asked_is_what_was_trained(name, kind, trained):
    template = template_of(name)
    made, reads = kind.chat_template(template), kind.for_xtuner(template)
    same = []
    for messages in CONVERSATIONS:
        ids = trained[0](messages, template, reads)
        assert prompts.ids_of(template, messages, kind.plain) == ids
        assert prompts.ids_of(template, messages, reads) == ids  # as the hook that answers during the training has it
        if kind.name.startswith(("bytes", "smollm2")):
            text = prompts.text_of(template, messages, bos=kind.bos(template), eos=kind.plain.eos_token)
            assert kind.plain.decode(ids) == text == made.render(messages)
        same.append(kind.plain.apply_chat_template(messages, chat_template=made.source) == ids)
    assert all(same) == (name not in REFUSED.get(kind.name, set()))


@pytest.mark.usefixtures("trained")  # which imports XTuner as it must be
def test_xtuners_templates_are_its_own():
    from xtuner.utils import PROMPT_TEMPLATE

    assert set(NAMES) == {"chatml", "smollm2", *PROMPT_TEMPLATE}
    absent = {"SYSTEM": "", "SEP": "", "STOP_WORDS": []}
    for name, form in PROMPT_TEMPLATE.items():
        assert prompts.as_xtuner(template_of(name)) == absent | form, name
        assert getattr(xtuner_prompts, name)["summary"] == f"XTuner's {name}"


def test_an_unknown_name_of_xtuners_is_told():
    with pytest.raises(AttributeError, match=r"no template vicunna; it has .*vicuna"):
        getattr(xtuner_prompts, "vicunna")  # noqa: B009 - the module makes its names
