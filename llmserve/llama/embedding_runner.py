"""llama.cpp as an encoder: texts as tokens in, one vector (or score) for each of them out.

As in `native_context.py`, what would make native code end the process is checked first: the size of a batch, a text's
length against the positions that the model has, and what the file says of its pooling. Token ids are checked by
llama.cpp.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import llama_cpp
import numpy as np
import numpy.typing as npt

from llmserve.errors import InvalidModel
from llmserve.llama.engine import EngineFailed
from llmserve.llama.native_context import context_parameters, open_context
from llmserve.llama.native_metadata import ARCHITECTURE, has_recurrent_state, metadata_value
from llmserve.llama.native_model import load_model, log_warnings_only
from llmserve.llama.pairs import PairMarks
from llmserve.llama.token_batch import TokenBatch
from llmserve.llama.vocabulary import Vocabulary
from llmserve.types import EnginePlan

Pooling = Literal["mean", "cls", "last", "rank"]

_POOLINGS: dict[Pooling, int] = {
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
    "rank": llama_cpp.LLAMA_POOLING_TYPE_RANK,
}
# Texts in one decode. llama.cpp sets a row of logits aside for each, which at a quarter million tokens is a megabyte.
_MOST_SEQUENCES = 64


class EmbeddingRunner:
    """One loaded embedding or ranking model. `encode` belongs to one thread; all else may be read from any.

    `context` is the longest text in tokens; `batch` and `sequences` bound what one `encode` takes, in tokens and in
    texts. A file that names no pooling is pooled by the mean, which a line on standard error states. Raises
    `InvalidModel` if llama.cpp refuses the file, or it is a classifier rather than a ranking model. `progress` is
    called with 0..1 while weights are read.
    """

    def __init__(self, path: Path, plan: EnginePlan, progress: Callable[[float], None] = lambda _: None) -> None:
        self._log = log_warnings_only()
        llama_cpp.llama_backend_init()
        self._model = load_model(path, plan, progress)
        self.vocabulary = Vocabulary(self._model)
        self.pooling = _pooling(self._model)
        self.sequences = _sequences(self._model, plan)
        self._context = _open_context(self._model, plan, self.sequences, self.pooling)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self.batch = min(int(llama_cpp.llama_n_batch(self._context)), int(llama_cpp.llama_n_ubatch(self._context)))
        # llama.cpp rounds the context up, and a position beyond those that the model has ends the process.
        self.context = min(plan.context, self.batch, int(llama_cpp.llama_model_n_ctx_train(self._model)))
        self._outputs = _outputs(self._model, self.pooling)
        encoder_alone = llama_cpp.llama_model_has_encoder(self._model)
        self._compute = llama_cpp.llama_encode if encoder_alone else llama_cpp.llama_decode
        self._tokens = TokenBatch(self.batch, self.sequences)

    @property
    def ranks(self) -> bool:
        """Whether this is a ranking model: `encode` gives scores then, otherwise embeddings."""
        return self.pooling == "rank"

    @property
    def width(self) -> int:
        """How many numbers a text becomes."""
        return 1 if self.ranks else self._outputs

    @property
    def rerank_template(self) -> str | None:
        """How the file wants a query and a document written, with `{query}` and `{document}` in it."""
        source = llama_cpp.llama_model_chat_template(self._model, b"rerank")
        return source.decode(errors="replace") if source else None

    @property
    def pair_marks(self) -> PairMarks:
        """How ranking models without a template read a pair, as llama.cpp's server writes it.

        Begin, query, end, separator, document, end: each only if the vocabulary says that it is added.
        """
        handle = self.vocabulary.handle
        separator = int(llama_cpp.llama_vocab_sep(handle))
        end = self.vocabulary.eos if self.vocabulary.eos >= 0 else separator
        after = [end] if llama_cpp.llama_vocab_get_add_eos(handle) and end >= 0 else []
        between = [separator] if llama_cpp.llama_vocab_get_add_sep(handle) and separator >= 0 else []
        before = [self.vocabulary.bos] if self.vocabulary.adds_bos and self.vocabulary.bos >= 0 else []
        return PairMarks(before, [*after, *between], after)

    def warm_up(self) -> None:
        """Compute one text, so that the first request does not pay for first touches of memory."""
        self.encode([[max(0, self.vocabulary.bos)]])

    def encode(self, texts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Float32 [texts, width], not normalised: pooled embeddings, or for a ranking model scores from 0 to 1.

        Raises `EngineFailed`.
        """
        self._tokens.clear()
        for number, tokens in enumerate(texts):
            if len(tokens) > self.context:
                raise ValueError(f"a text of {len(tokens)} tokens is over the model's {self.context}")
            self._tokens.add(tokens, sequence=number, outputs=len(tokens))
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        status = self._compute(self._context, self._tokens.struct)
        if status != 0:
            raise EngineFailed(f"the engine could not compute a step (status {status})")
        rows = np.stack([self._pooled(number) for number in range(len(texts))])
        return _scores(rows) if self.ranks else rows

    def _pooled(self, number: int) -> npt.NDArray[np.float32]:
        pointer = llama_cpp.llama_get_embeddings_seq(self._context, number)
        if not pointer:
            raise EngineFailed("the engine gave no result for a text")
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), shape=(self._outputs,))


def _pooling(model: Any) -> Pooling:
    architecture = metadata_value(model, ARCHITECTURE)
    stated = metadata_value(model, f"{architecture}.pooling_type")
    for name, number in _POOLINGS.items():
        if stated == str(number):
            return name
    if stated not in (None, str(llama_cpp.LLAMA_POOLING_TYPE_NONE)):
        raise InvalidModel(f"the model's pooling type {stated} is not a known one")
    sys.stderr.write("the model file names no pooling: the embedding is the mean of its tokens'\n")
    return "mean"


def _sequences(model: Any, plan: EnginePlan) -> int:
    """Texts in one decode. A sequence costs nothing, except where it has a recurrent state: the plan counts those."""
    if has_recurrent_state(model):
        return plan.parallel
    return min(_MOST_SEQUENCES, int(llama_cpp.llama_max_parallel_sequences()), plan.batch)


def _outputs(model: Any, pooling: Pooling) -> int:
    """The numbers llama.cpp gives for a text."""
    if pooling != "rank":
        return int(llama_cpp.llama_model_n_embd_out(model))
    count = int(llama_cpp.llama_model_n_cls_out(model))
    labels = [llama_cpp.llama_model_cls_label(model, index) for index in range(count)]
    if count != 1 and labels != [b"yes", b"no"]:
        raise InvalidModel(f"the model is a classifier with {count} outputs, not a ranking model")
    return count


def _scores(outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Relevance from 0 to 1, [texts, 1]: hosted rerankers answer so, and clients compare the score with a threshold.

    One output is a logit; where there are two, llama.cpp has made them the probabilities of yes and no.
    """
    if outputs.shape[1] == 2:
        return outputs[:, :1]
    # The logistic function by way of tanh, which does not overflow.
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * outputs), dtype=np.float32)


def _open_context(model: Any, plan: EnginePlan, sequences: int, pooling: Pooling) -> Any:
    parameters = context_parameters(plan)
    # A text that is pooled must be one graph.
    parameters.n_ubatch = plan.batch
    parameters.n_seq_max = sequences
    parameters.kv_unified = True
    parameters.embeddings = True
    parameters.pooling_type = _POOLINGS[pooling]
    return open_context(model, parameters)
