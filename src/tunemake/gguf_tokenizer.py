"""A tokenizer of Hugging Face's as a GGUF's metadata: byte-level BPE by tokenizer.json, SentencePiece by its model.

How text is cut before BPE is code in llama.cpp, chosen by a name. The name is given only where tokenizer.json cuts as
that code does; any other one is refused, for it would give other token ids without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tunemake.faults import Fault, ModelError

_NORMAL, _, _CONTROL, _USER_DEFINED, _UNUSED, _ = range(1, 7)  # token_type in the GGUF specification
_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# llama.cpp's name, and whether a word that is a token is taken whole, by the steps of tokenizer.json's pre-tokenizer.
_CUTS: tuple[tuple[str, bool, list[dict[str, Any]]], ...] = (
    ("smollm", False, [{"type": "Digits", "individual_digits": True}, {**_BYTES, "use_regex": True}]),
    ("gpt-2", False, [{**_BYTES, "use_regex": True}]),
    ("qwen2", False, [{"split": _CONTRACTIONS + r"\p{N}" + _REST}, {**_BYTES, "use_regex": False}]),
    ("llama-bpe", True, [{"split": _CONTRACTIONS + r"\p{N}{1,3}" + _REST}, {**_BYTES, "use_regex": False}]),
)
_KEPT = ("type", "add_prefix_space", "use_regex", "individual_digits")
# A model's normalisation that llama.cpp leaves out: composed characters are what people type.
_NORMALISED = {"qwen2": {"type": "NFC"}}
_GREEDY = ("lstrip", "rstrip", "single_word")  # of added tokens; llama.cpp finds them anywhere, and alone
_LOWEST = -1000.0  # of added tokens: never made by merging


def tokenizer_metadata(folder: Path, vocabulary: int, *, add_bos: bool) -> dict[str, Any]:
    """Give the metadata of a model folder's tokenizer by GGUF's keys.

    vocabulary: rows of the embeddings; what the tokenizer lacks of them is filled with unused tokens. add_bos: a text
    begins with the beginning-of-sequence token, which the chat template then has too; llama.cpp puts it once.
    Raises ModelError for a tokenizer that llama.cpp would read otherwise.
    """
    fast, config = _json(folder / "tokenizer.json"), _json(folder / "tokenizer_config.json")
    added = _added(fast, config)
    if greedy := [one["content"] for one in added if any(one.get(key) for key in _GREEDY)]:
        raise ModelError(
            _fault("no GGUF of a tokenizer whose special tokens take the spaces around them", got=greedy[0])
        )
    if (fast.get("model") or {}).get("byte_fallback") or not fast:
        told = _sentencepiece(folder, fast, added)
    else:
        told = _byte_level(fast)
    tokens = told["tokenizer.ggml.tokens"]
    if len(tokens) > vocabulary:
        what = "the tokenizer has more tokens than the model has embeddings"
        raise ModelError(_fault(what, f"at most {vocabulary}", str(len(tokens))))
    lacking = range(len(tokens), vocabulary)
    tokens += [f"[PAD{index}]" for index in lacking]
    told["tokenizer.ggml.token_type"] += [_UNUSED] * len(lacking)
    if "tokenizer.ggml.scores" in told:
        told["tokenizer.ggml.scores"] += [_LOWEST] * len(lacking)
    special = _special_ids(folder, config, {token: index for index, token in enumerate(tokens)})
    adds = {"tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.add_eos_token": False}
    return told | special | adds | _chat_template(folder, config)


def _byte_level(fast: Mapping[str, Any]) -> dict[str, Any]:
    model = fast.get("model") or {}
    if model.get("type") != "BPE":
        what = "no GGUF of this kind of tokenizer"
        raise ModelError(_fault(what, "byte-level BPE, or a SentencePiece model of BPE", str(model.get("type"))))
    tokens, types = _tokens(model["vocab"], fast.get("added_tokens", []))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _pre_tokenizer(fast), "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": merges,
    }  # fmt: skip


def _tokens(vocab: Mapping[str, int], added: list[Mapping[str, Any]]) -> tuple[list[str], list[int]]:
    """Give each id's token and its type; an id without a token is unused."""
    by_id = {index: (token, _NORMAL) for token, index in vocab.items()}
    by_id |= {one["id"]: (one["content"], _CONTROL if one["special"] else _USER_DEFINED) for one in added}
    pairs = [by_id.get(index, (f"[PAD{index}]", _UNUSED)) for index in range(max(by_id, default=-1) + 1)]
    return [token for token, _ in pairs], [kind for _, kind in pairs]


def _pre_tokenizer(fast: Mapping[str, Any]) -> str:
    told = fast.get("pre_tokenizer") or {}
    steps = [_step(step) for step in told.get("pretokenizers", [told])]
    whole = bool(fast["model"].get("ignore_merges"))
    for name, taken_whole, known in _CUTS:
        if steps == known and taken_whole == whole and fast.get("normalizer") in (None, _NORMALISED.get(name)):
            return name
    names = ", ".join(name for name, _, _ in _CUTS)
    what = "no GGUF of this tokenizer: tokenizer.json cuts or normalises text as no pre-tokenizer that is known here"
    raise ModelError(_fault(what, f"as one of {names}", json.dumps(steps)[:80]))


def _step(step: Mapping[str, Any]) -> dict[str, Any]:
    """Give what decides of a pre-tokenizer's step; a split only where its pieces stand alone, which all of these do."""
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return {"split": step["pattern"].get("Regex")}
    return {key: step[key] for key in _KEPT if key in step}


def _added(fast: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "added_tokens" in fast:
        return list(fast["added_tokens"])
    return [{"id": int(index), **told} for index, told in config.get("added_tokens_decoder", {}).items()]


def _sentencepiece(folder: Path, fast: Mapping[str, Any], added: list[dict[str, Any]]) -> dict[str, Any]:
    path = folder / "tokenizer.model"
    if not path.is_file():
        raise ModelError(_fault("no GGUF of a SentencePiece tokenizer without its scores", "tokenizer.model"))
    model = _model(path)
    _refuse_manners(model, fast)
    # The model's own types are GGUF's numbers.
    tokens, types = [piece.piece for piece in model.pieces], [piece.type for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    for one in sorted(added, key=lambda one: one["id"]):
        index = one["id"]
        lacking = range(len(tokens), index + 1)
        tokens += [f"[PAD{number}]" for number in lacking]
        types += [_UNUSED] * len(lacking)
        scores += [_LOWEST] * len(lacking)
        if tokens[index] != one["content"] or types[index] == _NORMAL:
            tokens[index], scores[index] = one["content"], _LOWEST
            types[index] = _CONTROL if one["special"] else _USER_DEFINED
    return {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": model.normalizer_spec.add_dummy_prefix,
    }  # fmt: skip


def _model(path: Path) -> Any:
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece import sentencepiece_model_pb2
    except ImportError as error:
        step = 'pip install "tunemake[export]"'
        raise ModelError(Fault("export.formats", f"{path.name} cannot be read: {error}", next_step=step)) from error
    protos: Any = sentencepiece_model_pb2  # its classes are made when it is imported
    model = protos.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(_fault(f"{path.name} cannot be read: {error}")) from error
    return model


def _refuse_manners(model: Any, fast: Mapping[str, Any]) -> None:
    """Refuse a model that is no BPE, that normalises text, or that begins a text otherwise than llama.cpp.

    That puts a space, if at all, at the beginning and after each special token, as slow tokenizers do.
    """
    kind = type(model.trainer_spec).ModelType.Name(model.trainer_spec.model_type)
    if kind != "BPE":
        raise ModelError(_fault("no GGUF of a SentencePiece model of this kind", "BPE", kind.lower()))
    if model.normalizer_spec.precompiled_charsmap or model.normalizer_spec.remove_extra_whitespaces:
        raise ModelError(_fault("no GGUF of a SentencePiece model that normalises text"))
    told = json.dumps([fast.get("normalizer"), fast.get("pre_tokenizer")])
    always = '"Prepend"' in told or '"prepend_scheme": "always"' in told
    if fast and ('"prepend_scheme": "first"' in told or always != model.normalizer_spec.add_dummy_prefix):
        raise ModelError(_fault("no GGUF of a tokenizer.json that begins words otherwise than its tokenizer.model"))


def _special_ids(folder: Path, config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """Give the ids of special tokens, and as eot_token_id one more that ends an answer, where there is one."""
    told = {**_json(folder / "special_tokens_map.json"), **config}
    found = {}
    for key, name in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        token = told.get(f"{key}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in ids:
            found[f"tokenizer.ggml.{name}_token_id"] = ids[token]
    ends = _json(folder / "generation_config.json").get("eos_token_id")
    others = [end for end in (ends if isinstance(ends, list) else [ends])
              if type(end) is int and end != found.get("tokenizer.ggml.eos_token_id")]  # fmt: skip
    return found | ({"tokenizer.ggml.eot_token_id": others[0]} if others else {})


def _chat_template(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    file = folder / "chat_template.jinja"
    source = file.read_text("utf-8") if file.is_file() else config.get("chat_template")
    return {"tokenizer.chat_template": source} if isinstance(source, str) and source else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ModelError(_fault(f"{path.name} cannot be read: {error}")) from error
    return value if isinstance(value, dict) else {}


def _fault(what: str, expected: str | None = None, got: str | None = None) -> Fault:
    return Fault("export.formats", what, expected, got, "take the gguf formats out of export.formats")


def ends_of(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Give the tokens at which llama.cpp ends an answer by itself."""
    for name in ("eos", "eot"):
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if index is not None:
            yield metadata["tokenizer.ggml.tokens"][index]
