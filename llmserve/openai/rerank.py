"""Reranking: the request and the answer of `POST /v1/rerank`, in Jina's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, ValidationInfo

from llmserve.openai.requests import ModelRequest
from llmserve.openai.schema import IgnoredFields, refuse

MAX_RANKED_DOCUMENTS = 2048


def _documents(documents: object, info: ValidationInfo) -> tuple[str, ...]:
    """The texts of documents, each of which is a string or an object with the string `text`."""
    if not isinstance(documents, list | tuple):
        refuse("must be a list of strings or of objects with the string `text`")
    if not documents:
        refuse("must not be empty")
    if len(documents) > MAX_RANKED_DOCUMENTS:
        refuse(f"must have at most {MAX_RANKED_DOCUMENTS} documents")
    return tuple(_document_text(document, index, info.context) for index, document in enumerate(documents))


def _document_text(document: Any, index: int, ignored: object) -> str:
    text = document
    if isinstance(document, dict):
        text = document.get("text")
        for name in document.keys() - {"text"}:
            if not isinstance(ignored, IgnoredFields):
                refuse("is not a known field", index, name)
            ignored.add("documents[].", name)
    if not isinstance(text, str):
        refuse("must be a string or an object with the string `text`", index)
    return text


class RerankRequest(ModelRequest):
    """A body of `POST /v1/rerank`. `documents` are plain texts, however the request stated them."""

    extensions: ClassVar[frozenset[str]] = frozenset({"query", "documents", "top_n", "return_documents"})

    query: Annotated[StrictStr, Field(min_length=1)] = Field(description="What the documents are compared with.")
    documents: Annotated[tuple[str, ...], BeforeValidator(_documents)] = Field(
        description=f"1 to {MAX_RANKED_DOCUMENTS} strings, or objects with the string `text`."
    )
    top_n: Annotated[StrictInt, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="Answer with so many of the best documents; all of them otherwise."
    )
    return_documents: StrictBool = Field(default=False, description="Repeat each document's text in the answer.")


def rerank_answer(request: RerankRequest, model: str, scores: Sequence[float], prompt_tokens: int) -> dict[str, Any]:
    """The documents of `request` that it asked for, the best first. `scores` are in the order of its documents."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in order]
    if request.return_documents:
        for result in results:
            result["document"] = {"text": request.documents[result["index"]]}
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "model": model, "results": results, "usage": usage}
