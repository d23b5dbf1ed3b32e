"""Models from 135M to 70B parameters as an inspector would describe them, from their published architectures.

Sizes are those of published files. A file's tensors are spread as uniformly quantized: the embeddings and the head by
`head_bits` per weight, the rest over the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.types import LayerInfo, ModelFormat, ModelInfo


@dataclass(frozen=True)
class Shape:
    """The numbers of a model card. `windows[i % len(windows)]` is the sliding window of layer i."""

    architecture: str
    size_bytes: int
    parameters: int
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    vocabulary: int
    context: int
    head_bits: float = 6.5625
    tied: bool = False
    windows: tuple[int | None, ...] = (None,)
    state_bytes: int = 0
    # The part of a layer's weights that is experts, and how many of the first layers have none.
    expert_share: float = 0.0
    dense_layers: int = 0


def build(name: str, quantization: str, shape: Shape, *, format: ModelFormat = "gguf") -> ModelInfo:
    embeddings = int(shape.vocabulary * shape.embedding * shape.head_bits) // 8
    norm = 4 * shape.embedding
    output = norm if shape.tied else norm + embeddings
    block = (shape.size_bytes - embeddings - output) // shape.layers
    return ModelInfo(
        format=format,
        architecture=shape.architecture,
        kind="embed" if "bert" in shape.architecture else "generate",
        name=name,
        parameters=shape.parameters,
        quantization=quantization,
        size_bytes=shape.size_bytes,
        context_length=shape.context,
        embedding_length=shape.embedding,
        feed_forward_length=shape.feed_forward,
        heads=shape.heads,
        vocabulary=shape.vocabulary,
        layers=tuple(
            LayerInfo(
                weight_bytes=block,
                kv_heads=shape.kv_heads,
                key_length=shape.key_length,
                value_length=shape.value_length,
                sliding_window=shape.windows[index % len(shape.windows)],
                state_bytes=shape.state_bytes,
                expert_bytes=int(block * shape.expert_share) if index >= shape.dense_layers else 0,
            )
            for index in range(shape.layers)
        ),
        input_bytes=embeddings,
        output_bytes=output,
        chat_template=None,
        license=None,
        tensor_types=((quantization, 1),),
    )


SMOLLM2_135M = build(
    "SmolLM2-135M-Instruct",
    "Q4_1",
    Shape("llama", 98_362_432, 134_515_008, 30, 576, 1536, 9, 3, 64, 64, 49152, 8192, head_bits=8.5, tied=True),
)
QWEN25_500M = build(
    "Qwen2.5-0.5B-Instruct",
    "Q4_K_M",
    Shape("qwen2", 397_808_192, 494_032_768, 24, 896, 4864, 14, 2, 64, 64, 151936, 32768, head_bits=8.5, tied=True),
)
LLAMA32_1B = build(
    "Llama-3.2-1B-Instruct",
    "Q4_K_M",
    Shape("llama", 807_694_464, 1_235_814_400, 16, 2048, 8192, 32, 8, 64, 64, 128256, 131072, tied=True),
)
GEMMA3_4B = build(
    "gemma-3-4b-it",
    "Q4_K_M",
    Shape(
        "gemma3",
        2_489_757_856,
        3_880_099_328,
        34,
        2560,
        10240,
        8,
        4,
        256,
        256,
        262208,
        131072,
        tied=True,
        windows=(1024, 1024, 1024, 1024, 1024, None),
    ),
)
QWEN25_7B = build(
    "Qwen2.5-7B-Instruct",
    "Q4_K_M",
    Shape("qwen2", 4_683_074_240, 7_615_616_512, 28, 3584, 18944, 28, 4, 128, 128, 152064, 32768),
)
_LLAMA31_8B = Shape("llama", 4_920_739_232, 8_030_261_248, 32, 4096, 14336, 32, 8, 128, 128, 128256, 131072)
LLAMA31_8B = build("Meta-Llama-3.1-8B-Instruct", "Q4_K_M", _LLAMA31_8B)
GEMMA2_9B = build(
    "gemma-2-9b-it",
    "Q4_K_M",
    Shape(
        "gemma2",
        5_761_057_728,
        9_241_705_984,
        42,
        3584,
        14336,
        16,
        8,
        256,
        256,
        256000,
        8192,
        tied=True,
        windows=(4096, None),
    ),
)
DEEPSEEK_V2_LITE = build(
    "DeepSeek-V2-Lite-Chat",
    "Q4_K_M",
    Shape(
        "deepseek2",
        10_364_416_768,
        15_706_484_224,
        27,
        2048,
        10944,
        16,
        16,
        192,
        128,
        102400,
        163840,
        expert_share=0.94,
        dense_layers=1,
    ),
)
QWEN3_32B = build(
    "Qwen3-32B",
    "Q4_K_M",
    Shape("qwen3", 19_762_149_024, 32_762_123_264, 64, 5120, 25600, 64, 8, 128, 128, 151936, 40960),
)
MIXTRAL_8X7B = build(
    "Mixtral-8x7B-Instruct-v0.1",
    "Q4_K_M",
    Shape("llama", 26_441_533_376, 46_702_792_704, 32, 4096, 14336, 32, 8, 128, 128, 32000, 32768, expert_share=0.97),
)
# Sizes and shape: https://github.com/ggml-org/llama.cpp/issues/14235
QWEN3_30B_A3B = build(
    "Qwen3-30B-A3B",
    "Q4_K_M",
    Shape(
        "qwen3moe", 18_556_689_568, 30_532_122_624, 48, 2048, 6144, 32, 4, 128, 128, 151936, 40960, expert_share=0.96
    ),
)
LLAMA31_70B = build(
    "Meta-Llama-3.1-70B-Instruct",
    "Q4_K_M",
    Shape("llama", 42_520_395_584, 70_553_706_496, 80, 8192, 28672, 64, 8, 128, 128, 128256, 131072),
)
LLAMA31_8B_BF16 = build(
    "Meta-Llama-3.1-8B-Instruct",
    "BF16",
    Shape("llama", 16_060_522_496, 8_030_261_248, 32, 4096, 14336, 32, 8, 128, 128, 128256, 131072, head_bits=16),
    format="safetensors",
)
MAMBA_2_8B = build(
    "mamba-2.8b",
    "Q4_K_M",
    # No attention: a convolution of 3 and a state of 16 floats per inner channel, for each sequence.
    Shape(
        "mamba", 1_697_000_000, 2_768_345_600, 64, 2560, 5120, 1, 0, 0, 0, 50280, 8192, state_bytes=4 * 5120 * (3 + 16)
    ),
)
NOMIC_EMBED = build(
    "nomic-embed-text-v1.5",
    "F16",
    Shape("nomic-bert", 274_290_560, 136_731_648, 12, 768, 3072, 12, 12, 64, 64, 30522, 2048, head_bits=16, tied=True),
)

GGUF_MODELS = {
    "smollm2-135m": SMOLLM2_135M,
    "qwen2.5-0.5b": QWEN25_500M,
    "llama3.2-1b": LLAMA32_1B,
    "gemma3-4b": GEMMA3_4B,
    "qwen2.5-7b": QWEN25_7B,
    "llama3.1-8b": LLAMA31_8B,
    "gemma2-9b": GEMMA2_9B,
    "deepseek-v2-lite": DEEPSEEK_V2_LITE,
    "qwen3-30b-a3b": QWEN3_30B_A3B,
    "qwen3-32b": QWEN3_32B,
    "mixtral-8x7b": MIXTRAL_8X7B,
    "llama3.1-70b": LLAMA31_70B,
    "mamba-2.8b": MAMBA_2_8B,
    "nomic-embed": NOMIC_EMBED,
}
