"""gpt-oss's harmony format: every message has a channel, and calls are messages to a tool.

`<|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>commentary to=functions.f
<|constrain|>json<|message|>{...}<|call|>`; the answer is on the channel `final`. Follows OpenAI's description of the
format (github.com/openai/harmony, docs/format.md).
"""

from __future__ import annotations

import re

from llmserve.llama.output.calls import CallWriter
from llmserve.llama.output.events import Content, Malformed, Reasoning
from llmserve.llama.output.source import Reading, Source, Stops

START = "<|start|>"
CHANNEL = "<|channel|>"
MESSAGE = "<|message|>"
CONSTRAIN = "<|constrain|>"
END = "<|end|>"
CALL = "<|call|>"
RETURN = "<|return|>"
_ENDS = (END, CALL, RETURN)
_HEAD_BEGINS = (START, CHANNEL, MESSAGE)
_BODY_STOPS = Stops((*_ENDS, *_HEAD_BEGINS))
_HEAD_STOPS = Stops((MESSAGE, *_ENDS))
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"to=([^\s<]+)")
_OPEN_MESSAGE = re.compile(r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>[^<]*\Z")
_ANALYSIS = "analysis"


class HarmonyReader:
    """Reads a whole answer. `prompt_end` tells on which channel it begins where the prompt has opened a message."""

    def __init__(self, prompt_end: str) -> None:
        open_message = _OPEN_MESSAGE.search(prompt_end)
        self._channel = open_message[1] if open_message else None
        self._written: type[Content | Reasoning] | None = None

    def read(self, source: Source, calls: CallWriter) -> Reading[None]:
        """Raises `Malformed` where a call or head makes no sense; may then be called again to go on."""
        if self._channel is None:
            yield from self._read_head_or_text(source, calls)
        while not source.exhausted:
            if self._channel is not None:
                yield from self._pass_body(source)
            yield from source.skip_closing(*_ENDS)
            source.commit()
            yield from self._read_head_or_text(source, calls)

    def _read_head_or_text(self, source: Source, calls: CallWriter) -> Reading[None]:
        """The head of a message; text without one, which models write now and then, is the answer."""
        self._channel = None
        begun = yield from source.next_is_after_space(*_HEAD_BEGINS, "to=", "assistant")
        if begun is None:
            self._channel = "final" if not source.exhausted else None
            return
        head, stop = yield from source.label(_HEAD_STOPS)
        if stop != MESSAGE:
            raise Malformed("a message has no body")
        found = _CHANNEL.search(head)
        recipient = _RECIPIENT.search(head)
        if recipient is not None and calls.tools:
            yield from self._read_call(source, calls, recipient[1])
        else:
            source.commit()
            self._channel = found[1] if found else "final"

    @staticmethod
    def _read_call(source: Source, calls: CallWriter, recipient: str) -> Reading[None]:
        if (yield from source.next_is_after_space("{")) is None:
            raise Malformed("a call has no arguments")
        yield from calls.start(recipient.removeprefix("functions."))
        yield from source.pass_json(calls.arguments)

    def _pass_body(self, source: Source) -> Reading[None]:
        kind = Reasoning if self._channel == _ANALYSIS else Content
        if self._written is kind and (yield from source.next_is(*_ENDS)) is None and not source.exhausted:
            # Two messages on one channel are two paragraphs.
            yield kind("\n\n")
        self._written = kind
        yield from source.pass_text(_BODY_STOPS, kind, trim=False)
        self._channel = None
