"""The tokenizer in a GGUF file as `transformers` reads one; runs in llmserve's own environment, as a process:

python -P tests/clients/tokenizer.py MODEL_FILE FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf

_CONTROL = gguf.TokenType.CONTROL


def tokenizer(path: str) -> dict[str, object]:
    """That of SmolLM2: bytes in GPT-2's spelling, each digit apart."""
    fields = gguf.GGUFReader(path).fields
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type"))
    bytes_of = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": token, **plain}
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _CONTROL
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, {"type": "ByteLevel", **bytes_of}]},
        "decoder": {"type": "ByteLevel", **bytes_of},
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }


if __name__ == "__main__":
    model, folder = sys.argv[1], Path(sys.argv[2])
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(model)))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
