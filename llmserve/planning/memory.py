"""How many bytes a model needs: weights, KV cache and compute buffers. Exact where the engine's own sums are known.

The formulas are those of llama.cpp (`llama_kv_cache`, `llama_kv_cache_iswa`, graph reservation), restated.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmserve.types import KvLayout, KvType, LayerInfo, ModelInfo

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# llama.cpp allocates KV cells in multiples of this.
CELL_ALIGNMENT = 256
# Elements per block and bytes per block of each KV type: a block of q8_0 is 32 bytes and one f16 scale.
_BLOCKS: dict[KvType, tuple[int, int]] = {"f16": (1, 2), "q8_0": (32, 34), "q4_0": (32, 18)}
# Architectures that llama.cpp runs without any KV cache: the whole sequence is one graph.
_WITHOUT_CACHE = frozenset(
    {
        "bert",
        "dream",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llada",
        "llada-moe",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "rnd1",
    }
)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a run asks of the memory besides the weights. `outputs` is the number of rows of logits one step makes.

    `cells` is the whole pool, which in the layout "split" is divided evenly among the `parallel` sequences.
    """

    context: int
    cells: int
    parallel: int
    kv_type: KvType
    batch: int
    micro_batch: int
    outputs: int
    layout: KvLayout = "unified"
    flash_attention: bool = True

    @property
    def attended_cells(self) -> int:
        """The most cells that one token's attention walks over."""
        return self.cells if self.layout == "unified" else self.cells // self.parallel


def padded(cells: int) -> int:
    """`cells` rounded up to what the engine allocates."""
    return -(-cells // CELL_ALIGNMENT) * CELL_ALIGNMENT


def kv_type_fits(model: ModelInfo, kv_type: KvType) -> bool:
    """Whether every head's keys and values are whole blocks of `kv_type`; llama.cpp refuses the context otherwise."""
    elements, _ = _BLOCKS[kv_type]
    return all(
        layer.key_length % elements == 0 and layer.value_length % elements == 0
        for layer in model.layers
        if layer.kv_heads
    )


def kv_bytes_per_token(model: ModelInfo, kv_type: KvType) -> int:
    """Bytes one token adds to the KV cache, as long as it is inside every layer's window."""
    if model.architecture in _WITHOUT_CACHE:
        return 0
    return sum(_token_bytes(layer, kv_type) for layer in model.layers)


def kv_bytes(model: ModelInfo, kv_type: KvType, cells: int, parallel: int, micro_batch: int) -> int:
    """Bytes of a pool of `cells` tokens that `parallel` sequences share, recurrent states included.

    A layer with a sliding window keeps no more than every sequence's window and the tokens of one graph.
    """
    return sum(layer_kv_bytes(model, kv_type, cells, parallel, micro_batch))


def layer_kv_bytes(model: ModelInfo, kv_type: KvType, cells: int, parallel: int, micro_batch: int) -> tuple[int, ...]:
    """`kv_bytes` layer by layer, in the order of `model.layers`."""
    if model.architecture in _WITHOUT_CACHE:
        return (0,) * len(model.layers)
    pool = padded(cells)
    return tuple(
        _token_bytes(layer, kv_type) * _kept_cells(layer, pool, parallel, micro_batch) + layer.state_bytes * parallel
        for layer in model.layers
    )


def compute_bytes(
    model: ModelInfo, micro_batch: int, outputs: int, cells: int = 0, *, flash_attention: bool = True
) -> int:
    """Bytes of the scratch buffer of one graph of `micro_batch` tokens with `outputs` rows of logits.

    The buffer is reused along the graph, so its size is the larger of two stages, in 4-byte floats: a block
    (micro_batch * (3 * feed_forward + 4 * embedding), and a 2-byte attention mask over the pool's `cells`) and the
    output head (outputs * (vocabulary + 2 * embedding), which an embedding model lacks). Fitted to what llama.cpp
    (llama-cpp-python 0.3.36) reserves for SmolLM2-135M, Llama-3.1-8B, Qwen2.5-7B, Gemma-2-9B and Gemma-3-4B: within
    7 %. Without flash attention the scores of every head for every cell come to it.
    """
    mask = 2 * micro_batch * padded(cells)
    if any(layer.sliding_window for layer in model.layers):
        mask *= 2  # one mask for the full layers, one for the windowed ones
    block = 4 * micro_batch * (3 * model.feed_forward_length + 4 * model.embedding_length) + mask
    if not flash_attention:
        block += 4 * micro_batch * model.heads * padded(cells)
    head = 0 if model.kind == "embed" else 4 * outputs * (model.vocabulary + 2 * model.embedding_length)
    return max(block, head)


def host_compute_bytes(model: ModelInfo, demand: Demand) -> int:
    """Bytes the host needs for a graph that runs wholly on GPUs: embedded input, mask, and the returned logits."""
    inputs = 4 * demand.micro_batch * model.embedding_length + 2 * demand.micro_batch * padded(demand.attended_cells)
    return inputs + logits_bytes(model, demand.outputs)


def logits_bytes(model: ModelInfo, outputs: int) -> int:
    """Bytes of the buffer that the caller reads logits from, which lies in RAM wherever the model runs."""
    return 4 * outputs * model.vocabulary


def weight_bytes(model: ModelInfo) -> int:
    """Bytes of all tensors."""
    return model.input_bytes + sum(layer.weight_bytes for layer in model.layers) + model.output_bytes


def head_bytes(model: ModelInfo) -> int:
    """Bytes the output layer takes on a GPU.

    A file without an output matrix of its own uses the token embeddings twice; they stay in RAM, so the GPU gets a
    copy (at most 16-bit: other input tensors, such as per-layer embeddings, are not copied).
    """
    if model.output_bytes * 8 >= model.input_bytes:
        return model.output_bytes
    return model.output_bytes + min(model.input_bytes, 2 * model.vocabulary * model.embedding_length)


def _token_bytes(layer: LayerInfo, kv_type: KvType) -> int:
    return _row_bytes(layer.kv_heads * layer.key_length, kv_type) + _row_bytes(
        layer.kv_heads * layer.value_length, kv_type
    )


def _row_bytes(elements: int, kv_type: KvType) -> int:
    block_elements, block_bytes = _BLOCKS[kv_type]
    return -(-elements // block_elements) * block_bytes


def _kept_cells(layer: LayerInfo, pool: int, parallel: int, micro_batch: int) -> int:
    if layer.sliding_window is None:
        return pool
    return padded(min(pool, layer.sliding_window * parallel + micro_batch))
