"""The engines that the contract tests run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.servers import Server, llama_subject, starter_vllm_subject


@pytest.fixture(scope="package", params=["llama.cpp", "vllm"])
def server(
    request: pytest.FixtureRequest, starter_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A gateway with one engine. vLLM's needs what `scripts/test-vllm` prepares, and is skipped without it."""
    if request.param == "vllm":
        subject = starter_vllm_subject(starter_home, tmp_path_factory.mktemp("home"))
        if subject is None:
            pytest.skip("vLLM and a safetensors model are not at hand: run scripts/test-vllm, which makes them")
    else:
        subject = llama_subject(starter_home)
    running = Server(subject)
    yield running
    running.stop()
