"""A disk that fails at every point of a pull from the Hub, one after the other."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmserve.errors import InsufficientStorage, LlmserveError
from llmserve.store import transfer
from llmserve.store.adoption import adopt
from llmserve.store.catalog import Catalog
from llmserve.store.store import Store
from tests.fake_hub import FakeHub
from tests.store.conftest import leftovers
from tests.store.test_hub_crash import NAME, check_nothing_wrong_is_visible
from tests.tiny_gguf import write_tiny_model


class FailingDisk:
    """Counts the operations that change the disk, and lets the `at`-th of them fail."""

    def __init__(self, patch: pytest.MonkeyPatch, code: int) -> None:
        self.at: int | None = None
        self.count = 0
        self._code = code
        for owner, name in (
            (os, "fsync"),
            (os, "fchmod"),
            (Path, "mkdir"),
            (Path, "replace"),
            (Path, "symlink_to"),
            (Path, "chmod"),
            (Path, "write_text"),
            (transfer, "_write"),
        ):
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **options)

        return operation


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_fails_anywhere_shows_nothing_wrong_and_serves_the_rest(
    hub: FakeHub, private_home: Path, tmp_path: Path, tiny_bytes: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit("owner/model-GGUF", {"tiny.gguf": tiny_bytes})
    store = Store(private_home, catalog=Catalog())
    kept = adopt(store, write_tiny_model(tmp_path / "kept.gguf", seed=3))
    failures = 0
    for at in range(1, 500):
        with monkeypatch.context() as patch:
            disk = FailingDisk(patch, code)
            disk.at = at
            try:
                store.pull(NAME)
            except LlmserveError as error:
                failures += 1
                assert error.status in {500, 502, 507}
                assert "\n" not in str(error)
                assert isinstance(error, InsufficientStorage) or code not in {errno.ENOSPC, errno.EDQUOT}
        check_nothing_wrong_is_visible(store, tmp_path / "hf" / "hub")
        assert store.find(kept.name) == kept
        if disk.count < at:
            break
        # The disk works again, and so does the pull.
        assert store.pull(NAME) == store.find(NAME)
        store.remove(NAME)
        assert leftovers(private_home) == []
    else:
        pytest.fail("the pull never got to its end")
    assert failures > 5
