"""`POST /admin/pull`: the events of a pull, one pull for many, and what ends it."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from llmserve.api.pulls import Pulls
from llmserve.errors import InvalidRequest, ModelNotFound, PullFailed
from llmserve.settings import Settings
from llmserve.store.options import PullOptions
from llmserve.store.origins import Wanted
from llmserve.store.progress import PullProgress, Report
from llmserve.store.store import Store
from llmserve.types import InstalledModel
from tests.api.fakes import MODEL, FakeStore, Served


class SlowStore(FakeStore):
    """Its pull goes on when the test opens `door`, and ends with `failure` if there is one."""

    def __init__(self) -> None:
        self.door = threading.Event()
        self.pulls = 0
        self.stopped = threading.Event()
        self.failure: Exception | None = None

    def pull(self, name: str, progress: Report, options: PullOptions) -> InstalledModel:
        self.pulls += 1
        try:
            progress(PullProgress("resolving", 0, None))
            while not self.door.wait(0.001):
                progress(PullProgress("downloading", 1, 2))
            if self.failure:
                raise self.failure
        except BaseException:
            self.stopped.set()
            raise
        return MODEL


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
def pulls(store: SlowStore) -> Pulls:
    return Pulls(cast(Store, store), Settings())


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110  # set by a thread
        await asyncio.sleep(0.001)


async def test_many_who_ask_share_one_pull(store: SlowStore, pulls: Pulls) -> None:
    heard: list[list[str]] = [[] for _ in range(50)]

    async def follow(mine: list[str]) -> InstalledModel:
        async def tell(event: dict[str, Any]) -> None:
            mine.append(event["stage"])

        return await pulls.follow("tiny", tell)

    followers = [asyncio.create_task(follow(mine)) for mine in heard]
    await until(lambda: all(mine and mine[-1] == "downloading" for mine in heard))
    store.door.set()
    assert await asyncio.gather(*followers) == [MODEL] * 50
    assert store.pulls == 1


async def ignore(event: dict[str, Any]) -> None:
    """Hear nothing."""


async def test_the_pull_goes_on_while_somebody_listens(store: SlowStore, pulls: Pulls) -> None:
    first, second = (asyncio.create_task(pulls.follow("tiny", ignore)) for _ in range(2))
    await until(lambda: store.pulls)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not store.stopped.is_set()
    store.door.set()
    assert await second == MODEL


async def test_the_last_who_leaves_ends_the_pull(store: SlowStore, pulls: Pulls) -> None:
    only = asyncio.create_task(pulls.follow("tiny", ignore))
    await until(lambda: store.pulls)
    only.cancel()
    await until(store.stopped.is_set)
    again = asyncio.create_task(pulls.follow("tiny", ignore))
    await until(lambda: store.pulls == 2)
    store.door.set()
    assert await again == MODEL


async def test_everybody_hears_why_a_pull_failed(store: SlowStore, pulls: Pulls) -> None:
    store.failure = PullFailed("no network")
    followers = [asyncio.create_task(pulls.follow("tiny", ignore)) for _ in range(3)]
    await until(lambda: store.pulls)
    store.door.set()
    answers = await asyncio.gather(*followers, return_exceptions=True)
    assert [type(answer) for answer in answers] == [PullFailed] * 3


async def test_the_variant_is_chosen_for_the_engines_of_the_settings(
    store: SlowStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = Settings(vllm_python=tmp_path / "python")
    asked: list[PullOptions] = []
    monkeypatch.setattr(store, "wanted", lambda name, options: asked.append(options) or Wanted(name, name))
    monkeypatch.setattr("llmserve.engines.machine.probe_for", lambda settings: settings)
    store.door.set()
    assert await Pulls(cast(Store, store), settings).follow("tiny", ignore) == MODEL
    (options,) = asked
    assert options.machine is not None
    assert options.machine() is settings


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "./x.gguf", "~/x", f"https://169.254.169.254/x.gguf#sha256={'0' * 64}"]
)
async def test_a_client_cannot_make_the_server_read_files_or_ask_hosts(
    store: SlowStore, pulls: Pulls, name: str
) -> None:
    with pytest.raises(InvalidRequest):
        await pulls.follow(name, ignore)
    assert store.pulls == 0


async def test_an_unknown_model_is_not_pulled(store: SlowStore, pulls: Pulls) -> None:
    with pytest.raises(ModelNotFound):
        await pulls.follow("unknown", ignore)


# --- over HTTP ---


def test_the_events_are_those_of_the_command_line(open_gateway: Served) -> None:
    with open_gateway.client() as client:
        answer = client.post("/admin/pull", json={"model": "tiny"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    *progress, done = map(json.loads, lines[:-1])
    # Who is slow misses events, never the last.
    assert all(event["stage"] in {"downloading", "verifying"} for event in progress)
    assert (done["stage"], done["model"]["name"]) == ("done", "tiny:1m")


@pytest.mark.parametrize(("body", "status"), [({"model": "nothing"}, 404), ({"model": "/etc/passwd"}, 400), ({}, 400)])
def test_what_fails_at_once_is_a_status(open_gateway: Served, body: Any, status: int) -> None:
    with open_gateway.client() as client:
        answer: httpx2.Response = client.post("/admin/pull", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
