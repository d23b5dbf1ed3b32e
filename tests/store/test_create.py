"""Models made from a description: words, parameters, a template and adapters of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.errors import Conflict, InvalidModel, InvalidRequest, ModelNotFound
from llmserve.store.bundles import export_models, import_bundle
from llmserve.store.catalog import Catalog
from llmserve.store.copies import copy
from llmserve.store.copies import make as build
from llmserve.store.defaults import ChatDefaults
from llmserve.store.description import Description
from llmserve.store.store import Store
from llmserve.store.usage import prune, usage
from llmserve.store.verification import verify
from llmserve.types import AdapterFile
from tests.store.maker import TEMPLATE, Maker
from tests.store.raw_adapter import PAIR, write_adapter

# --- parameters ---


def test_parameters_are_the_models_defaults(store: Store, make: Maker) -> None:
    make("base = 'tiny'\nsystem = 'Be brief.'\n[parameters]\ntemperature = 0\ntop_p = 0.5\nmax_tokens = 9\nseed = -1\n")
    assert store.defaults("made:v1") == ChatDefaults("Be brief.", 0.0, 0.5, 9, -1)


def test_what_is_not_stated_is_the_bases(store: Store, make: Maker) -> None:
    make("base = 'tiny'\nsystem = 'Be brief.'\ntemperature = 1\n", "first:v1")
    make("base = 'first:v1'\n[parameters]\ntemperature = 0.5\n", "second:v1")
    assert store.defaults("second:v1") == ChatDefaults("Be brief.", 0.5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("parameters = 1", "no table"),
        ("parameters = { top = 1 }", "unknown parameter `top`"),
        ("parameters = { max_tokens = 1.5 }", "no whole number"),
        ("parameters = { max_tokens = 0 }", "outside"),
        ("parameters = { top_p = true }", "no number"),
        ("temperature = 1\nparameters = { temperature = 1 }", "stated twice"),
        ("template = 7", "neither text nor"),
        ("template = '{% for %} messages'", "the template cannot be used: line 1"),
        ("template = '{{ .Prompt }} messages'", "the template cannot be used"),
        ("template = 'hello'", "does not use `messages`"),
        ("template = { file = 'none.jinja' }", "No such file"),
        ("template = { path = 'x' }", "unknown key `path`"),
        ("adapters = 'a.gguf'", "no list"),
        ("adapters = [1]", "something else than paths"),
        ("adapters = [{ scale = 1 }]", "names no file"),
        ("adapters = [{ file = 'a.gguf', scale = 'x' }]", "scale"),
        ("adapters = [{ file = 'a.gguf', weight = 1 }]", "unknown key `weight`"),
    ],
)
def test_what_cannot_be_is_refused_by_name(store: Store, make: Maker, text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        make(f"base = 'tiny'\n{text}\n")
    assert len(store.list()) == 1


# --- a template of its own ---


def test_the_template_takes_the_place_of_the_files(store: Store, make: Maker) -> None:
    made = make.with_template()
    assert made.template is not None
    assert Path(made.template).read_text() == TEMPLATE
    assert store.inspect("made:v1").chat_template == TEMPLATE
    assert store.inspect("tiny").chat_template != TEMPLATE
    assert store.find("tiny").template is None


def test_a_template_may_be_a_file_beside_the_description(store: Store, make: Maker) -> None:
    (make.folder / "chat.jinja").write_text(TEMPLATE)
    make("base = 'tiny'\ntemplate = { file = 'chat.jinja' }\n")
    (make.folder / "chat.jinja").unlink()
    assert store.inspect("made:v1").chat_template == TEMPLATE


def test_a_training_mark_in_a_template_is_no_mistake(make: Maker) -> None:
    make.with_template(template="{{ messages }}{% generation %}x{% endgeneration %}")


def test_the_digest_tells_models_with_different_templates_apart(store: Store, make: Maker) -> None:
    first, second = make.with_template("a:v1"), make.with_template("b:v1", TEMPLATE + "!")
    again = make.with_template("c:v1")
    assert first.sha256 == again.sha256
    assert len({first.sha256, second.sha256, store.find("tiny").sha256}) == 3
    assert first.path == second.path


def test_a_changed_template_is_not_served(store: Store, make: Maker) -> None:
    made = make.with_template()
    assert made.template is not None
    Path(made.template).write_text(TEMPLATE + "x")
    with pytest.raises(InvalidModel, match=r"changed on disk since it was verified: `chat_template\.jinja`"):
        store.find("made:v1")
    assert verify(store, "made:v1").problem == "has another SHA-256 than when it was installed (`chat_template.jinja`)"
    with pytest.raises(Conflict, match="no source"):
        verify(store, "made:v1", repair=True)
    assert store.find("tiny")


def test_a_template_is_kept_while_a_model_needs_it_and_no_longer(store: Store, make: Maker) -> None:
    made = make.with_template()
    copy(store, "made:v1", "copied:v1")
    assert prune(store) == ()
    assert store.remove("made:v1") == 0
    copied = store.find("copied:v1")
    assert copied.template == made.template
    assert store.remove("copied:v1") == len(TEMPLATE.encode())
    assert store.find("tiny")


def blobs(store: Store) -> set[str]:
    return {path.name for path in (store.home / "blobs").rglob("*") if path.is_file()}


def test_a_model_takes_the_place_of_one_that_was_made_and_of_no_other(store: Store, make: Maker) -> None:
    before = blobs(store)
    make.with_template("made:v1")
    assert len(blobs(store)) == len(before) + 1
    # From itself, and what is not stated anew stays: but for the template, which nothing needs any more.
    build(store, Description("made:v1", ChatDefaults("Be brief."), template=TEMPLATE + " "), "made:v1", replaces=True)
    assert store.defaults("made:v1").system == "Be brief."
    assert len(blobs(store)) == len(before) + 1
    build(store, Description("tiny"), "made:v1", replaces=True)
    assert blobs(store) == before
    assert store.defaults("made:v1") == ChatDefaults()
    copy(store, "tiny", "copied:v1")
    for name in ("copied:v1", "tiny", "tiny:1m"):
        with pytest.raises(Conflict):
            build(store, Description("tiny"), name, replaces=True)
    with pytest.raises(Conflict, match="already"):
        build(store, Description("tiny"), "made:v1")


def test_what_takes_a_place_and_fails_leaves_what_was_there(store: Store, make: Maker) -> None:
    make("base = 'tiny'\nsystem = 'Be brief.'\n")
    with pytest.raises(ModelNotFound):
        build(store, Description("nothing:here"), "made:v1", replaces=True)
    assert store.defaults("made:v1").system == "Be brief."


def test_a_created_model_can_be_the_base_of_another(store: Store, make: Maker) -> None:
    make.with_template()
    inherited = make("base = 'made:v1'\nsystem = 'x'\n", "second:v1")
    assert inherited.template == store.find("made:v1").template
    replaced = make(f"base = 'made:v1'\ntemplate = '''{TEMPLATE}'''\n", "third:v1")
    assert replaced.template == inherited.template


def test_a_repaired_model_keeps_its_words(store: Store, make: Maker, downloads: list[str]) -> None:
    made = make.with_template()
    Path(made.path).write_bytes(b"damaged")
    assert verify(store, "made:v1", repair=True).repaired
    assert store.find("made:v1").template == made.template
    assert len(downloads) == 2


# --- adapters ---


def test_adapters_are_recorded_where_they_lie(store: Store, make: Maker) -> None:
    first, second = write_adapter(make.folder / "a.gguf"), write_adapter(make.folder / "b.gguf", general__name="b")
    made = make("base = 'tiny'\nadapters = ['a.gguf', { file = 'b.gguf', scale = 0.5 }]\n")
    assert [(adapter.path, adapter.scale) for adapter in made.adapters] == [(str(first), 1.0), (str(second), 0.5)]
    assert made.sha256 != store.find("tiny").sha256
    assert store.remove("made:v1") == 0
    assert first.exists()


def test_scale_and_order_of_adapters_are_part_of_the_digest(make: Maker) -> None:
    write_adapter(make.folder / "a.gguf")
    write_adapter(make.folder / "b.gguf", general__name="b")
    lists = ("'a.gguf', 'b.gguf'", "'b.gguf', 'a.gguf'", "'a.gguf', { file = 'b.gguf', scale = 0.5 }")
    made = [make(f"base = 'tiny'\nadapters = [{text}]\n", f"m{n}:v1") for n, text in enumerate(lists)]
    assert len({model.sha256 for model in made}) == 3


def test_adapters_that_are_stated_replace_the_bases(store: Store, make: Maker) -> None:
    write_adapter(make.folder / "a.gguf")
    make("base = 'tiny'\nadapters = ['a.gguf']\n", "first:v1")
    assert make("base = 'first:v1'\n", "second:v1").adapters == store.find("first:v1").adapters
    assert make("base = 'first:v1'\nadapters = []\n", "third:v1").adapters == ()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"general__type": "model"}, "is no adapter: its general.type is 'model'"),
        ({"adapter__type": "control"}, "the type 'control'"),
        ({"general__architecture": "qwen3"}, "made for the architecture 'qwen3', the base is 'llama'"),
        ({"tensors": PAIR[:1]}, "no pairs"),
        ({"tensors": ()}, "no pairs"),
    ],
)
def test_what_is_no_adapter_for_the_base_is_refused(make: Maker, keys: dict[str, object], said: str) -> None:
    write_adapter(make.folder / "a.gguf", **keys)  # type: ignore[arg-type]
    with pytest.raises(InvalidModel, match=said):
        make("base = 'tiny'\nadapters = ['a.gguf']\n")


def test_a_model_is_no_adapter(make: Maker, tiny_model: Path) -> None:
    with pytest.raises(InvalidModel, match=r"is no adapter: it has no general\.type"):
        make(f"base = 'tiny'\nadapters = ['{tiny_model}']\n")
    with pytest.raises(InvalidModel, match="there is no adapter"):
        make("base = 'tiny'\nadapters = ['none.gguf']\n")


def test_a_changed_adapter_is_not_served(store: Store, make: Maker) -> None:
    file = write_adapter(make.folder / "a.gguf")
    make("base = 'tiny'\nadapters = ['a.gguf']\n")
    file.touch()
    with pytest.raises(InvalidModel, match=r"`a\.gguf`"):
        store.find("made:v1")
    assert verify(store, "made:v1").problem is None
    assert store.find("made:v1")


# --- carried elsewhere ---


def test_template_and_adapters_travel_in_a_bundle(store: Store, make: Maker, tmp_path: Path) -> None:
    adapter = write_adapter(make.folder / "a.gguf")
    made = make(f"base = 'tiny'\nadapters = [{{ file = 'a.gguf', scale = 2 }}]\ntemplate = '''{TEMPLATE}'''\n")
    bundle = tmp_path / "models.tar"
    export_models(store, ("made:v1", "tiny"), bundle)
    content = adapter.read_bytes()
    adapter.unlink()
    elsewhere = Store(tmp_path / "elsewhere", catalog=Catalog())
    import_bundle(elsewhere, bundle)
    there = elsewhere.find("made:v1")
    assert there.sha256 == made.sha256
    assert elsewhere.inspect("made:v1").chat_template == TEMPLATE
    (carried,) = there.adapters
    assert carried == AdapterFile(carried.path, made.adapters[0].sha256, 2.0)
    assert Path(carried.path).read_bytes() == content
    assert usage(elsewhere).unused_bytes == 0
    assert elsewhere.remove("made:v1") == len(content) + len(TEMPLATE.encode())
