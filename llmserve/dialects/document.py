"""Writes the field tables of the dialects in `docs/api.md`, as `llmserve.openai.document` does for OpenAI's.

python -m llmserve.dialects.document docs/api.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from llmserve.dialects.anthropic.blocks import AnthropicMessage, Block
from llmserve.dialects.anthropic.requests import CountTokensRequest, MessagesRequest
from llmserve.dialects.ollama.messages import OllamaMessage
from llmserve.dialects.ollama.requests import (
    OllamaChatRequest,
    OllamaCreateRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaOptions,
    OllamaPullRequest,
)
from llmserve.dialects.responses.items import InputItem
from llmserve.dialects.responses.requests import ResponsesRequest
from llmserve.openai.document import update
from llmserve.openai.schema import Schema

DOCUMENTED: tuple[type[Schema], ...] = (
    ResponsesRequest,
    InputItem,
    MessagesRequest,
    CountTokensRequest,
    AnthropicMessage,
    Block,
    OllamaChatRequest,
    OllamaMessage,
    OllamaOptions,
    OllamaGenerateRequest,
    OllamaEmbedRequest,
    OllamaEmbeddingsRequest,
    OllamaPullRequest,
    OllamaCreateRequest,
)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text(encoding="utf-8"), DOCUMENTED), encoding="utf-8")
