"""The decoder of llama.cpp: one model with its KV cache, batches in and logits out."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from llmserve.errors import LlmserveError
from llmserve.llama.adapter_sets import AdapterSet
from llmserve.llama.batch import Batch, Chunk, Copy, Drop, Forget, Keep, Operation, Restore, Save, Trim
from llmserve.llama.engine import Aborted
from llmserve.llama.fillers import Fillers
from llmserve.llama.native_context import NativeContext
from llmserve.llama.native_metadata import ARCHITECTURE, metadata_value
from llmserve.llama.native_model import FILE_TYPE, is_cuttable, load_adapter, load_model, log_warnings_only, row_tile
from llmserve.llama.sequence import Sequence as TokenSequence
from llmserve.llama.stream_calls import calls
from llmserve.llama.thread_governor import governor_of_this_process
from llmserve.llama.vocabulary import Vocabulary
from llmserve.types import EnginePlan


class Runner:
    """One loaded model with a cache of `slots` sequences, which may be replaced by a larger one.

    Where a sequence's memory cannot be cut, nothing of it can be shared, and each takes its own whether it runs or not:
    then there are no more than the plan's `parallel`.

    Everything but `open_context` and what reads the model belongs to one thread. `progress` is called with 0..1 while
    weights are read. A batch is computed with one of the sets of `adapters`, whose number it gives; all of them are
    loaded. Raises `InvalidModel` if llama.cpp refuses a file or the context.
    """

    def __init__(
        self,
        path: Path,
        plan: EnginePlan,
        slots: int,
        progress: Callable[[float], None] = lambda _: None,
        adapters: Sequence[AdapterSet] = ((),),
    ) -> None:
        self._log = log_warnings_only()
        llama_cpp.llama_backend_init()
        self._plan = plan
        self._model = load_model(path, plan, progress)
        self.vocabulary = Vocabulary(self._model)
        self.cuttable = is_cuttable(self._model)
        # Before a context is opened: llama.cpp makes room for their operations in its graphs then.
        loaded = {
            path: load_adapter(self._model, path) for path in dict.fromkeys(p for one in adapters for p, _ in one)
        }
        self._adapters = [[(loaded[path], scale) for path, scale in one] for one in adapters]
        # The number of the set that the context computes with.
        self._adapter = 0
        self._unified = plan.kv_layout == "unified"
        self._saved: dict[int, npt.NDArray[np.uint8]] = {}
        self._governor = governor_of_this_process(plan.threads)
        self._threads = plan.threads
        # Whether a thread is opening another context meanwhile.
        self._opening = False
        self._context = self.open_context(slots if self.cuttable else min(slots, plan.parallel))
        if self._adapters[0]:
            self._context.apply_adapters(self._adapters[0])
        tile = row_tile(self.metadata([FILE_TYPE])) if plan.devices == ("cpu",) else 1
        self._fillers = Fillers(tile, self._context.longest, min(plan.batch, plan.micro_batch))

    @property
    def slots(self) -> int:
        return self._context.slots

    @property
    def cells(self) -> int:
        """Tokens that the cache holds."""
        return self._context.cells

    def chat_template(self, name: str | None = None) -> str | None:
        """The template of that name in the model file, or the one without a name, if there is one."""
        source = llama_cpp.llama_model_chat_template(self._model, name.encode() if name is not None else None)
        return source.decode(errors="replace") if source else None

    @property
    def architecture(self) -> str | None:
        return metadata_value(self._model, ARCHITECTURE)

    def metadata(self, keys: Collection[str]) -> dict[str, str]:
        """The values that the model file has for these GGUF keys, as text; longer ones are cut at 127 bytes."""
        found = {key: metadata_value(self._model, key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def grammar_tokenizer(self) -> Any:
        """llguidance's tokenizer over this vocabulary. Takes about a second."""
        from llguidance.llamacpp import lltokenizer_from_vocab

        return lltokenizer_from_vocab(self.vocabulary.handle, eos_token=list(self.vocabulary.ends))

    def warm_up(self) -> None:
        """Compute one token and forget it, so that the first request does not pay for first touches of memory."""
        token = max(0, self.vocabulary.bos)
        sequence = TokenSequence([token, token], 1, 2)
        self.decode(Batch(chunks=[Chunk(sequence, 0, 0, 1, True)]))
        self.clear()

    def decode(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Carry out the batch's cache operations, then compute its chunks.

        Returns float32 [rows of all chunks, vocabulary], in the order of the chunks and of their tokens: a view into
        llama.cpp's memory that is valid, and may be written to, until the next call. Raises `OutOfRoom`,
        `EngineFailed`, or `Aborted` after `abort`.
        """
        for operation in batch.operations:
            self._carry_out(operation)
        batch.operations.clear()
        if not batch.chunks:
            return np.empty((0, self.vocabulary.size), dtype=np.float32)
        self._share_processors()
        if batch.adapter != self._adapter:
            self._context.apply_adapters(self._adapters[batch.adapter])
            self._adapter = batch.adapter
        self._context.resume()
        try:
            logits = self._context.compute(batch.chunks) if self._unified else self._compute_apart(batch.chunks)
        except Aborted:
            for chunk in batch.chunks:
                self._context.cut(chunk.slot, chunk.start)
            raise
        # Here, where hardly anybody else wants the interpreter, which reading the system's figures lets go.
        self._governor.observe(time.monotonic())
        return logits

    def abort(self) -> None:
        """From any thread: give up the batch that is being computed, where what it computed so far can be cut off."""
        if self.cuttable:
            self._context.abort()

    def _share_processors(self) -> None:
        threads = self._governor.threads
        if self._opening:
            # Clearing memory keeps a processor busy, and threads that have to share one hold up all the others.
            threads = max(1, min(threads, self._plan.threads - 1))
        if threads != self._threads:
            self._context.set_threads(threads)
            self._threads = threads

    def _compute_apart(self, chunks: list[Chunk]) -> npt.NDArray[np.float32]:
        """Compute chunks of streams in as few passes over the weights as it takes."""
        pieces = calls(chunks)
        if len(pieces) == 1:
            return self._compute_equal(pieces[0])
        place, places = 0, {}
        for chunk in chunks:
            places[chunk.slot] = place
            place += chunk.rows
        rows = np.empty((place, self.vocabulary.size), dtype=np.float32)
        for call in pieces:
            logits, first = self._compute_equal(call), 0
            for chunk in call:
                place = places[chunk.slot]
                rows[place : place + chunk.rows] = logits[first : first + chunk.rows]
                places[chunk.slot] += chunk.rows
                first += chunk.rows
        return rows

    def _compute_equal(self, call: list[Chunk]) -> npt.NDArray[np.float32]:
        """Compute chunks of one length, and what makes that cheaper."""
        context = self._context
        fillers = self._fillers.beside(call, context.slots, context.length) if self.cuttable else []
        if not fillers:
            return context.compute(call)
        logits = context.compute(sorted([*call, *fillers], key=lambda chunk: (chunk.slot, chunk.start)))
        for filler in fillers:
            context.cut(filler.slot, filler.start)
        return logits

    def _carry_out(self, operation: Operation) -> None:
        match operation:
            case Drop(slot):
                self._context.cut(slot, 0)
            case Trim(slot, length):
                self._context.cut(slot, length)
            case Copy(source, target, length) if self._unified:
                self._context.share(source, target, length)
            case Copy(source, target, length):
                # Between streams llama.cpp's own copy takes the whole stream, used or not.
                self._restore(target, self._context.read_state(source), length)
            case Save(slot, key):
                self._saved[key] = self._context.read_state(slot)
            case Restore(key, slot, length):
                self._restore(slot, self._saved[key], length)
            case Forget(key):
                del self._saved[key]
            case Keep(key, state):
                self._saved[key] = state

    def _restore(self, slot: int, state: npt.NDArray[np.uint8], length: int) -> None:
        """Fill the empty `slot` with the first `length` tokens of `state`."""
        self._context.write_state(slot, state)
        if self.cuttable:
            self._context.cut(slot, length)

    def saved_state(self, key: int) -> npt.NDArray[np.uint8]:
        """What was saved under `key`: not copied, and valid as long as somebody holds it."""
        return self._saved[key]

    def open_context(self, slots: int) -> NativeContext:
        """A cache of so many sequences beside the one in use, in any thread. Raises `InvalidModel`."""
        self._opening = True
        try:
            return NativeContext(self._model, self._plan, slots)
        finally:
            self._opening = False

    def move_to(self, context: NativeContext) -> None:
        """Use `context`, which is as large at least: each slot holds there what it holds here. Frees the old one.

        Raises `InvalidModel` or `EngineFailed`, and goes on with the old one then.
        """
        try:
            if self._adapters[self._adapter]:
                context.apply_adapters(self._adapters[self._adapter])
            context.set_threads(self._threads)
            for slot in range(self._context.slots):
                if self._context.length(slot):
                    context.write_state(slot, self._context.read_state(slot))
        except LlmserveError:
            context.close()
            raise
        self._context, old = context, self._context
        old.close()

    def state_layout(self, plan: EnginePlan) -> str:
        """Everything that decides how a saved state is laid out, and whether one of another run means the same here.

        The library counts by its bytes, since builds of one version differ. Some models encode all positions otherwise
        where the context is longer than the one they were first trained on.
        """
        library = hashlib.sha256(Path(llama_cpp.llama_cpp._lib._name).read_bytes()).hexdigest()
        trained = f"{self.architecture}.rope.scaling.original_context_length"
        original = self.metadata([trained]).get(trained)
        is_long = original is not None and self._context.longest > int(original)
        streams = plan.parallel if plan.kv_layout == "split" else 1
        return " ".join(
            [
                f"llama-cpp-python {llama_cpp.__version__} {library}",
                f"{plan.kv_type} {plan.kv_layout} streams={streams} flash_attention={plan.flash_attention}",
                f"{sys.byteorder} long_context={is_long} windows=bounded",
            ]
        )

    def clear(self) -> None:
        """Empty the cache, and forget what was saved of it."""
        self._context.clear()
        self._saved.clear()
