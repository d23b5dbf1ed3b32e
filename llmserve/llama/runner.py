"""The only file that touches llama.cpp: a model, a context, and batches in and logits out.

Native code ends the process where it finds an argument it does not like, so every such condition is checked here
first: a batch within `n_batch`, slots and positions in range, logits read only where they were asked for.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from llmserve.errors import InvalidModel
from llmserve.llama.batch import Batch, Chunk, Copy, Drop, Forget, Keep, Operation, Restore, Save, Trim
from llmserve.llama.engine import EngineFailed, OutOfRoom
from llmserve.llama.sequence import Sequence
from llmserve.llama.thread_governor import governor_of_this_process
from llmserve.llama.token_batch import TokenBatch
from llmserve.types import EnginePlan

_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0, "q4_0": llama_cpp.GGML_TYPE_Q4_0}
# ggml's log levels from here on are warnings and errors.
_WARN = 3


class Runner:
    """One loaded model with its context. Everything but `tokenize` and `piece` belongs to one thread.

    Raises `InvalidModel` if llama.cpp refuses the file or the context. `progress` is called with 0..1 while weights
    are read.
    """

    def __init__(
        self, path: Path, plan: EnginePlan, slots: int, progress: Callable[[float], None] = lambda _: None
    ) -> None:
        self._log = log_warnings_only()
        llama_cpp.llama_backend_init()
        self._model = load_model(path, plan, progress)
        self._context = _open_context(self._model, plan, slots)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self.vocabulary = Vocabulary(self._model)
        self.cells = int(llama_cpp.llama_n_ctx(self._context))
        self.cuttable = _is_cuttable(self._model)
        self._most_outputs = _most_outputs(plan, slots)
        self._unified = plan.kv_layout == "unified"
        self._saved: dict[int, npt.NDArray[np.uint8]] = {}
        self._batch = TokenBatch(int(llama_cpp.llama_n_batch(self._context)), slots)
        self._governor = governor_of_this_process(plan.threads)
        self._threads = plan.threads

    def apply_adapters(self, adapters: Iterable[tuple[Path, float]]) -> None:
        """Change the weights by these adapters (LoRA), each with its scale, for every sequence from now on.

        Raises `InvalidModel` for one that does not fit the model.
        """
        handles, scales = [], []
        for path, scale in adapters:
            handle = llama_cpp.llama_adapter_lora_init(self._model, str(path).encode())
            if not handle:
                raise InvalidModel(
                    f"llama.cpp refused the adapter {path.name}", hint="the worker's log has llama.cpp's own words"
                )
            handles.append(handle)
            scales.append(scale)
        if not handles:
            return
        count = len(handles)
        pointers = (llama_cpp.llama_adapter_lora_p_ctypes * count)(*handles)
        if llama_cpp.llama_set_adapters_lora(self._context, pointers, count, (ctypes.c_float * count)(*scales)) != 0:
            raise InvalidModel("llama.cpp could not apply the adapters")

    def chat_template(self, name: str | None = None) -> str | None:
        """The template of that name in the model file, or the one without a name, if there is one."""
        source = llama_cpp.llama_model_chat_template(self._model, name.encode() if name is not None else None)
        return source.decode(errors="replace") if source else None

    @property
    def architecture(self) -> str | None:
        return self.metadata(["general.architecture"]).get("general.architecture")

    def metadata(self, keys: Collection[str]) -> dict[str, str]:
        """The values that the model file has for these GGUF keys, as text; longer ones are cut at 127 bytes."""
        values: dict[str, str] = {}
        value = ctypes.create_string_buffer(128)
        for key in keys:
            if llama_cpp.llama_model_meta_val_str(self._model, key.encode(), value, len(value)) >= 0:
                values[key] = value.value.decode(errors="replace")
        return values

    def grammar_tokenizer(self) -> Any:
        """llguidance's tokenizer over this vocabulary. Takes about a second."""
        from llguidance.llamacpp import lltokenizer_from_vocab

        return lltokenizer_from_vocab(self.vocabulary.handle, eos_token=list(self.vocabulary.ends))

    def warm_up(self) -> None:
        """Compute one token and forget it, so that the first request does not pay for first touches of memory."""
        token = max(0, self.vocabulary.bos)
        sequence = Sequence([token, token], 1, 2)
        self.decode(Batch(chunks=[Chunk(sequence, 0, 0, 1, True)]))
        self.clear()

    def decode(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Carry out the batch's cache operations, then compute its chunks.

        Returns float32 [rows of all chunks, vocabulary], in the order of the chunks and of their tokens: a view into
        llama.cpp's memory that is valid, and may be written to, until the next call. Raises `OutOfRoom` or
        `EngineFailed`.
        """
        for operation in batch.operations:
            self._carry_out(operation)
        batch.operations.clear()
        if not batch.chunks:
            return np.empty((0, self.vocabulary.size), dtype=np.float32)
        self._share_processors()
        if self._unified:
            return self._compute(batch.chunks)
        return self._compute_apart(batch.chunks)

    def _share_processors(self) -> None:
        threads = self._governor.observe(time.monotonic())
        if threads != self._threads:
            llama_cpp.llama_set_n_threads(self._context, threads, threads)
            self._threads = threads

    def _compute_apart(self, chunks: list[Chunk]) -> npt.NDArray[np.float32]:
        """Compute chunks of streams: all that are equally long at once.

        llama.cpp cuts a batch over several streams into pieces of equal length; chunks of different lengths would
        leave a pass over all the weights for every remainder.
        """
        calls: dict[int, list[Chunk]] = {}
        for chunk in chunks:
            calls.setdefault(chunk.count, []).append(chunk)
        if len(calls) == 1:
            return self._compute(chunks)
        rows: dict[int, npt.NDArray[np.float32]] = {}
        for _, call in sorted(calls.items()):
            logits, first = self._compute(call).copy(), 0
            for chunk in call:
                rows[chunk.slot] = logits[first : first + chunk.rows]
                first += chunk.rows
        return np.concatenate([rows[chunk.slot] for chunk in chunks])

    def _compute(self, chunks: list[Chunk]) -> npt.NDArray[np.float32]:
        """One call of llama.cpp; its rows of logits, as a view that the next call overwrites."""
        self._batch.clear()
        for chunk in chunks:
            self._batch.add(chunk.tokens, sequence=chunk.slot, position=chunk.start, outputs=chunk.rows)
        outputs = sum(chunk.rows for chunk in chunks)
        if outputs > self._most_outputs:
            raise ValueError(f"a step of {outputs} rows of logits is over the context's {self._most_outputs}")
        status = llama_cpp.llama_decode(self._context, self._batch.struct)
        if status == 1:
            raise OutOfRoom
        if status != 0:
            raise EngineFailed(f"the engine could not compute a step (status {status})")
        if outputs == 0:
            return np.empty((0, self.vocabulary.size), dtype=np.float32)
        # The rows of one decode lie behind each other, in the order in which their tokens stand in the batch.
        rows = ctypes.cast(llama_cpp.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(rows, shape=(outputs, self.vocabulary.size))

    def _carry_out(self, operation: Operation) -> None:
        match operation:
            case Drop(slot):
                llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)
            case Trim(slot, length):
                llama_cpp.llama_memory_seq_rm(self._memory, slot, length, -1)
            case Copy(source, target, length) if self._unified:
                llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)
            case Copy(source, target, length):
                # Between streams llama.cpp's own copy takes the whole stream, used or not.
                self._write_state(target, self._read_state(source), length)
            case Save(slot, key):
                self._saved[key] = self._read_state(slot)
            case Restore(key, slot, length):
                self._write_state(slot, self._saved[key], length)
            case Forget(key):
                del self._saved[key]
            case Keep(key, state):
                self._saved[key] = state

    def saved_state(self, key: int) -> npt.NDArray[np.uint8]:
        """What was saved under `key`: not copied, and valid as long as somebody holds it."""
        return self._saved[key]

    def state_layout(self, plan: EnginePlan) -> str:
        """Everything that decides how a saved state is laid out, and whether one of another run means the same here.

        The library counts by its bytes, since builds of one version differ. Some models encode all positions otherwise
        where the context is longer than the one they were first trained on.
        """
        library = hashlib.sha256(Path(llama_cpp.llama_cpp._lib._name).read_bytes()).hexdigest()
        trained = f"{self.architecture}.rope.scaling.original_context_length"
        original = self.metadata([trained]).get(trained)
        is_long = original is not None and int(llama_cpp.llama_n_ctx_seq(self._context)) > int(original)
        return " ".join(
            [
                f"llama-cpp-python {llama_cpp.__version__} {library}",
                f"{plan.kv_type} {plan.kv_layout} flash_attention={plan.flash_attention}",
                f"{sys.byteorder} long_context={is_long}",
            ]
        )

    def _read_state(self, slot: int) -> npt.NDArray[np.uint8]:
        """All that `slot` holds, as llama.cpp writes it."""
        size = int(llama_cpp.llama_state_seq_get_size(self._context, slot))
        state = np.empty(size, dtype=np.uint8)
        written = llama_cpp.llama_state_seq_get_data(self._context, _bytes_at(state), size, slot)
        if written != size:
            raise EngineFailed(f"the state of a sequence could not be saved ({written} of {size} bytes)")
        return state

    def _write_state(self, slot: int, state: npt.NDArray[np.uint8], length: int) -> None:
        """Fill the empty `slot` with the first `length` tokens of `state`."""
        if not llama_cpp.llama_state_seq_set_data(self._context, _bytes_at(state), state.size, slot):
            raise EngineFailed("the state of a sequence could not be restored")
        if self.cuttable:
            llama_cpp.llama_memory_seq_rm(self._memory, slot, length, -1)

    def clear(self) -> None:
        """Empty the cache, and forget what was saved of it."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self._saved.clear()


class Vocabulary:
    """The model's tokens. Reading it is safe from any thread."""

    def __init__(self, model: Any) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))
        self.ends = tuple(token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, token))
        self._pieces: dict[int, bytes] = {}

    def tokenize(self, text: str, *, special: bool, whole: bool = False) -> list[int]:
        """Token ids of `text`. `special`: control tokens in it are recognised. `whole`: what the model's texts begin
        and end with is added, as far as the file says so."""
        data = text.encode()
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, whole, special)
        if count < 0:
            room = -count
            tokens = (ctypes.c_int32 * room)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, whole, special)
        return tokens[:count]

    def detokenize(self, tokens: Collection[int]) -> str:
        """The text of token ids inside the vocabulary, control tokens spelt out."""
        count = len(tokens)
        ids = (ctypes.c_int32 * count)(*tokens)
        room = 8 * count + 64
        text = ctypes.create_string_buffer(room)
        length = llama_cpp.llama_detokenize(self._vocab, ids, count, text, room, False, True)
        if length < 0:
            room = -length
            text = ctypes.create_string_buffer(room)
            length = llama_cpp.llama_detokenize(self._vocab, ids, count, text, room, False, True)
        return text.raw[:length].decode(errors="replace")

    def piece(self, token: int) -> bytes:
        """The bytes `token` stands for in text: nothing for control tokens, perhaps part of a character."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def spelling(self, token: int) -> bytes:
        """The bytes of `token`, a control token written out."""
        return self.piece(token) or self._read_piece(token, special=True)

    def control_texts(self) -> tuple[str, ...]:
        """How the control tokens are written, longest first."""
        texts = {
            self._read_piece(token, special=True).decode(errors="replace")
            for token in range(self.size)
            if llama_cpp.llama_vocab_is_control(self._vocab, token)
            or llama_cpp.llama_vocab_get_attr(self._vocab, token) & llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
        }
        return tuple(sorted((text for text in texts if text), key=len, reverse=True))

    def text(self, token: int) -> str:
        """How a special token is written ("" if `token` is negative, which means the model has none)."""
        return self._read_piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    @property
    def bos(self) -> int:
        return int(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> int:
        return int(llama_cpp.llama_vocab_eos(self._vocab))

    @property
    def fill_in_the_middle(self) -> tuple[int, int, int] | None:
        """The tokens before the text in front of a gap, the text behind it and the gap's own text, if it has them."""
        prefix = int(llama_cpp.llama_vocab_fim_pre(self._vocab))
        suffix = int(llama_cpp.llama_vocab_fim_suf(self._vocab))
        middle = int(llama_cpp.llama_vocab_fim_mid(self._vocab))
        return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None

    def spellings(self) -> list[bytes]:
        """How every token is written, by id: control tokens too. Takes up to half a second."""
        return [self._read_piece(token, special=True) for token in range(self.size)]

    def special(self) -> list[int]:
        """The tokens that are not text: control tokens, and the user-defined ones that look like those."""
        return [token for token in range(self.size) if self._is_special(token)]

    def _is_special(self, token: int) -> bool:
        attributes = llama_cpp.llama_vocab_get_attr(self._vocab, token)
        if attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL:
            return True
        if not attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED:
            return False
        written = self._read_piece(token, special=True)
        return written.startswith(b"<") and written.endswith(b">")

    @property
    def handle(self) -> Any:
        """llama.cpp's own pointer, for the grammar library's reader of vocabularies."""
        return self._vocab

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(64)
        length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        return buffer.raw[: max(0, length)]


def _bytes_at(array: npt.NDArray[np.uint8]) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def load_model(path: Path, plan: EnginePlan, progress: Callable[[float], None]) -> Any:
    """llama.cpp's model, its layers placed as the plan says. Raises `InvalidModel`."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = plan.gpu_layers
    split = _tensor_split(plan)
    parameters.tensor_split = split
    overrides = _experts_in_ram(plan)
    parameters.tensor_buft_overrides = ctypes.cast(overrides, ctypes.c_void_p) if overrides is not None else None

    @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator]
    def report(done: float, _: Any) -> bool:
        progress(done)
        return True

    parameters.progress_callback = report
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if model is None:
        raise InvalidModel("llama.cpp refused the model file", hint="the worker's log has llama.cpp's own words")
    return model


def _tensor_split(plan: EnginePlan) -> Any:
    """The planned number of layers for each GPU that llama.cpp sees; 0 keeps it off those the plan left out."""
    split = (ctypes.c_float * int(llama_cpp.llama_max_devices()))()
    for device, layers in zip(plan.devices, plan.gpu_split, strict=False):
        _, _, index = device.partition(":")
        split[int(index)] = layers
    return split if plan.gpu_split else None


class _BufferOverride(ctypes.Structure):
    """llama.cpp's `llama_model_tensor_buft_override`: the buffer for the tensors whose names match a pattern."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def _experts_in_ram(plan: EnginePlan) -> Any:
    """What keeps the experts of the plan's first layers in RAM: an array that ends with an empty entry, or None."""
    if not plan.experts_in_ram:
        return None
    # A function of ggml, which libllama depends on.
    cpu_buffer_type = llama_cpp.llama_cpp._lib.ggml_backend_cpu_buffer_type
    cpu_buffer_type.restype, cpu_buffer_type.argtypes = ctypes.c_void_p, ()
    layers = "|".join(map(str, range(plan.experts_in_ram)))
    pattern = rf"blk\.({layers})\.ffn_(up|down|gate|gate_up)_(ch)?exps"
    return (_BufferOverride * 2)(_BufferOverride(pattern.encode(), cpu_buffer_type()), _BufferOverride())


def context_parameters(plan: EnginePlan) -> Any:
    """llama.cpp's parameters of a context, with what the plan says for any kind of model."""
    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = plan.kv_cells
    parameters.n_batch = plan.batch
    parameters.n_ubatch = plan.micro_batch
    # A step of one token uses n_threads, any other n_threads_batch: both are the plan's.
    parameters.n_threads = parameters.n_threads_batch = plan.threads
    parameters.flash_attn_type = (
        llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if plan.flash_attention else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    )
    parameters.no_perf = True
    return parameters


def open_context(model: Any, parameters: Any) -> Any:
    """A context of `model`, which is freed where there can be none. Raises `InvalidModel`."""
    context = llama_cpp.llama_init_from_model(model, parameters)
    if context is None:
        llama_cpp.llama_model_free(model)
        raise InvalidModel(
            "llama.cpp could not open a context for the model", hint="a smaller --context may fit into memory"
        )
    return context


def _open_context(model: Any, plan: EnginePlan, slots: int) -> Any:
    parameters = context_parameters(plan)
    parameters.n_seq_max = slots
    # Without this bound every token of a micro-batch gets room for logits.
    parameters.n_outputs_max = _most_outputs(plan, slots)
    parameters.type_k = parameters.type_v = _KV_TYPES[plan.kv_type]
    parameters.kv_unified = plan.kv_layout == "unified"
    return open_context(model, parameters)


def _most_outputs(plan: EnginePlan, slots: int) -> int:
    """Rows of logits that one step may give."""
    return min(plan.batch, max(plan.parallel, slots) + plan.spare_rows)


def _is_cuttable(model: Any) -> bool:
    """Whether a sequence's memory can be cut at any token: not where it is a recurrent state or a sliding window."""
    return not (
        llama_cpp.llama_model_is_recurrent(model)
        or llama_cpp.llama_model_is_hybrid(model)
        or llama_cpp.llama_model_n_swa(model) > 0
    )


def log_warnings_only() -> Any:
    """Send llama.cpp's warnings and errors to standard error; returns the callback, which must stay referenced."""

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def write(level: int, text: bytes, _: Any) -> None:
        if _WARN <= level < _WARN + 2:
            sys.stderr.write(text.decode(errors="replace"))

    llama_cpp.llama_log_set(write, None)
    return write
