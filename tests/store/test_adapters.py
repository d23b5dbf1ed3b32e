"""Adapters that a model is created with: their names, whether they fit the base, what is kept of them and carried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmserve.errors import AdapterNotFound, InvalidModel, InvalidRequest
from llmserve.settings import Settings
from llmserve.store.adoption import adopt
from llmserve.store.bundles import export_models, import_bundle
from llmserve.store.catalog import Catalog
from llmserve.store.locked_pull import pull_locked
from llmserve.store.lockfile import lock_models, read_lock, write_lock
from llmserve.store.store import Store
from llmserve.store.verification import verify
from llmserve.types import AdapterFile
from tests.store.maker import Maker
from tests.store.raw_adapter import PAIR, pair, write_adapter
from tests.store.raw_gguf import I8
from tests.tiny_gguf import EMBEDDING_LENGTH as WIDTH
from tests.tiny_gguf import FEED_FORWARD_LENGTH as INNER
from tests.tiny_gguf import vocabulary, write_tiny_model

NAMED = """
base = 'tiny'

[[adapters]]
file = "always.gguf"

[[adapters]]
name = "polite"
file = "polite.gguf"
scale = 0.5

[[adapters]]
name = "terse"
file = "terse.gguf"
default = true
"""


@pytest.fixture
def files(make: Maker) -> dict[str, Path]:
    names = ("always", "polite", "terse")
    return {name: write_adapter(make.folder / f"{name}.gguf", general__name=name) for name in names}


# --- names ---


def test_names_scales_and_the_default_are_kept(make: Maker, files: dict[str, Path]) -> None:
    made = make(NAMED)
    expected = [(None, 1.0, False), ("polite", 0.5, False), ("terse", 1.0, True)]
    assert [(adapter.name, adapter.scale, adapter.default) for adapter in made.adapters] == expected
    assert [adapter.path for adapter in made.adapters] == [str(path) for path in files.values()]
    assert made.adapter_names == ("polite", "terse")


def test_name_and_default_are_part_of_the_digest(make: Maker, files: dict[str, Path]) -> None:
    texts = [
        NAMED,
        NAMED.replace('name = "polite"', 'name = "kind"'),
        NAMED.replace("default = true", ""),
        NAMED.replace('name = "polite"', ""),
    ]
    assert len({make(text, f"m{n}:v1").sha256 for n, text in enumerate(texts)}) == len(texts)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ('name = "Polite"', r"has the name `Polite`"),
        ('name = "a/b"', r"has the name `a/b`"),
        ('name = "a@b"', r"has the name `a@b`"),
        ('name = ""', r"has the name ``"),
        ('name = "none"', r"has the name `none`"),
        ('name = "x.gguf"', r"has the name `x\.gguf`"),
        ("name = 3", r"has the name `3`"),
        ('name = "terse"', r"has two of the name `terse`"),
        ("default = true", r"a `default` without a `name`"),
        ('name = "polite"\ndefault = true', r"has two with `default`"),
        ('name = "polite"\ndefault = 1', r"a `default` that is neither true nor false"),
        ('nick = "polite"', r"the unknown key `nick`"),
    ],
)
def test_what_can_be_no_name_is_refused(make: Maker, files: dict[str, Path], adapter: str, said: str) -> None:
    text = NAMED.replace('name = "polite"', adapter)
    with pytest.raises(InvalidRequest, match=said) as refused:
        make(text)
    assert refused.value.param == "adapters"


def test_a_model_is_found_with_each_of_its_adapters(store: Store, make: Maker, files: dict[str, Path]) -> None:
    made = make(NAMED + "[parameters]\ntemperature = 0.5\n", "made:latest")
    for name in ("made", "made:latest", "made@polite", "made:latest@terse", "made@none"):
        assert store.find(name) == made
        assert store.defaults(name).temperature == 0.5
    with pytest.raises(AdapterNotFound, match="`made:latest` has no adapter `rude`") as missing:
        store.find("made@rude")
    assert missing.value.status == 404
    assert missing.value.hint == "there is `made:latest@polite`, `made:latest@terse`"


def test_a_model_without_named_adapters_is_found_with_none(store: Store, make: Maker, files: dict[str, Path]) -> None:
    make("base = 'tiny'\nadapters = ['always.gguf']\n")
    with pytest.raises(AdapterNotFound, match="`made:v1` has no adapter `always`") as missing:
        store.find("made:v1@always")
    assert "no adapter of `made:v1` has a name" in str(missing.value.hint)
    with pytest.raises(AdapterNotFound):
        store.find("tiny@none")


def test_nothing_is_removed_or_made_by_the_name_of_an_adapter(
    store: Store, make: Maker, files: dict[str, Path]
) -> None:
    make(NAMED)
    with pytest.raises(InvalidRequest, match="is not a model name"):
        store.remove("made:v1@polite")
    with pytest.raises(InvalidRequest, match="is not a model name"):
        make("base = 'made:v1@polite'\n", "second:v1")
    assert store.find("made:v1")


def test_a_model_in_use_knows_them_after_a_verification(store: Store, make: Maker, files: dict[str, Path]) -> None:
    made = make(NAMED)
    files["polite"].touch()
    assert verify(store, "made:v1").problem is None
    assert store.find("made:v1") == made


# --- whether they fit ---


@pytest.mark.parametrize(
    "tensors",
    [
        pair("blk.0.attn_q.weight", (WIDTH, 3), (3, WIDTH)),
        pair("blk.1.ffn_down.weight", (INNER, 1), (1, WIDTH)),
        pair("blk.1.attn_v.weight", (WIDTH, 4), (4, WIDTH // 2)),
        pair("output.weight", (WIDTH, 4), (4, len(vocabulary()))),
        # Rows of the embeddings are looked up, so A and B change places.
        pair("token_embd.weight", (4, len(vocabulary())), (4, WIDTH)),
    ],
)
def test_what_fits_the_base_is_taken(make: Maker, tensors: tuple[object, ...]) -> None:
    write_adapter(make.folder / "a.gguf", tensors=tensors)  # type: ignore[arg-type]
    assert len(make("base = 'tiny'\nadapters = ['a.gguf']\n").adapters) == 1


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (pair("blk.0.attn_q.weight", (WIDTH, 2), (3, WIDTH)), r"of the tensor 'blk\.0\.attn_q\.weight', lora_a has"),
        (pair("blk.0.attn_q.weight", (WIDTH + 1, 2), (2, WIDTH)), r"'blk\.0\.attn_q\.weight', lora_a has the shape"),
        (pair("blk.0.attn_v.weight", (WIDTH, 2), (2, WIDTH)), r"'blk\.0\.attn_v\.weight', lora_a has the shape"),
        (pair("blk.0.attn_q.weight", (WIDTH, 2, 2), (2, WIDTH, 2)), r"'blk\.0\.attn_q\.weight', lora_a has the shape"),
        (pair("token_embd.weight", (WIDTH, 2), (2, len(vocabulary()))), r"'token_embd\.weight', lora_a has the shape"),
        (pair("blk.9.attn_q.weight", (WIDTH, 2), (2, WIDTH)), r"'blk\.9\.attn_q\.weight', which the base does not"),
        (pair("blk.0.attn_q.weight", (WIDTH, 2), (2, WIDTH), I8), r"lora_a has the type I8"),
        ((*PAIR, *pair("x.lora_b", (1,), (1,))), r"no pairs of"),
    ],
)
def test_what_does_not_fit_is_refused_by_file_and_tensor(make: Maker, tensors: tuple[object, ...], said: str) -> None:
    path = write_adapter(make.folder / "a.gguf", tensors=tensors)  # type: ignore[arg-type]
    with pytest.raises(InvalidModel, match=said) as refused:
        make("base = 'tiny'\nadapters = ['a.gguf']\n")
    assert str(path) in refused.value.message


def test_a_damaged_file_is_refused_by_its_name(make: Maker) -> None:
    path = write_adapter(make.folder / "a.gguf")
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(InvalidModel, match=r"a\.gguf: .*its tensors end at byte"):
        make("base = 'tiny'\nadapters = ['a.gguf']\n")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 4, "4"])
def test_an_alpha_that_is_no_number_is_refused(make: Maker, alpha: object) -> None:
    write_adapter(make.folder / "a.gguf", adapter__lora__alpha=alpha)  # type: ignore[arg-type]
    with pytest.raises(InvalidModel, match=r"adapter\.lora\.alpha"):
        make("base = 'tiny'\nadapters = ['a.gguf']\n")


def test_one_that_tokens_switch_on_is_refused(make: Maker) -> None:
    write_adapter(make.folder / "a.gguf", adapter__alora__invocation_tokens=[1, 2])
    with pytest.raises(InvalidModel, match="aLoRA"):
        make("base = 'tiny'\nadapters = ['a.gguf']\n")


def test_an_embedding_model_takes_none(store: Store, make: Maker, files: dict[str, Path], tmp_path: Path) -> None:
    import gguf

    path = write_tiny_model(tmp_path / "embed.gguf", pooling=gguf.PoolingType.MEAN)
    name = adopt(store, path).name
    with pytest.raises(InvalidRequest, match="is an embedding model, which takes no adapters"):
        make(f"base = '{name}'\nadapters = ['always.gguf']\n")


# --- what they take ---


def test_their_bytes_are_where_the_weights_are_that_they_change(store: Store, make: Maker) -> None:
    write_adapter(make.folder / "a.gguf", tensors=pair("blk.1.attn_q.weight", (WIDTH, 2), (2, WIDTH)))
    write_adapter(make.folder / "b.gguf", tensors=pair("output.weight", (WIDTH, 1), (1, len(vocabulary()))))
    write_adapter(
        make.folder / "c.gguf", tensors=pair("token_embd.weight", (1, len(vocabulary())), (1, WIDTH)), general__name="c"
    )
    make("base = 'tiny'\nadapters = ['a.gguf', { file = 'a.gguf', name = 'again' }, 'b.gguf', 'c.gguf']\n")
    before, after = store.inspect("tiny"), store.inspect("made:v1")
    added = [b.weight_bytes - a.weight_bytes for a, b in zip(before.layers, after.layers, strict=True)]
    assert added == [0, 2 * 2 * WIDTH * 4], "a file that two adapters use is in memory once"
    assert after.output_bytes - before.output_bytes == (WIDTH + len(vocabulary())) * 4
    assert after.input_bytes - before.input_bytes == (WIDTH + len(vocabulary())) * 4
    assert after.parameters == before.parameters


# --- carried elsewhere ---


def test_names_travel_in_a_bundle(store: Store, make: Maker, files: dict[str, Path], tmp_path: Path) -> None:
    made = make(NAMED)
    export_models(store, ("made:v1",), tmp_path / "models.tar")
    elsewhere = Store(tmp_path / "elsewhere", catalog=Catalog())
    import_bundle(elsewhere, tmp_path / "models.tar")
    there = elsewhere.find("made:v1@polite")
    assert there.sha256 == made.sha256
    assert [AdapterFile("", a.sha256, a.scale, a.name, a.default) for a in there.adapters] == [
        AdapterFile("", a.sha256, a.scale, a.name, a.default) for a in made.adapters
    ]


def test_names_are_locked(store: Store, make: Maker, files: dict[str, Path], tmp_path: Path, tiny_model: Path) -> None:
    own = adopt(store, tiny_model).name
    made = make(NAMED.replace("'tiny'", f"'{own}'"))
    lock_path = tmp_path / "models.lock"
    write_lock(lock_models(store, lock_path, ("made:v1",), Settings()))
    always, _, terse = json.loads(lock_path.read_text())["models"][0]["adapters"]
    assert always.keys() == {"path", "size_bytes", "sha256", "scale"}, "a lock file of earlier days stays as it is"
    assert (terse["name"], terse["default"]) == ("terse", True)
    elsewhere = Store(tmp_path / "elsewhere", catalog=Catalog())
    assert pull_locked(elsewhere, read_lock(lock_path), "made:v1").adapters == made.adapters
