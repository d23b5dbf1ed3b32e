"""Writes the field tables of `docs/api.md` from the schemas, so that the two cannot differ.

python -m llmserve.openai.document docs/api.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmserve.openai.batches import BatchRequest, FileRequest
from llmserve.openai.embeddings import EmbeddingRequest
from llmserve.openai.fields import Refused, WithoutEffect
from llmserve.openai.json import dump_json
from llmserve.openai.messages import Message
from llmserve.openai.requests import ChatRequest, CompletionRequest
from llmserve.openai.rerank import RerankRequest
from llmserve.openai.schema import Schema
from llmserve.openai.tokens import DetokenizeRequest, TokenizeChatRequest, TokenizeRequest

DOCUMENTED: tuple[type[Schema], ...] = (
    ChatRequest,
    Message,
    CompletionRequest,
    EmbeddingRequest,
    RerankRequest,
    TokenizeRequest,
    TokenizeChatRequest,
    DetokenizeRequest,
    FileRequest,
    BatchRequest,
)

Treatment = Literal["honoured", "extension", "refused", "without effect"]

_TABLE = re.compile(r"(<!-- fields of (\w+): written by llmserve\.\w+\.document -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: a field under all its names, and what becomes of it."""

    field: str
    treatment: Treatment
    note: str


def field_table(schema: type[Schema]) -> list[Row]:
    """What becomes of each known field of `schema`, in the order of the document."""
    rows = [
        Row(
            ", ".join(f"`{spelling}`" for spelling in schema.spellings(name)),
            "extension" if name in schema.extensions else "honoured",
            field.description or "",
        )
        for name, field in schema.model_fields.items()
    ]
    for name, decision in schema.policy.items():
        treatment: Treatment = "refused" if isinstance(decision, Refused) else "without effect"
        rows.append(Row(f"`{name}`", treatment, _sentence(decision.reason) + _exceptions(decision)))
    order: list[Treatment] = ["honoured", "extension", "refused", "without effect"]
    return sorted(rows, key=lambda row: order.index(row.treatment))


def update(document: str, schemas: Sequence[type[Schema]] = DOCUMENTED) -> str:
    """`document` with the tables of `schemas`, each between its two comments, replaced by the present ones."""
    tables = {kind.__name__: kind for kind in schemas}

    def present(match: re.Match[str]) -> str:
        kind = tables.get(match[2])
        return match[0] if kind is None else f"{match[1]}{_markdown(field_table(kind))}{match[3]}"

    return _TABLE.sub(present, document)


def _markdown(rows: list[Row]) -> str:
    lines = ["| field | here | values and reasons |", "|---|---|---|"]
    lines += [f"| {row.field} | {row.treatment} | {row.note} |" for row in rows]
    return "\n".join(lines) + "\n"


def _exceptions(decision: Refused | WithoutEffect) -> str:
    if isinstance(decision, WithoutEffect):
        return ""
    values = [f"`{dump_json(value).decode()}`" for value in decision.harmless]
    if decision.same_as is not None:
        values.append(f"the value of `{decision.same_as}`")
    return f" Accepted: {', '.join(values)}." if values else ""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text(encoding="utf-8")), encoding="utf-8")
