"""The command line's view of a running gateway: a blocking HTTP client that speaks llmserve's errors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx2

from llmserve.errors import DeadlineExceeded, LlmserveError, Unavailable
from llmserve.fleet.status import ModelStatus
from llmserve.openai.sse import EventParser

if TYPE_CHECKING:
    from llmserve.batches.answers import Reply

SERVICE = "llmserve"

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_PATIENT = httpx2.Timeout(None, connect=_CONNECT_SECONDS)


@dataclass(frozen=True, slots=True)
class Health:
    """Who answers at the address: `service` is "llmserve" (checked), `version` its release."""

    service: str
    version: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer. Counts are tokens; None where the server did not say.

    `reason` is OpenAI's `finish_reason`; `cached_tokens` the part of the prompt that was not computed again, and
    `prompt_tokens_per_second` the speed at which the rest was.
    """

    reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    prompt_tokens_per_second: float | None = None


ChatEvent = TextDelta | Finish


class Gateway:
    """A connection to one gateway, over TCP or a Unix socket. Blocks; not to be shared between threads.

    Every method raises `Unavailable` when nobody listens or the connection breaks, `DeadlineExceeded` when no answer
    comes in time, and for an error answer the class of the error tree that it stands for, with the server's message.
    """

    def __init__(self, address: str, base_url: str, uds: Path | None, api_key: str | None) -> None:
        self.address = address
        self._base_url = base_url
        self._uds = uds
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # trust_env off: a proxy from the environment must not see requests to this machine.
        self._client = httpx2.Client(
            base_url=base_url, transport=_transport(uds), headers=self._headers, trust_env=False
        )

    @classmethod
    def tcp(cls, host: str, port: int, *, api_key: str | None = None) -> Gateway:
        """The gateway at `host:port`; a wildcard address is reached over loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (an address to replace, not to bind)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return cls(address, f"http://{address}", None, api_key)

    @classmethod
    def unix(cls, path: Path, *, api_key: str | None = None) -> Gateway:
        """The gateway that listens on the Unix socket `path`."""
        return cls(str(path), "http://localhost", path, api_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; an answer still streaming ends with them. Harmless when repeated."""
        self._client.close()

    def health(self, *, timeout: float = _CONNECT_SECONDS) -> Health:
        """Who listens there. Raises `Unavailable` when nobody does within `timeout` seconds, or another program."""
        try:
            answer = self._request("GET", "/health", timeout=timeout)
        except DeadlineExceeded as error:
            raise Unavailable(error.message) from error
        except LlmserveError as error:
            if isinstance(error, Unavailable):
                raise
            raise self._stranger() from error
        if answer.get("service") != SERVICE or not isinstance(answer.get("version"), str):
            raise self._stranger()
        return Health(SERVICE, answer["version"])

    def models(self) -> list[dict[str, Any]]:
        """The entries of `GET /v1/models`, in OpenAI's shape."""
        return _list(self._request("GET", "/v1/models"), "data")

    def model(self, name: str) -> str:
        """The full name of the model `name`. Raises `ModelNotFound`."""
        return str(self._request("GET", f"/v1/models/{quote(name, safe=':/')}").get("id"))

    def ps(self) -> tuple[ModelStatus, ...]:
        """The models that are loaded, loading, or failed to load."""
        from llmserve.types import from_json

        models = _list(self._request("GET", "/admin/ps"), "models")
        try:
            return tuple(from_json(ModelStatus, json.dumps(model)) for model in models)
        except ValueError as error:
            raise Unavailable(
                "the server's answer is not understood",
                hint="is it of another version? `llmserve --version` shows ours",
            ) from error

    def load(self, model: str) -> None:
        """Load `model` and return when it is ready, however long that takes; nothing to do if it already is."""
        self._request("POST", "/admin/load", body={"model": model}, timeout=_PATIENT)

    def stop(self, model: str) -> bool:
        """Unload `model` and return when it is gone; False when it was not loaded. Raises `Conflict` while in use."""
        answer = self._request("POST", "/admin/stop", body={"model": model}, timeout=_PATIENT)
        return answer.get("stopped") is True

    def chat(self, request: Mapping[str, Any]) -> Generator[ChatEvent]:
        """Stream the answer to a chat request: `TextDelta`s, then exactly one `Finish`.

        Close the generator to cancel the answer. There is no limit on the time between two events: a long prompt on a
        slow machine takes minutes, and a server that dies closes the connection.
        """
        body = {**request, "stream": True, "stream_options": {"include_usage": True}}
        with (
            self._translated(),
            self._client.stream("POST", "/v1/chat/completions", json=body, timeout=_PATIENT) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                answer.read()
                raise _error(answer)
            yield from _chat_events(self._events(answer))

    @asynccontextmanager
    async def background(self) -> AsyncIterator[BackgroundRequests]:
        """Many requests at once, which wait behind everybody else's; those that are out end with the block."""
        transport = httpx2.AsyncHTTPTransport(
            verify=False, trust_env=False, uds=None if self._uds is None else str(self._uds)
        )
        headers = {**self._headers, "X-LLMServe-Priority": "background", "Content-Type": "application/json"}
        async with httpx2.AsyncClient(
            base_url=self._base_url, transport=transport, headers=headers, trust_env=False, timeout=_PATIENT
        ) as client:
            yield BackgroundRequests(client, self._translated)

    def _events(self, answer: httpx2.Response) -> Iterator[dict[str, Any]]:
        """The JSON events of a stream up to `[DONE]`. Comments (keep-alives) never get here: the parser drops them."""
        parser = EventParser()
        for piece in answer.iter_bytes():
            for data in parser.feed(piece):
                if data.strip() == b"[DONE]":
                    return
                yield _object(data)
        raise self._lost()

    def _request(
        self, method: str, path: str, *, body: object = None, timeout: float | httpx2.Timeout = _ANSWER_SECONDS
    ) -> dict[str, Any]:
        with self._translated():
            answer = self._client.request(method, path, json=body, timeout=timeout)
        if answer.status_code != httpx2.codes.OK:
            raise _error(answer)
        return _object(answer.content)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the transport's exceptions into ours."""
        try:
            yield
        except httpx2.ConnectError as error:
            raise Unavailable(
                f"no {SERVICE} server at {self.address}", hint=f"start one with `{SERVICE} serve`"
            ) from error
        except httpx2.TimeoutException as error:
            raise DeadlineExceeded(f"the server at {self.address} does not answer") from error
        except httpx2.HTTPError as error:
            raise self._lost() from error

    def _lost(self) -> Unavailable:
        return Unavailable(
            f"the connection to the server at {self.address} broke before the answer was complete",
            code="connection_lost",
        )

    def _stranger(self) -> Unavailable:
        return Unavailable(
            f"what listens at {self.address} is not {SERVICE}",
            hint=f"choose another address with LLMSERVE_PORT or `{SERVICE} serve --port`",
        )


def _transport(uds: Path | None = None) -> httpx2.HTTPTransport:
    # The gateway speaks plain HTTP; building a TLS context would only cost start-up time.
    return httpx2.HTTPTransport(verify=False, trust_env=False, uds=None if uds is None else str(uds))


class BackgroundRequests:
    """What `Gateway.background` gives: belongs to one event loop."""

    def __init__(self, client: httpx2.AsyncClient, translated: Callable[[], AbstractContextManager[None]]) -> None:
        self._client = client
        self._translated = translated

    async def ask(self, path: str, body: bytes) -> Reply:
        """What the server answers to `body`, errors included. Raises `Unavailable` where it does not."""
        from llmserve.batches.answers import Reply

        with self._translated():
            answer = await self._client.post(path, content=body)
        wait = answer.headers.get("retry-after", "")
        return Reply(
            status=answer.status_code,
            request_id=answer.headers.get("x-request-id", ""),
            body=answer.content,
            retry_after=float(wait) if wait.isdigit() else None,
        )


def _chat_events(events: Iterator[dict[str, Any]]) -> Generator[ChatEvent]:
    reason: str | None = None
    usage: dict[str, Any] = {}
    timings: dict[str, float] = {}
    for event in events:
        if "error" in event:
            raise error_from_body(event)
        for choice in event.get("choices", ()):
            if text := choice.get("delta", {}).get("content"):
                yield TextDelta(text)
            reason = choice.get("finish_reason") or reason
        usage = event.get("usage") or usage
        timings = event.get("timings") or timings
    prompt_ms = timings.get("prompt_ms")
    yield Finish(
        reason,
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        prompt_tokens_per_second=1000 * timings.get("prompt_n", 0) / prompt_ms if prompt_ms else None,
    )


def error_from_body(body: Mapping[str, Any], status: int | None = None) -> LlmserveError:
    """The error that an OpenAI error body describes: the inverse of `LlmserveError.body`.

    The class is the one with this code, else with this status (None: an event in a stream has none), else with this
    type; the base class stands for what no class claims.
    """
    error = body.get("error")
    fields: Mapping[str, Any] = error if isinstance(error, Mapping) else {"message": error}
    kinds = list(_tree(LlmserveError))
    code = fields.get("code")
    kind = next((kind for kind in kinds if code is not None and kind.default_code == code), None)
    kind = kind or next((kind for kind in kinds if kind.status == status), None)
    kind = kind or next((kind for kind in kinds if kind.type == fields.get("type")), LlmserveError)
    text = str(fields.get("message") or "the server reported an error without a message")
    message, marker, hint = text.partition(" (hint: ")
    return kind(message, param=fields.get("param"), code=code, hint=hint.removesuffix(")") if marker else None)


def _tree(kind: type[LlmserveError]) -> Iterator[type[LlmserveError]]:
    """`kind` and all its subclasses, parents first and in the order of their definition."""
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def _error(answer: httpx2.Response) -> LlmserveError:
    try:
        return error_from_body(_object(answer.content), answer.status_code)
    except Unavailable:
        return error_from_body({"error": f"the server answered with status {answer.status_code}"}, answer.status_code)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Unavailable("the server's answer is not JSON") from error
    if not isinstance(value, dict):
        raise Unavailable("the server's answer is not a JSON object")
    return value


def _list(answer: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    value = answer.get(key)
    if not isinstance(value, list):
        raise Unavailable(f"the server's answer has no list `{key}`")
    return value
