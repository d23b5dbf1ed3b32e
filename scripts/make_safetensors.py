"""Make a bf16 safetensors model out of a llama-architecture GGUF file: `python make_safetensors.py FILE.gguf FOLDER`.

Runs in an environment with transformers, torch, gguf and accelerate, as `scripts/test-vllm` makes it. The weights are
those of the file, dequantized and rounded to bfloat16; tokenizer and chat template come along.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def convert(source: Path, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.bfloat16)
    # It still takes itself for quantized, and would say so in its configuration.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
