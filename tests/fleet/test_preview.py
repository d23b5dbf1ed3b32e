"""How a model would be run, without loading it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.errors import InvalidRequest, LlmserveError, ModelNotFound
from llmserve.fleet.fleet import Fleet
from llmserve.settings import Settings
from llmserve.store.names import parse_name
from llmserve.store.serving import ServingStore
from tests.fleet.fakes import GIB, FakeMachine
from tests.tiny_gguf import write_tiny_model


@pytest.fixture
def store(private_home: Path, tmp_path: Path) -> ServingStore:
    store = ServingStore(private_home)
    store.pull(str(write_tiny_model(tmp_path / "tiny.gguf", context=4096)))
    return store


async def test_a_preview_is_a_plan_and_no_use(store: ServingStore, private_home: Path) -> None:
    (model,) = store.list()
    reference = parse_name(model.name)
    manifest = store.manifests.read(reference)
    assert manifest is not None
    store.manifests.write(reference, manifest, used_at=1000)
    fleet = Fleet(store, Settings(home=private_home, context=512), machine=FakeMachine(8 * GIB))
    preview = await fleet.preview(model.name)
    assert (preview.plan.engine, preview.plan.context, preview.plan.fits) == ("llama.cpp", 512, True)
    assert preview.plan.reason
    assert fleet.status() == ()
    assert store.used_at(manifest) == 1000
    await fleet.close()


async def test_a_preview_tells_what_would_change_it(store: ServingStore, private_home: Path) -> None:
    (model,) = store.list()
    fleet = Fleet(store, Settings(home=private_home), machine=FakeMachine(GIB // 16))
    preview = await fleet.preview(model.name)
    assert not preview.plan.fits
    assert any("more" in sentence for sentence in preview.changes)
    await fleet.close()


@pytest.mark.parametrize(
    ("name", "error"), [("nothing", ModelNotFound), ("/etc/passwd", InvalidRequest), ("./tiny.gguf", InvalidRequest)]
)
async def test_only_what_is_in_the_store_has_one(
    store: ServingStore, private_home: Path, name: str, error: type[LlmserveError]
) -> None:
    fleet = Fleet(store, Settings(home=private_home), machine=FakeMachine(GIB))
    with pytest.raises(error):
        await fleet.preview(name)
    await fleet.close()
