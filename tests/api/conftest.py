"""Gateways that serve for a whole session, and a factory for those with settings of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from llmserve.api.limits import Limits
from llmserve.settings import Settings
from tests.api.fakes import Served, Worker, serving, worker_process

KEY = "k-canary-2b7e151628aed2a6"
ALLOWED_ORIGIN = "http://ui.test:3000"


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with worker_process(tmp_path_factory.mktemp("worker")) as worker:
        yield worker


@pytest.fixture(scope="session")
def open_gateway(worker: Worker) -> Iterator[Served]:
    """No key, one allowed Origin, one extra Host name."""
    settings = Settings(allowed_origins=(ALLOWED_ORIGIN,), allowed_hosts=("models.test",))
    limits = Limits(grace_seconds=0.05, keep_alive_seconds=0.05)
    with serving(worker, settings, limits) as served:
        yield served


@pytest.fixture(scope="session")
def locked_gateway(worker: Worker) -> Iterator[Served]:
    """As `open_gateway`, with a key, and patient with wrong ones."""
    settings = Settings(api_key=KEY, allowed_origins=(ALLOWED_ORIGIN,))
    with serving(worker, settings, Limits(wrong_keys=1_000_000)) as served:
        yield served


@pytest.fixture
def serve(worker: Worker) -> Iterator[Callable[..., Served]]:
    """A gateway with settings or limits of its own, for one test."""
    with ExitStack() as running:

        def start(settings: Settings | None = None, limits: Limits | None = None) -> Served:
            return running.enter_context(serving(worker, settings, limits))

        yield start
