"""From a GGUF's metadata alone come the token ids that the model's own tokenizer gives."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from made_tokenizers import write_sentencepiece, write_smollm2

import tiny
from tunemake.faults import ModelError
from tunemake.gguf_tokenizer import ends_of, tokenizer_metadata
from tunemake.seams import encoder

IDS = json.loads((Path(__file__).parent / "data" / "smollm2_token_ids.json").read_text("utf-8"))
TEXTS = [
    "Hello, I'll be there at 12:34 on 2026-11-25.", "你好，我是小木。今天是2026年",
    "\n\n  def f(x):\r\n\treturn x**10\n   ",
    "Ça va? naïve façade ½ ﬁ", "<|im_start|>user\nhi<|im_end|>\n", "<|im_end|>", "12345678901", "can't WE'LL", " ",
    "🙂👍🏽 ok",
]  # fmt: skip
# What llama.cpp cuts by (its source, llama_vocab), where it does so by regular expressions that tokenizers knows.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
NEWER = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {
    "gpt-2": [WORDS], "smollm": [r"\p{N}", WORDS], "qwen2": [NEWER % r"\p{N}"], "llama-bpe": [NEWER % r"\p{N}{1,3}"],
}  # fmt: skip
OURS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def read(told):
    """Make a tokenizer of a GGUF's metadata, as llama.cpp does of byte-level BPE."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    values = {key.removeprefix("tokenizer.ggml."): value for key, value in told.items()}
    assert values["model"] == "gpt2"
    merges = [tuple(merge.split(" ")) for merge in values["merges"]]
    vocab = {token: index for index, token in enumerate(values["tokens"])}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, ignore_merges=values["pre"] == "llama-bpe"))
    cuts = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in CUTS[values["pre"]]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(values["tokens"], values["token_type"], strict=True):
        if kind in {3, 4}:
            tokenizer.add_tokens([AddedToken(token, special=kind == 3, normalized=False)])
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def write_trained(folder, pre):
    """Write a byte-level BPE trained on these texts, that cuts as a name of llama.cpp's says."""
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, trainers
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE(ignore_merges=pre == "llama-bpe"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in {"gpt-2", "smollm"})
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = [pre_tokenizers.Split(Regex(OURS % (r"\p{N}" if pre == "qwen2" else r"\p{N}{1,3}")), "isolated")]
    steps = {"gpt-2": [], "smollm": [digits]}.get(pre, split)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, level]) if steps else level
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tiny.SPECIAL])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>", "chat_template": "{{ x }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, tokenizer.get_vocab_size() - 2]}))
    return tokenizer.get_vocab_size()


@pytest.mark.parametrize("pre", CUTS)
def test_byte_level_bpe_has_the_same_ids(pre, tmp_path):
    size = write_trained(tmp_path / "m", pre)
    told = tokenizer_metadata(tmp_path / "m", size + 3, add_bos=True)
    assert told["tokenizer.ggml.pre"] == pre
    own, theirs = encoder(tmp_path / "m", trust_remote_code=False), read(told)
    for text in [*TEXTS, "a<tool>b"]:
        assert theirs(text) == own(text), text
    assert own(TEXTS[6]) != own(TEXTS[6][:3])
    assert told["tokenizer.ggml.token_type"][-7:] == [3, 3, 3, 4, 5, 5, 5]
    assert told["tokenizer.ggml.tokens"][-1] == f"[PAD{size + 2}]"
    assert told["tokenizer.chat_template"] == "{{ x }}"
    assert told["tokenizer.ggml.add_bos_token"] is True
    assert list(ends_of(told)) == ["<|im_end|>", told["tokenizer.ggml.tokens"][0]]


def test_smollm2_has_the_ids_that_llama_cpp_gives(tmp_path, pytestconfig):
    write_smollm2(pytestconfig.cache.mkdir("tunemake-models") / "smollm2.gguf", tmp_path / "m")
    told = tokenizer_metadata(tmp_path / "m", 49152, add_bos=False)
    assert told["tokenizer.ggml.pre"] == "smollm"
    ids = {name: told[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding", "unknown")}
    assert ids == {"bos": 1, "eos": 2, "padding": 2, "unknown": 0}
    tokenize = read(told)
    for row in IDS:
        assert tokenize(row["text"]) == row["ids"], row["text"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, r"as no pre-tokenizer .*; expected as one of smollm, gpt-2, qwen2"),
        ({"pre_tokenizer": None}, "as no pre-tokenizer"),
        ({"normalizer": {"type": "Lowercase"}}, "cuts or normalises text as no pre-tokenizer"),
        ({"normalizer": {"type": "NFC"}}, "cuts or normalises text as no pre-tokenizer"),
        (
            {"model": {"type": "WordPiece", "vocab": {}}},
            "no GGUF of this kind of tokenizer; expected .*, got WordPiece",
        ),
    ],
)
def test_what_llama_cpp_would_read_otherwise_is_refused(changes, message, tmp_path):
    size = tiny.write_tokenizer(tmp_path)
    told = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(told | changes), "utf-8")
    with pytest.raises(ModelError, match=message):
        tokenizer_metadata(tmp_path, size, add_bos=False)


def test_special_tokens_that_take_spaces_are_refused(tmp_path):
    size = tiny.write_tokenizer(tmp_path)
    told = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    told["added_tokens"][1]["rstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(told), "utf-8")
    with pytest.raises(ModelError, match=r"take the spaces around them; got <\|im_start\|>"):
        tokenizer_metadata(tmp_path, size, add_bos=False)


def test_more_tokens_than_embeddings_are_refused(tmp_path):
    tiny.write_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="more tokens than the model has embeddings; expected at most 100, got 259"):
        tokenizer_metadata(tmp_path, 100, add_bos=False)


def test_whole_words_taken_whole_are_another_name(tmp_path):
    size = write_trained(tmp_path / "m", "llama-bpe")
    told = json.loads((tmp_path / "m" / "tokenizer.json").read_text("utf-8"))
    told["model"]["ignore_merges"] = False
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(told), "utf-8")
    with pytest.raises(ModelError, match="as no pre-tokenizer"):
        tokenizer_metadata(tmp_path / "m", size, add_bos=False)


def train_sentencepiece(folder, **how):
    """Train a SentencePiece model as Llama's and InternLM2's are: BPE, bytes for the unknown, nothing normalised."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text("\n".join(TEXTS * 20).replace("\r", ""), "utf-8")
    values = {
        "model_type": "bpe", "vocab_size": 400, "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False, "split_digits": True, "minloglevel": 3,
        "user_defined_symbols": ["<|im_start|>"],
        "allow_whitespace_only_pieces": True, "hard_vocab_limit": False, **how,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), **values
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def spm(told, text):
    """Encode as llama.cpp does with SentencePiece's scores: join the best neighbours till none is a token."""
    values = {key.removeprefix("tokenizer.ggml."): value for key, value in told.items()}
    ids = {token: i for i, token in enumerate(values["tokens"]) if values["token_type"][i] in {1, 4}}
    symbols = list((" " if values["add_space_prefix"] else "").join(["", text]).replace(" ", "▁"))
    while pairs := [(-values["scores"][ids[a + b]], at) for at, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]:
        at = min(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    out = []
    for symbol in symbols:
        unknown = [values["tokens"].index(f"<0x{byte:02X}>") for byte in symbol.encode()]
        out += [ids[symbol]] if symbol in ids else unknown
    return out


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_has_the_same_ids(prefix, tmp_path):
    model = train_sentencepiece(tmp_path / "m", add_dummy_prefix=prefix)
    size = model.get_piece_size()
    told = tokenizer_metadata(tmp_path / "m", size + 1, add_bos=True)
    assert told["tokenizer.ggml.add_space_prefix"] is prefix
    assert told["tokenizer.ggml.token_type"][:5] == [2, 3, 3, 4, 6]
    for text in TEXTS[:4] + TEXTS[6:]:
        assert spm(told, text) == model.encode(text), text


def test_added_tokens_take_their_places(tmp_path):
    size = train_sentencepiece(tmp_path / "m").get_piece_size()
    config = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    added = {str(size + 1): {"content": "<|im_end|>", "special": True}, "300": {"content": "<x>", "special": False},
             "0": {"content": "<unk>", "special": True}}  # fmt: skip
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": added}))
    told = tokenizer_metadata(tmp_path / "m", size + 3, add_bos=True)
    tokens = told["tokenizer.ggml.tokens"]
    assert tokens[size:] == [f"[PAD{size}]", "<|im_end|>", f"[PAD{size + 2}]"]
    assert [told["tokenizer.ggml.token_type"][i] for i in (0, 300, size, size + 1, size + 2)] == [2, 4, 5, 3, 5]
    assert {told["tokenizer.ggml.scores"][i] for i in (300, size, size + 1)} == {-1000.0}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"model_type": "unigram"}, "SentencePiece model of this kind; expected BPE, got unigram"),
        ({"normalization_rule_name": "nmt_nfkc"}, "a SentencePiece model that normalises text"),
        ({"remove_extra_whitespaces": True}, "a SentencePiece model that normalises text"),
    ],
)
def test_other_sentencepiece_models_are_refused(how, message, tmp_path):
    train_sentencepiece(tmp_path / "m", **how)
    with pytest.raises(ModelError, match=message):
        tokenizer_metadata(tmp_path / "m", 1000, add_bos=True)


def test_sentencepiece_without_its_model_is_refused(tmp_path):
    write_sentencepiece(tmp_path, manner="legacy")
    with pytest.raises(ModelError, match=r"without its scores; expected tokenizer\.model"):
        tokenizer_metadata(tmp_path, 1000, add_bos=True)
    (tmp_path / "tokenizer.model").write_bytes(b"torn")
    with pytest.raises(ModelError, match=r"tokenizer\.model cannot be read"):
        tokenizer_metadata(tmp_path, 1000, add_bos=True)


@pytest.mark.parametrize(("manner", "fits"), [("legacy", True), ("always", True), ("first", False)])
def test_where_words_begin_must_be_where_llama_cpp_begins_them(manner, fits, tmp_path):
    size = train_sentencepiece(tmp_path).get_piece_size()
    write_sentencepiece(tmp_path, manner=manner)
    if fits:
        assert tokenizer_metadata(tmp_path, size + 400, add_bos=True)["tokenizer.ggml.add_space_prefix"]
        return
    with pytest.raises(ModelError, match="begins words otherwise than its tokenizer"):
        tokenizer_metadata(tmp_path, size + 400, add_bos=True)
