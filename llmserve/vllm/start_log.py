"""What vLLM's log says while it starts: how far it is, and what it measured.

The lines are those of vLLM 0.28 to 0.33, told by the beginnings of their messages, which have been the same in all of
them. Everything it knows is taken from text, so nothing here reads a file or a clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# A message that begins with the text means that the phase begins.
_PHASES = (
    ("Starting to load model", "loading weights"),
    ("Loading safetensors checkpoint shards", "loading weights"),
    ("Model loading took", "measuring memory"),
    ("Loading weights took", "measuring memory"),
    ("Start compile", "compiling"),
    ("Dynamo bytecode transform time", "compiling"),
    ("Compiling a graph", "compiling"),
    ("Cache the graph", "compiling"),
    ("torch.compile took", "warming up"),
    ("Available KV cache memory", "warming up"),
    ("Capturing CUDA graph", "capturing graphs"),
    ("Graph capturing finished", "warming up"),
    ("init engine (profile", "starting the server"),
    ("Starting vLLM server", "starting the server"),
)
# "(Worker pid=12) INFO 11-24 20:46:00 [module.py:68] message"; progress bars stand alone.
_PREFIX = re.compile(
    r"^(?:\([A-Za-z_0-9 ]+pid=\d+\) ?)*(?:(?:INFO|WARNING|ERROR|DEBUG) \S+ \S+ \[[^\]]*\] ?)?(?P<message>.*)"
)
# Progress bars by the phase they belong to.
_BARS = {
    "loading weights": re.compile(r"(\d{1,3})% Completed \|"),
    "capturing graphs": re.compile(r"(\d{1,3})%\|"),
}
_NUMBERS = {
    "weights_gib": re.compile(r"Model loading took ([\d.]+) GiB"),
    "kv_gib": re.compile(r"Available KV cache memory: ([\d.]+) GiB"),
    "kv_tokens": re.compile(r"KV cache size: ([\d,]+) tokens"),
    "graph_gib": re.compile(r"Graph capturing finished in .*? took ([\d.]+) GiB"),
    "engine_seconds": re.compile(r"init engine .*? took ([\d.]+) s"),
}
_STARTING = "starting"
_MOST_LINE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """What a start measured; None where the log did not say it. The numbers are those of one device."""

    weights_gib: float | None = None
    kv_gib: float | None = None
    kv_tokens: float | None = None
    graph_gib: float | None = None
    engine_seconds: float | None = None


class StartLog:
    """Reads a log as it grows. `phase` is what vLLM is doing, `share` how much of that is done, where it says so."""

    def __init__(self) -> None:
        self.phase = _STARTING
        self.share: float | None = None
        self.measured = Measured()
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """More of the log, cut anywhere."""
        # A progress bar is drawn anew over itself, with carriage returns in place of line ends.
        *lines, self._rest = (self._rest + piece).replace(b"\r", b"\n").split(b"\n")
        self._rest = self._rest[-_MOST_LINE_BYTES:]
        for line in lines:
            self._read(line[:_MOST_LINE_BYTES].decode(errors="replace"))

    def _read(self, line: str) -> None:
        match = _PREFIX.match(line)
        message = match["message"] if match else line
        for beginning, phase in _PHASES:
            if message.startswith(beginning):
                if phase != self.phase:
                    self.phase, self.share = phase, None
                break
        if (bar := _BARS.get(self.phase)) and (found := bar.search(message)):
            self.share = int(found[1]) / 100
        for name, pattern in _NUMBERS.items():
            if found := pattern.search(message):
                self.measured = replace(self.measured, **{name: float(found[1].replace(",", ""))})
