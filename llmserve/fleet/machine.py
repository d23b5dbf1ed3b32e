"""The machine as the fleet sees it: probed once, and what is free measured again for every plan."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from llmserve.hardware.failure import ProbeFailed
from llmserve.types import HardwareInfo


class Machine:
    """Calling it returns the hardware with the memory that is available now. Blocks; the first call for seconds.

    Any thread may call it.
    """

    def __init__(self, home: Path, vllm_python: Path | None = None) -> None:
        """`home` is the data directory, where engines with an environment of their own are looked for.

        `vllm_python` is the interpreter of the user's own vLLM.
        """
        self._home = home
        self._vllm_python = vllm_python
        self._hardware: HardwareInfo | None = None
        self._probing = threading.Lock()

    def __call__(self) -> HardwareInfo:
        with self._probing:
            if self._hardware is None:
                from llmserve.engines.machine import probe

                self._hardware = probe(home=self._home, vllm_python=self._vllm_python)
                return self._hardware
        return _measured_again(self._hardware)


def _measured_again(hardware: HardwareInfo) -> HardwareInfo:
    """`hardware` with the free memory of this moment, or the last known where it cannot be read."""
    from llmserve.hardware.memory import read_memory
    from llmserve.hardware.probe import probe_machine

    if hardware.gpus:
        now = probe_machine()
        return replace(hardware, memory=now.memory, gpus=now.gpus or hardware.gpus)
    try:
        return replace(hardware, memory=read_memory())
    except ProbeFailed:
        return hardware
