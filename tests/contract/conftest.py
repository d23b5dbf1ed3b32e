"""The engines that the contract tests run on. A start of vLLM is long, so as few as possible are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.servers import (
    Server,
    llama_subject,
    local_subject,
    starter_file,
    starter_vllm_subject,
    template_subject,
)


@pytest.fixture(scope="package")
def llama_server(starter_home: Path) -> Iterator[Server]:
    server = Server(llama_subject(starter_home))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def vllm_server(starter_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Skips where `scripts/test-vllm` did not prepare what it needs."""
    server = Server(starter_vllm_subject(starter_home, tmp_path_factory.mktemp("home")))
    yield server
    server.stop()


@pytest.fixture(scope="package", params=["llama_server", "vllm_server"], ids=["llama.cpp", "vllm"])
def server(request: pytest.FixtureRequest) -> Server:
    """A gateway with one engine and the starter model."""
    running: Server = request.getfixturevalue(request.param)
    return running


# Whatever is said, another question is asked.
ITALIAN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'user' %}What is the capital of Italy?{% else %}{{ message['content'] }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="package")
def told_llama(starter_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The starter model with the template `ITALIAN`."""
    home = tmp_path_factory.mktemp("home")
    # A blob's name says nothing of its format.
    file = home / "starter.gguf"
    file.symlink_to(starter_file(starter_home))
    server = Server(template_subject(local_subject("llama.cpp", home, file, {}), ITALIAN))
    yield server
    server.stop()


@pytest.fixture(scope="package")
def told_vllm(starter_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Likewise on vLLM; the last test to use it kills its gateway."""
    home = tmp_path_factory.mktemp("home")
    server = Server(template_subject(starter_vllm_subject(starter_home, home), ITALIAN))
    yield server
    server.stop()
