"""Nothing secret reaches a process that runs native code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmserve.hardware.environment import native_environment

SECRETS = (
    *("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "LLMSERVE_API_KEY", "AWS_SECRET_ACCESS_KEY"),
    *("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PIP_INDEX_URL", "GITHUB_TOKEN"),
    *("DATABASE_URL", "LD_PRELOAD", "PYTHONPATH", "PYTHONSTARTUP", "SSH_AUTH_SOCK", "LC_API_KEY", "VLLM_API_KEY"),
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_stays_behind(name: str) -> None:
    assert native_environment({name: "canary", "PATH": "/bin"}) == {"PATH": "/bin"}


@given(
    st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", max_size=12),
    st.sampled_from(("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIALS", "PROXY", "AUTH")),
)
def test_no_name_of_a_secret_passes(prefix: str, word: str) -> None:
    assert native_environment({prefix + word: "canary", word + prefix: "canary"}) == {}


def test_what_selects_devices_and_libraries_passes() -> None:
    names = (
        *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH"),
        *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "VK_DRIVER_FILES"),
    )
    environ = dict.fromkeys(names, "x")
    assert native_environment(environ) == environ
