"""What the settings say of single models and of groups."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from llmserve.errors import InsufficientStorage, SettingsError
from llmserve.fleet.demand import Demand
from llmserve.settings import ModelGroup, ModelSettings, load_settings
from tests.fleet.fakes import GIB, World, until

SIZE = 4 * GIB


def test_tables_of_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'max_queue_seconds = 30\n[models."smollm2:135m"]\nkeep_alive = -1\npin = true\n'
        '[models.other]\npreload = true\n[[groups]]\nmodels = ["a", "b"]\n'
        '[[groups]]\nmodels = ["c", "d"]\ntogether = true\n'
    )
    settings = load_settings(environ={}, file=file)
    assert settings.models == (ModelSettings("smollm2:135m", -1.0, True, None), ModelSettings("other", preload=True))
    assert settings.groups == (ModelGroup(("a", "b")), ModelGroup(("c", "d"), True))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[models."a"]\npinned = true', "unknown setting `pinned`"),
        ('[models."a"]\npin = "yes"', "`pin` has the wrong type"),
        ('[models."a"]\nkeep_alive = -2', "outside -1 to"),
        ("models = 3", "must be written as tables"),
        ('[[groups]]\nmodels = ["a"]', "at least two"),
        ("[[groups]]\ntogether = true", "at least two"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        load_settings(environ={}, file=file)


async def test_a_model_has_a_keep_alive_of_its_own(world: World) -> None:
    world.store.add("beta")
    world.configure(keep_alive=60.0, models=(ModelSettings("alpha-alias", keep_alive=5.0),))
    await world.load("alpha")
    await world.load("beta")
    assert world.status("alpha").unload_in_seconds == 5
    assert world.status("beta").unload_in_seconds == 60


async def test_a_request_may_say_how_long_the_model_stays(world: World) -> None:
    for seconds, expected in ((600.0, 600.0), (-1.0, None), (7.0, 7.0)):
        (await world.fleet.lease("alpha", Demand(keep_alive_seconds=seconds))).release()
        assert world.status("alpha").unload_in_seconds == expected
    (await world.fleet.lease("alpha")).release()
    assert world.status("alpha").unload_in_seconds == 7
    (await world.fleet.lease("alpha", Demand(keep_alive_seconds=0.0))).release()
    await until(lambda: world.state("alpha") is None)


async def test_a_pinned_model_stays_and_says_why_there_is_no_room(world: World) -> None:
    for name in ("alpha", "beta", "gamma"):
        world.store.add(name, size_bytes=SIZE)
    world.machine.total = int(2.6 * SIZE)
    world.configure(models=(ModelSettings("alpha", pin=True), ModelSettings("beta", pin=True)))
    await world.load("alpha")
    world.clock.advance(10)
    await world.load("beta")
    assert world.status("alpha").pinned
    with pytest.raises(InsufficientStorage, match="no room for `gamma` beside `alpha`"):
        await world.lease("gamma")
    assert world.loaded() == ["alpha", "beta"]
    assert await world.fleet.stop("alpha") is True
    assert (await world.lease("gamma")).model.name == "gamma"


async def test_models_that_may_not_be_together_replace_each_other(world: World) -> None:
    world.store.add("beta")
    world.configure(groups=(ModelGroup(("alpha", "beta")),))
    lease = await world.lease("alpha")
    waiting = asyncio.create_task(world.lease("beta"))
    await until(lambda: world.state("beta") == "loading")
    assert world.pid("beta") is None
    lease.release()
    assert (await waiting).model.name == "beta"
    assert world.loaded() == ["beta"]


async def test_models_that_belong_together_are_loaded_together(world: World) -> None:
    world.store.add("beta")
    world.configure(groups=(ModelGroup(("alpha", "beta"), together=True),))
    await world.load("beta")
    await until(lambda: world.state("alpha") == "ready")
