"""What a hub, a proxy or the network between can do to a pull, with the real client: nothing wrong is ever visible."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from llmserve.errors import InsufficientStorage, InvalidModel, InvalidRequest, LlmserveError, ModelNotFound, PullFailed
from llmserve.store import transfer
from llmserve.store.catalog import Catalog
from llmserve.store.stop import Stop
from llmserve.store.store import Store
from tests.fake_hub import Answer, FakeHub
from tests.store.conftest import visible_files
from tests.store.tiny_safetensors import files
from tests.tiny_gguf import write_tiny_model

NAME = "hf:owner/model-GGUF"


@pytest.fixture
def store(private_home: Path) -> Store:
    return Store(private_home, catalog=Catalog())


@pytest.fixture
def model_hub(hub: FakeHub, tiny_bytes: bytes) -> FakeHub:
    hub.commit("owner/model-GGUF", {"tiny.gguf": tiny_bytes})
    return hub


def published(tmp_path: Path) -> list[Path]:
    """The blobs of the shared cache, beginnings of downloads left out."""
    return [path for path in tmp_path.glob("hf/hub/*/blobs/*") if not path.name.endswith(".incomplete")]


class TestContent:
    """P9: what comes as a file's content is not what it should be."""

    def test_another_etag_and_other_bytes_on_resume_begin_anew(
        self, store: Store, model_hub: FakeHub, tmp_path: Path, tiny_bytes: bytes
    ) -> None:
        model_hub.break_after = len(tiny_bytes) // 2
        model_hub.changed = write_tiny_model(tmp_path / "other.gguf", seed=7).read_bytes()
        assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
        asked = [request.headers.get("range") for request in model_hub.downloads()]
        assert asked[0] is None
        assert asked[-1] is None or asked[1:] == [f"bytes={len(tiny_bytes) // 2}-"]

    def test_a_server_that_changed_for_good_is_refused_and_kept_out(
        self, store: Store, model_hub: FakeHub, tmp_path: Path, private_home: Path
    ) -> None:
        model_hub.corrupt = True
        for _ in range(2):
            with pytest.raises(PullFailed, match="SHA-256"):
                store.pull(NAME)
        assert visible_files(private_home) == []
        assert published(tmp_path) == []
        assert not list(tmp_path.glob("hf/hub/*/blobs/*.incomplete"))

    @pytest.mark.parametrize("error", [1, 1000, -1, -1000])
    def test_a_wrong_content_length_is_not_believed(
        self, store: Store, model_hub: FakeHub, tmp_path: Path, private_home: Path, error: int
    ) -> None:
        model_hub.length_error = error
        with pytest.raises(PullFailed, match="announces"):
            store.pull(NAME)
        assert visible_files(private_home) == []
        assert published(tmp_path) == []
        model_hub.length_error = 0
        assert store.pull(NAME) == store.find(NAME)

    @pytest.mark.parametrize("error", [1, -1])
    def test_a_wrong_length_of_the_rest_is_noticed(
        self, store: Store, model_hub: FakeHub, tiny_bytes: bytes, tmp_path: Path, error: int
    ) -> None:
        """With the rest of a file, the length is that of the range: too long waits for a byte that never comes."""
        model_hub.break_after = 1000

        def spoil(_: object) -> None:
            if len(model_hub.downloads()) == 1:
                model_hub.length_error = error
            if len(model_hub.downloads()) > 2:
                model_hub.length_error = 0

        assert Path(store.pull(NAME, spoil).path).read_bytes() == tiny_bytes

    def test_a_short_body_each_time_still_gets_there(self, store: Store, model_hub: FakeHub, tiny_bytes: bytes) -> None:
        cuts = iter([5000, 1, 60_000, 20_000])

        def cut(_: object) -> None:
            if model_hub.break_after is None:
                model_hub.break_after = next(cuts, None)

        model_hub.break_after = 10
        assert Path(store.pull(NAME, cut).path).read_bytes() == tiny_bytes

    @pytest.mark.parametrize(
        "page",
        [
            Answer(200, {"Content-Type": "text/html"}, b"<html>sign in</html>"),
            Answer(206, {"Content-Type": "text/html", "Content-Range": "bytes 0-10/11"}, b"<html></ht>"),
            Answer(204),
            Answer(200, {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08\x00"),
        ],
        ids=["html as 200", "html as 206", "nothing", "compressed"],
    )
    def test_an_answer_that_is_no_file_is_refused(
        self, store: Store, model_hub: FakeHub, tmp_path: Path, private_home: Path, page: Answer
    ) -> None:
        model_hub.resolve_answer = page
        with pytest.raises(PullFailed) as refused:
            store.pull(NAME)
        assert "\n" not in str(refused.value)
        assert visible_files(private_home) == []
        assert published(tmp_path) == []
        model_hub.resolve_answer = None
        assert store.pull(NAME) == store.find(NAME)


class TestNetwork:
    """Slow, dropped and stalled connections, busy servers, proxies."""

    def test_dropped_connections_are_made_again(self, store: Store, model_hub: FakeHub, tiny_bytes: bytes) -> None:
        model_hub.drop = 3
        assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
        assert len(model_hub.downloads()) == 4

    def test_a_server_that_only_drops_connections_is_given_up(
        self, store: Store, model_hub: FakeHub, private_home: Path
    ) -> None:
        model_hub.drop = 1000
        with pytest.raises(PullFailed) as refused:
            store.pull(NAME)
        assert "network" in (refused.value.hint or "")
        assert len(model_hub.downloads()) == 5
        assert visible_files(private_home) == []

    def test_a_slow_connection_is_waited_for(self, store: Store, model_hub: FakeHub, tiny_bytes: bytes) -> None:
        model_hub.trickle = 4096
        assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
        assert len(model_hub.downloads()) == 1

    def test_a_connection_that_stands_still_is_left_and_gone_on_from(
        self, store: Store, model_hub: FakeHub, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "_TIMEOUT_SECONDS", 0.2)
        model_hub.hold_after = 10_000
        try:
            assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
        finally:
            model_hub.go_on.set()
        assert [request.headers.get("range") for request in model_hub.downloads()] == [None, "bytes=10000-"]

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_a_busy_server_is_asked_again_when_it_says(
        self, store: Store, model_hub: FakeHub, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[float] = []
        monkeypatch.setattr(Stop, "wait", lambda _, seconds: slept.append(seconds))
        model_hub.answers = [Answer(status, {"Retry-After": "7"}), Answer(status, {"Retry-After": "soon"})]
        store.pull(NAME)
        assert slept[0] == 7
        assert len(model_hub.downloads()) == 3

    def test_a_server_that_wants_hours_is_not_waited_for(
        self, store: Store, model_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[float] = []
        monkeypatch.setattr(Stop, "wait", lambda _, seconds: slept.append(seconds))
        model_hub.resolve_answer = Answer(429, {"Retry-After": "7200"})
        with pytest.raises(PullFailed) as refused:
            store.pull(NAME)
        assert refused.value.retry_after == 7200
        assert slept == []

    def test_the_users_proxy_is_used_for_everything(
        self, store: Store, model_hub: FakeHub, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_proxy(monkeypatch, model_hub.url)
        assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
        assert {request.target.partition("/api/")[0].partition("/owner/")[0] for request in model_hub.requests} == {
            NOWHERE
        }

    @pytest.mark.parametrize("status", [407, 502, 403])
    def test_a_proxy_that_refuses_is_explained(
        self, store: Store, hub: FakeHub, private_home: Path, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_proxy(monkeypatch, hub.url)
        hub.info_answer = Answer(status, {"Content-Type": "text/html"}, b"<html>the company's proxy</html>")
        with pytest.raises(PullFailed) as refused:
            store.pull(NAME)
        assert str(status) in str(refused.value) or status == 403
        assert "<html>" not in str(refused.value)
        assert visible_files(private_home) == []

    def test_a_proxy_that_is_not_there_is_explained(
        self, store: Store, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use_proxy(monkeypatch, "http://127.0.0.1:9")
        with pytest.raises(PullFailed) as refused:
            store.pull(NAME)
        assert "proxy" in (refused.value.hint or "")
        assert hub.requests == []


NOWHERE = "http://hub.invalid"


def use_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Have the client know a hub by a name that only a proxy can resolve."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    template = NOWHERE + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    for variable in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(variable, url)
    for variable in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)


class TestAccess:
    """S6: whom the token is shown to, and what a gated repository says."""

    def test_a_gated_repository_says_what_to_do(
        self, store: Store, model_hub: FakeHub, private_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model_hub.gated = {"owner/model-GGUF": "hf_granted"}
        for token in (None, "hf_other"):
            if token:
                monkeypatch.setenv("HF_TOKEN", token)
            with pytest.raises(PullFailed, match="gated") as refused:
                store.pull(NAME)
            assert "https://huggingface.co/owner/model-GGUF" in (refused.value.hint or "")
            assert "hf_other" not in str(refused.value) + (refused.value.hint or "")
            assert visible_files(private_home) == []
        monkeypatch.setenv("HF_TOKEN", "hf_granted")
        assert store.pull(NAME) == store.find(NAME)

    @pytest.mark.parametrize("kind", ["info_answer", "resolve_answer"])
    def test_a_foreign_realm_is_not_asked_for_a_token(
        self, store: Store, model_hub: FakeHub, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with FakeHub().running() as evil:
            realm = f'Bearer realm="{evil.url}/token",service="hub",scope="pull"'
            setattr(model_hub, kind, Answer(401, {"WWW-Authenticate": realm}))
            with pytest.raises((PullFailed, ModelNotFound)) as refused:
                store.pull(NAME)
            assert "hf_secret" not in str(refused.value)
            assert evil.requests == []

    @pytest.mark.parametrize("kind", ["info_answer", "resolve_answer"])
    def test_a_redirect_to_another_host_does_not_carry_the_token_there(
        self, store: Store, model_hub: FakeHub, kind: str, private_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with FakeHub().running() as evil:
            setattr(model_hub, kind, Answer(302, {"Location": f"{evil.url}/api/models/owner/model-GGUF"}))
            evil.info_answer = Answer(200, {}, b"{}")
            with pytest.raises((PullFailed, ModelNotFound)):
                store.pull(NAME)
            assert all("hf_secret" not in str(request.headers) for request in evil.requests)
        assert visible_files(private_home) == []

    def test_a_redirect_there_and_back_does_not_bring_the_token_back(
        self, store: Store, model_hub: FakeHub, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        with FakeHub().running() as evil:
            evil.commit("owner/model-GGUF", {"tiny.gguf": tiny_bytes})
            evil.cdn = model_hub.url
            model_hub.resolve_answer = Answer(302, {"Location": f"{evil.url}/owner/model-GGUF/resolve/main/tiny.gguf"})
            assert Path(store.pull(NAME).path).read_bytes() == tiny_bytes
            came_back = [request for request in model_hub.requests if request.path.startswith("/cdn/")]
            assert len(came_back) == 1
            assert all("authorization" not in request.headers for request in (*evil.requests, *came_back))

    def test_an_endless_redirect_ends(self, store: Store, model_hub: FakeHub, private_home: Path) -> None:
        loop = f"{model_hub.url}/owner/model-GGUF/resolve/main/tiny.gguf"
        model_hub.resolve_answer = Answer(302, {"Location": loop})
        with pytest.raises(PullFailed):
            store.pull(NAME)
        assert len(model_hub.downloads()) < 200
        assert visible_files(private_home) == []


@pytest.mark.parametrize(
    "name",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:80/x.gguf",
        "https://169.254.169.254/x",
        "http://hf.co/owner/model-GGUF",
        "https://evil.test/owner/model-GGUF",
        "https://hf.co.evil.test/owner/model-GGUF",
        "https://huggingface.co@evil.test/owner/model-GGUF",
        "https://huggingface.co:8443/owner/model-GGUF",
        "evil.test:5000/owner/model",
        "127.0.0.1:11434/library/model",
        "registry.ollama.ai/library/model:latest",
        "hf.co:80/owner/model",
        "hf:evil.test/owner/model",
        "hf:http://evil.test/owner/model",
        "hf://owner/model",
        "file:///etc/passwd",
        "ftp://evil.test/x.gguf",
        "//evil.test/owner/model",
        "pypi:http://evil.test/x==1:y.gguf",
        "pypi:x @ http://evil.test/==1:y.gguf",
        "pypi:--index-url=http://evil.test==1:y.gguf",
    ],
)
def test_s5_no_name_makes_a_connection_to_a_place_of_its_own(
    store: Store, hub: FakeHub, private_home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a connection to {address!r}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)
    with pytest.raises((InvalidRequest, InvalidModel)) as refused:
        store.pull(name)
    assert refused.value.status == 400
    assert hub.requests == []
    assert visible_files(private_home) == []


SHA256 = "0" * 64


def described(**changed: Any) -> list[dict[str, Any]]:
    lfs = {"size": 10, "sha256": SHA256, "pointerSize": 1}
    return [{"rfilename": "tiny.gguf", "lfs": lfs | changed}]


@pytest.mark.parametrize(
    ("siblings", "error"),
    [
        (described(size=0), PullFailed),
        (described(size=-(2**63)), PullFailed),
        (described(size=1.5), PullFailed),
        (described(size=None), PullFailed),
        (described(size=True), PullFailed),
        (described(size=2**63), InsufficientStorage),
        (described(size=10**30), InsufficientStorage),
        (described(sha256="A" * 64), PullFailed),
        (described(sha256=SHA256 + "\n"), PullFailed),
        (described(sha256=[SHA256]), PullFailed),
        ([{"rfilename": "tiny.gguf"}], PullFailed),
        ([{"rfilename": "tiny.gguf", "lfs": {"size": 10}}], PullFailed),
        ([{"rfilename": "tiny.gguf", "lfs": 7}], PullFailed),
        ([{"rfilename": None}], PullFailed),
        ([{"rfilename": 7}], PullFailed),
        ([{}], PullFailed),
        ([[]], PullFailed),
        ([{"rfilename": "tiny.gguf\0"}, {"rfilename": "C:\\tiny.gguf"}], ModelNotFound),
        ([], ModelNotFound),
    ],
    ids=repr,
)
def test_p7_metadata_that_makes_no_sense_costs_nothing(
    store: Store, model_hub: FakeHub, private_home: Path, siblings: list[Any], error: type[LlmserveError]
) -> None:
    model_hub.siblings = siblings
    with pytest.raises(error) as refused:
        store.pull(NAME)
    assert "\n" not in str(refused.value)
    assert model_hub.downloads() == []
    assert visible_files(private_home) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b'"text"',
        b"{" * 1000,
        b'{"a":' * 20_000,
        b"\xff\xfe{}",
        b"<html>sign in</html>",
        json.dumps({"id": "owner/model-GGUF", "sha": "0" * 40, "siblings": "all"}).encode(),
        json.dumps({"id": "owner/model-GGUF", "sha": "0" * 40, "siblings": {"rfilename": "x"}}).encode(),
        json.dumps({"id": ["x"], "sha": 7, "siblings": None}).encode(),
        json.dumps({"id": "owner/model-GGUF", "sha": "0" * 40, "siblings": [], "cardData": 7}).encode(),
        json.dumps({"id": "owner/model-GGUF", "sha": "0" * 40, "lastModified": "never", "siblings": []}).encode(),
    ],
    ids=lambda body: repr(body[:60]),
)
def test_p7_an_answer_that_is_no_hubs_is_explained(
    store: Store, model_hub: FakeHub, private_home: Path, body: bytes
) -> None:
    model_hub.info_answer = Answer(200, {"Content-Type": "application/json"}, body)
    with pytest.raises((PullFailed, ModelNotFound)) as refused:
        store.pull(NAME)
    assert "\n" not in str(refused.value)
    assert model_hub.downloads() == []
    assert visible_files(private_home) == []


class TestOneCommit:
    """D5: a branch or a tag that moves while the files of a model are fetched."""

    @pytest.mark.parametrize("revision", ["", "@v1"])
    def test_every_file_is_of_the_commit_that_was_resolved(self, store: Store, hub: FakeHub, revision: str) -> None:
        branch = revision.removeprefix("@") or "main"
        first = hub.commit("owner/model", files(), branch=branch)

        def move() -> None:
            hub.commit("owner/model", dict.fromkeys(files(), b"other"), branch=branch)

        hub.after_info = move
        pulled = store.pull(f"hf:owner/model{revision}:safetensors")
        assert {request.path.split("/")[4] for request in hub.downloads()} == {first}
        assert f"@{first}" in pulled.source
        manifest = store.manifest(pulled.name)
        assert {file.name: file.sha256 for file in manifest.files} == {
            name: hashlib.sha256(content).hexdigest() for name, content in files().items()
        }

    def test_a_branch_that_moves_between_two_attempts_is_not_mixed(
        self, store: Store, model_hub: FakeHub, tmp_path: Path, tiny_bytes: bytes
    ) -> None:
        """What the first attempt brought is of the old commit; the second one wants the new one, and gets only that."""
        model_hub.break_after = len(tiny_bytes) // 2
        model_hub.answers = [None, Answer(403)]
        with pytest.raises(PullFailed):
            store.pull(NAME)
        model_hub.answers = []
        moved = write_tiny_model(tmp_path / "moved.gguf", seed=1).read_bytes()
        commit = model_hub.commit("owner/model-GGUF", {"tiny.gguf": moved})
        pulled = store.pull(NAME)
        assert Path(pulled.path).read_bytes() == moved
        assert f"@{commit}" in pulled.source
        assert "range" not in model_hub.downloads()[-1].headers

    def test_what_is_installed_does_not_move(
        self, store: Store, model_hub: FakeHub, tmp_path: Path, tiny_bytes: bytes
    ) -> None:
        first = store.pull(NAME)
        model_hub.commit("owner/model-GGUF", {"tiny.gguf": write_tiny_model(tmp_path / "2.gguf", seed=2).read_bytes()})
        assert store.pull(NAME) == first
        assert Path(store.find(NAME).path).read_bytes() == tiny_bytes
