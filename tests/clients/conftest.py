"""The servers that the clients talk to. Collected by `scripts/test-clients` alone, which installs the clients."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The normal run has none of the packages that the tests here import.
collect_ignore_glob = [] if "LLMSERVE_TEST_CLIENTS" in os.environ else ["*"]

if not collect_ignore_glob:
    from tests.clients.report import CACHE, Results
    from tests.clients.servers import (
        EMBEDDER,
        HUB_FILE,
        HUB_REPOSITORY,
        KEY,
        MODEL,
        ROOT,
        Server,
        free_ports,
        run_llmserve,
        running,
    )
    from tests.fake_hub import FakeHub

if TYPE_CHECKING:
    from _pytest.reports import TestReport

_RESULTS = pytest.StashKey["Results"]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "client(name): the client under test, called as its package is")
    config.addinivalue_line("markers", "does(what): what the client does, as the table of docs/clients.md says it")
    if not collect_ignore_glob:
        config.stash[_RESULTS] = Results()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: TestReport = yield
    client, does = item.get_closest_marker("client"), item.get_closest_marker("does")
    if client is not None and does is not None and (report.when == "call" or not report.passed):
        skipped = f"not tried: {report.longrepr[2]}" if isinstance(report.longrepr, tuple) else "not tried"
        result = {"passed": "works", "failed": "FAILS", "skipped": skipped}[report.outcome]
        item.config.stash[_RESULTS].add(client.args[0], does.args[0], result)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = os.environ.get("LLMSERVE_TEST_CLIENTS_TABLE")
    if path is not None and not collect_ignore_glob:
        session.config.stash[_RESULTS].write(Path(path))


@pytest.fixture(scope="session")
def hub() -> Iterator[FakeHub]:
    """A hub with one repository, from which clients pull."""
    hub = FakeHub()
    hub.commit(HUB_REPOSITORY, {HUB_FILE: (CACHE / "minilm.gguf").read_bytes()})
    with hub.running():
        yield hub


@pytest.fixture(scope="session")
def server(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`llmserve serve` with a key, Ollama's port, the starter model and an embedder; the tests may change its home."""
    folder = tmp_path_factory.mktemp("llmserve")
    starter = Path(os.environ["LLMSERVE_TEST_HOME"])
    for name in ("blobs", "manifests"):
        shutil.copytree(starter / name, folder / "home" / name, copy_function=os.link)
    environment = {
        "LLMSERVE_HOME": str(folder / "home"),
        "LLMSERVE_CONFIG": str(folder / "settings.toml"),
        "HF_HOME": str(folder / "hub"),
        "HF_ENDPOINT": hub.url,
    }
    run_llmserve(["pull", str(CACHE / "minilm.gguf")], environment)
    port, ollama_port = free_ports(2)
    serve = ["-m", "llmserve", "serve", "--port", str(port), "--ollama-port", str(ollama_port), MODEL, EMBEDDER]
    with running(serve, (port, ollama_port), folder, {**environment, "LLMSERVE_API_KEY": KEY}) as server:
        yield server


@pytest.fixture(scope="module")
def fake_gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gateway with fake workers, no key, and no hub within reach; a module's FAKE_WORKER is their load script."""
    folder = tmp_path_factory.mktemp("fake")
    (port,) = free_ports(1)
    environment = {
        "LLMSERVE_HOME": str(folder / "home"),
        "LLMSERVE_CONFIG": str(folder / "settings.toml"),
        "HF_HOME": str(folder / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "FAKE_WORKER": json.dumps(getattr(request.module, "FAKE_WORKER", {})),
    }
    arguments = [str(ROOT / "tests/clients/fake_gateway.py"), str(port), str(folder)]
    with running(arguments, (port, port), folder, environment) as server:
        yield server
