"""The disk budget: which models go, which never do, and who is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmserve.errors import InsufficientStorage
from llmserve.settings import Settings
from llmserve.store.adoption import adopt
from llmserve.store.budget import Budget, Kept, choose_leaving, held_bytes, make_room
from llmserve.store.bundles import export_models, import_bundle
from llmserve.store.catalog import Catalog
from llmserve.store.lock_links import remember_lock
from llmserve.store.lockfile import lock_models, write_lock
from llmserve.store.names import parse_name
from llmserve.store.options import PullOptions
from llmserve.store.pins import set_pinned
from llmserve.store.serving import ServingStore
from llmserve.store.store import Store
from tests.fake_hub import FakeHub
from tests.tiny_gguf import write_tiny_model

NAMES = ("hf:owner/a", "hf:owner/b")


class Person:
    """Answers the question which models may go, and remembers what was asked."""

    def __init__(self, *, agrees: bool) -> None:
        self.agrees = agrees
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, leaving: tuple[Kept, ...]) -> bool:
        self.asked.append(tuple(model.name for model in leaving))
        return self.agrees


@pytest.fixture
def two(private_home: Path, hub: FakeHub, tmp_path: Path) -> Store:
    """A store with two models of the Hub, `a` used longest ago; a third can be pulled."""
    for seed, name in enumerate("abc"):
        hub.commit(f"owner/{name}", {"m.gguf": write_tiny_model(tmp_path / f"{name}.gguf", seed=seed).read_bytes()})
    store = Store(private_home, catalog=Catalog())
    for used_at, name in enumerate(NAMES, 1000):
        store.pull(name)
        used(store, name, used_at)
    return store


def used(store: Store, name: str, at: float) -> None:
    reference = parse_name(name)
    manifest = store.manifests.read(reference)
    assert manifest is not None
    store.manifests.write(reference, manifest, used_at=at)


def names(store: Store) -> list[str]:
    return [model.name for model in store.list()]


def pull_third(store: Store, person: Person) -> None:
    store.pull("hf:owner/c", options=PullOptions(budget=Budget(held_bytes(store) + 1000, person)))


def test_the_one_used_longest_ago_goes(two: Store) -> None:
    person = Person(agrees=True)
    pull_third(two, person)
    assert names(two) == ["hf:owner/b", "hf:owner/c"]
    assert person.asked == [("hf:owner/a",)]


def test_nothing_goes_without_leave(two: Store, hub: FakeHub) -> None:
    before = len(hub.downloads())
    with pytest.raises(InsufficientStorage, match="`hf:owner/a` would have to go"):
        pull_third(two, Person(agrees=False))
    assert names(two) == list(NAMES)
    assert len(hub.downloads()) == before


@pytest.fixture
def bundle(two: Store, tmp_path: Path) -> Path:
    """A third model, from elsewhere."""
    elsewhere = Store(tmp_path / "elsewhere", catalog=Catalog())
    model = adopt(elsewhere, tmp_path / "c.gguf")
    export_models(elsewhere, (model.name,), tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


def test_an_import_is_within_the_budget_too(two: Store, bundle: Path) -> None:
    person = Person(agrees=False)
    with pytest.raises(InsufficientStorage, match="`hf:owner/a` would have to go"):
        import_bundle(two, bundle, budget=Budget(held_bytes(two) + 1000, person))
    assert names(two) == list(NAMES)
    person.agrees = True
    (imported,) = import_bundle(two, bundle, budget=Budget(held_bytes(two) + 1000, person))
    assert sorted(names(two)) == sorted(["hf:owner/b", imported.name])
    assert person.asked == [("hf:owner/a",)] * 2


def test_what_is_here_already_needs_no_room(two: Store, bundle: Path) -> None:
    import_bundle(two, bundle)
    person = Person(agrees=False)
    import_bundle(two, bundle, budget=Budget(held_bytes(two), person))
    assert person.asked == []


def test_within_the_budget_nobody_is_asked(two: Store) -> None:
    person = Person(agrees=False)
    two.pull("hf:owner/c", options=PullOptions(budget=Budget(10**9, person)))
    assert person.asked == []


def test_a_use_is_kept(two: Store) -> None:
    ServingStore(two.home, catalog=Catalog()).find("hf:owner/a")
    person = Person(agrees=True)
    pull_third(two, person)
    assert person.asked == [("hf:owner/b",)]


def test_a_pinned_model_stays(two: Store) -> None:
    set_pinned(two, "hf:owner/a", pinned=True)
    person = Person(agrees=True)
    pull_third(two, person)
    assert names(two) == ["hf:owner/a", "hf:owner/c"]
    assert two.find("hf:owner/a").pinned
    set_pinned(two, "hf:owner/a", pinned=False)
    manifest = two.manifest("hf:owner/a")
    assert (manifest.pinned, two.used_at(manifest)) == (False, 1000)


def test_what_a_lock_file_names_stays(two: Store, tmp_path: Path) -> None:
    path = tmp_path / "models.lock"
    write_lock(lock_models(two, path, NAMES, Settings()))
    remember_lock(two.home, path)
    with pytest.raises(InsufficientStorage, match="would not be enough"):
        pull_third(two, Person(agrees=True))
    assert names(two) == list(NAMES)


def test_what_is_in_use_stays(two: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    in_use = frozenset({two.find("hf:owner/a").path})
    monkeypatch.setattr("llmserve.store.budget.paths_in_use", lambda: in_use)
    person = Person(agrees=True)
    pull_third(two, person)
    assert person.asked == [("hf:owner/b",)]


def test_own_files_neither_count_nor_go(two: Store, tmp_path: Path) -> None:
    before = held_bytes(two)
    adopt(two, tmp_path / "c.gguf")
    assert held_bytes(two) == before
    make_room(two, 1, Budget(1, Person(agrees=True)), keep=())
    assert names(two) == ["c:local"]
    assert (tmp_path / "c.gguf").exists()
    assert os.path.lexists(two.find("c:local").path)


def kept(name: str, used_at: float, **files: int) -> Kept:
    return Kept(name, used_at, tuple(files.items()))


@pytest.mark.parametrize(
    ("models", "staying", "excess", "leaving"),
    [
        ([kept("old", 1, a=5), kept("new", 2, b=5)], "", 5, ("old",)),
        ([kept("old", 1, a=5), kept("new", 2, b=5)], "", 6, ("old", "new")),
        ([kept("old", 1, a=5), kept("new", 2, b=5)], "old", 5, ("new",)),
        ([kept("old", 1, a=5), kept("new", 2, b=5)], "", 11, None),
        ([kept("old", 1, a=1), kept("new", 2, b=9)], "", 9, ("new",)),
        ([kept("old", 1, a=5), kept("copy", 2, a=5), kept("new", 3, b=5)], "", 5, ("old", "copy")),
        ([kept("old", 1, a=5), kept("copy", 2, a=5), kept("new", 3, b=5)], "copy", 5, ("new",)),
    ],
)
def test_which_ones_leave(models: list[Kept], staying: str, excess: int, leaving: tuple[str, ...] | None) -> None:
    chosen = choose_leaving(models, frozenset({staying}), excess)
    assert (None if chosen is None else tuple(model.name for model in chosen)) == leaving
