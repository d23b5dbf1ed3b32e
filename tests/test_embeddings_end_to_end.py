"""The official client against `llmserve serve` with a published embedding model, against its own weights in numpy."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.bert import Bert, embed, read_bert, tokens_of, write_bert
from tests.test_end_to_end import ServedModel

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

MODEL = "minilm:local"
SENTENCES = (
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "How do I reset my password?",
    "I forgot the secret word for my account.",
    "Le café était déjà fermé à 22h30.",
    "东京 is the capital of Japan",
    "E = mc^2; see §4.2 (p. 17).",
    "antidisestablishmentarianism",
    "100% of $5.00 [SEP] <b>bold</b>",
    "a",
    "It was the best of times, it was the worst of times. " * 20,
    "The embedding of a sentence is the mean of the embeddings of its tokens, scaled to length one.",
)


@pytest.fixture(scope="module")
def bert(minilm: zipfile.Path) -> Bert:
    return read_bert(minilm)


@pytest.fixture(scope="module")
def served(bert: Bert, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    folder = tmp_path_factory.mktemp("minilm")
    path = write_bert(folder / "minilm.gguf", bert)
    server = ServedModel(folder / "home", str(path))
    yield server
    assert server.stop() == 0


def test_embeddings_are_the_published_models(served: ServedModel, bert: Bert) -> None:
    answer = served.client.embeddings.create(model=MODEL, input=list(SENTENCES))
    assert answer.usage.prompt_tokens == sum(len(tokens_of(bert, sentence)) for sentence in SENTENCES)
    for sentence, entry in zip(SENTENCES, answer.data, strict=True):
        assert float(np.array(entry.embedding, dtype=np.float32) @ embed(bert, sentence)) >= 1 - 1e-3


def test_what_means_the_same_is_nearer(served: ServedModel) -> None:
    password, other, japan = (
        np.array(entry.embedding)
        for entry in served.client.embeddings.create(
            model=MODEL, input=[SENTENCES[2], SENTENCES[3], SENTENCES[5]], encoding_format="float"
        ).data
    )
    assert password @ other > 0.4 > password @ japan


def test_a_document_of_hundreds_of_pieces_is_never_refused(served: ServedModel) -> None:
    pieces = [f"Piece number {number} of the document." for number in range(300)]

    def dimensions(piece: str) -> int:
        return len(served.client.embeddings.create(model=MODEL, input=piece).data[0].embedding)

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(dimensions, pieces)) == {384}


def test_a_chat_is_refused_with_the_reason(served: ServedModel) -> None:
    with pytest.raises(openai.BadRequestError, match=r"embedding model .*/v1/embeddings") as caught:
        served.client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.code == "wrong_model_kind"


def test_a_generating_model_is_not_loaded_for_embeddings(starter_home: Path) -> None:
    server = ServedModel(starter_home)
    with pytest.raises(openai.BadRequestError, match="generating model"):
        server.client.embeddings.create(model="smollm2:135m", input="Hello")
    assert server.workers() == []
    assert server.stop() == 0
