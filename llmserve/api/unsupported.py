"""Routes of OpenAI's API that are here to say what this server does not do."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from llmserve.errors import InvalidRequest

_NO_SPEECH = "this server writes text, not audio"
_NO_HEARING = "this server reads text, not audio"
_NO_IMAGES = "this server reads and writes text, not images"

# Their bodies are forms more often than JSON; none is ever read.
UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "/v1/audio/speech": _NO_SPEECH,
        "/v1/audio/transcriptions": _NO_HEARING,
        "/v1/audio/translations": _NO_HEARING,
        "/v1/images/generations": _NO_IMAGES,
        "/v1/images/edits": _NO_IMAGES,
        "/v1/images/variations": _NO_IMAGES,
    }
)


def unsupported_routes() -> list[Route]:
    return [Route(path, refuse, methods=["POST"]) for path in UNSUPPORTED]


async def refuse(request: Request) -> Response:
    # 400 and not 501: clients ask again after a 5xx, and nothing would be different then.
    raise InvalidRequest(UNSUPPORTED[request.scope["path"]], code="not_supported")
