"""The words of which a setting, a plan or a description of a model takes one."""

from __future__ import annotations

from typing import Literal

Engine = Literal["llama.cpp", "vllm"]
Device = Literal["cpu", "cuda", "rocm", "metal", "vulkan"]
KvType = Literal["f16", "q8_0", "q4_0"]
KvLayout = Literal["unified", "split"]
WaitPolicy = Literal["passive", "active"]
LoadShape = Literal["one-user", "many-users", "long-prompts"]
ModelFormat = Literal["gguf", "safetensors"]
ModelKind = Literal["generate", "embed"]
