"""Names that lead elsewhere, in every command and every route that takes one: nothing outside is touched.

Commands come from the command line's own group and routes from the application's own table, so that a new one is tried
as soon as it is there.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import click
import httpx2
import pytest
from starlette.routing import Route, Router

from llmserve.api.app import build_app
from llmserve.api.gateway import Gateway
from llmserve.api.openapi import QUERIES
from llmserve.cli.main import COMMANDS, LazyGroup, llmserve, main
from llmserve.errors import InvalidModel, LlmserveError
from llmserve.fleet.fleet import Fleet
from llmserve.settings import Settings
from llmserve.store.adoption import adopt
from llmserve.store.catalog import Catalog
from llmserve.store.files import sha256_of
from llmserve.store.progress import ignore_progress
from llmserve.store.store import Store
from tests.fake_hub import FakeHub
from tests.tiny_gguf import write_tiny_model

DIGEST = "0" * 64

# Security cases P1 and P2. `{outside}` is an existing directory beside the roots, and `{home}` the data directory.
NAMES = (
    "..",
    "../",
    "../secret",
    "../../../../../../etc/passwd",
    "..\\..\\secret",
    "....//....//secret",
    "{outside}/secret",
    "{outside}/secret.txt",
    "{home}-evil/x",
    "{home}/../outside/secret",
    "/etc/passwd",
    "//etc/passwd",
    "C:\\Windows\\win.ini",
    "\\\\host\\share",
    "a\0b",
    "\0",
    "%2e%2e%2fsecret",
    "%252e%252e%252fsecret",
    "..%2fsecret",
    ".",
    "~",
    "~root",
    "~nobody-of-that-name",
    "~/secret",
    "$HOME",
    "`id`",
    "$(id)",
    "; rm -rf x",
    "a" * 10_240,
    "a:" + "b" * 10_240,
    "x\r\ny",
    "x\x1b[31m",
    "\u202egpj.fugg",
    "SMOLLM2:135M",
    "smo\u0131lm2:135m",
    "\uff53mollm2:135m",
    "con",
    "nul:latest",
    "com1:x",
    "aux.gguf",
    "x:..",
    "x:../../y",
    "x/../../y:z",
    "hf:../../x",
    "hf:owner/..",
    "hf:owner/repo@../../x",
    "hf:owner/repo:../../x.gguf",
    "hf:owner/repo:/etc/x.gguf",
    "hf:owner--x/repo",
    "pypi:../x==1:y.gguf",
    "pypi:x==1:../../y.gguf",
    "pypi:x==1:/etc/y.gguf",
    "https://example.com/../x.gguf#sha256=../../x",
    f"https://example.com/x.gguf#sha256={DIGEST[:-1]}",
    f"https://example.com/x.gguf#sha256={DIGEST}0",
    f"https://example.com/x.gguf#sha256={'A' * 64}",
    f"sha256:{DIGEST[:-1]}",
    "sha256:../../x",
    f"sha256-{DIGEST}",
    "file:///etc/passwd",
    "file:../secret",
    "",
    " ",
    "-",
    "--",
    "-rf",
    "-o/etc/passwd",
)


class Disk:
    """Everything below a directory but some roots: what is there, by path."""

    def __init__(self, top: Path, *roots: Path) -> None:
        self._top = top
        self._roots = roots

    def state(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for folder, folders, names in os.walk(self._top):
            folders[:] = [name for name in folders if Path(folder, name) not in self._roots]
            for name in (*folders, *names):
                path = Path(folder, name)
                status = path.lstat()
                content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                found[str(path)] = (status.st_mode, status.st_mtime_ns, hashlib.sha256(content).hexdigest())
        return found


_CHANGES = frozenset(
    {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
)


class Watch:
    """The paths outside `allowed` that this process changed, as the interpreter's audit events tell."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.on = False
        self.changed: list[str] = []

    def hook(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, _, flags = details
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        else:
            path, writes = details[0] if details else None, event in _CHANGES
        if not writes or not isinstance(path, str | bytes | os.PathLike):
            return
        text = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # links are not followed
        if not text.startswith((*self.allowed, "/dev/")):
            self.changed.append(f"{event} {text}")


@pytest.fixture(scope="module")
def audit() -> Watch:
    watch = Watch()
    sys.addaudithook(watch.hook)
    return watch


@pytest.fixture
def outside(tmp_path: Path, private_home: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with things beside it that must stay as they are, and one model in the store."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (outside / "secret.txt").write_text("secret")
    evil = private_home.with_name(f"{private_home.name}-evil")
    evil.mkdir()
    (evil / "x").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path))
    (private_home / "manifests").mkdir(parents=True, mode=0o700)
    private_home.chmod(0o700)
    (private_home / "manifests").chmod(0o700)
    model = write_tiny_model(tmp_path / "own.gguf", layers=1)
    adopt(Store(private_home, catalog=Catalog()), model)
    return outside


@pytest.fixture
def watch(audit: Watch, tmp_path: Path, private_home: Path, outside: Path) -> Iterator[Watch]:
    audit.changed = []
    audit.allowed = (f"{private_home}{os.sep}", f"{tmp_path}{os.sep}hf{os.sep}", str(private_home))
    yield audit
    audit.on = False


@pytest.fixture
def nothing_to_read() -> Iterator[IO[str]]:
    with Path(os.devnull).open() as nothing:
        yield nothing


def filled(name: str, outside: Path, home: Path) -> str:
    return name.replace("{outside}", str(outside)).replace("{home}", str(home))


# --- the command line ---


def text_parameters() -> list[tuple[str, str]]:
    """Each command with each of its parameters that takes any text."""
    assert isinstance(llmserve, LazyGroup)
    with click.Context(llmserve) as context:
        return [
            (name, parameter.name or "")
            for name in COMMANDS
            for parameter in _command(context, name).params
            if isinstance(parameter.type, click.types.StringParamType)
        ]


def _command(context: click.Context, name: str) -> click.Command:
    command = llmserve.get_command(context, name)
    if command is None:
        raise LookupError(name)
    return command


def command_line(command_name: str, parameter_name: str, value: str, work: Path) -> list[str]:
    """The command with `value` for the parameter, and something harmless for what else it demands."""
    with click.Context(llmserve) as context:
        command = _command(context, command_name)
    options: list[str] = []
    arguments: list[str] = []
    for parameter in command.params:
        given: str | None = None
        if parameter.name == parameter_name:
            given = value
        elif parameter.required:
            given = str(work / "file") if isinstance(parameter.type, click.Path) else "own:local"
        if given is None:
            continue
        if isinstance(parameter, click.Argument):
            arguments.append(given)
        else:
            options += [parameter.opts[-1], given]
    return [command_name, *options, "--", *arguments]


def test_every_command_that_takes_a_name_is_tried() -> None:
    tried = {command for command, _ in text_parameters()}
    assert {"run", "pull", "show", "rm", "cp", "create", "verify", "import", "export", "stop", "serve", "plan"} <= tried


@pytest.mark.parametrize(("command", "parameter"), text_parameters(), ids=str)
def test_no_name_on_the_command_line_leads_outside(
    command: str,
    parameter: str,
    outside: Path,
    private_home: Path,
    tmp_path: Path,
    watch: Watch,
    nothing_to_read: IO[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if parameter in {"prompt", "system", "host", "allowed_hosts", "allowed_origins"}:
        pytest.skip("no name: text for the model, or where to listen")
    # Should a name be taken for a model's after all, nothing is started that would not end.
    monkeypatch.setattr("llmserve.api.server.serve", lambda *_, **__: 3)
    monkeypatch.setattr(sys, "stdin", nothing_to_read)
    monkeypatch.setattr("llmserve.store.sources.pypi.download_wheel", _nobody)
    disk = Disk(tmp_path, private_home, tmp_path / "hf")
    before = disk.state()
    for name in NAMES:
        argv = command_line(command, parameter, filled(name, outside, private_home), tmp_path / "work")
        watch.on = True
        code = main(argv)
        watch.on = False
        said = capfd.readouterr()
        if command == "import" and code == 0:
            # A directory that the user names is searched; the one model in these is known already.
            assert said.err == "imported own:local\n"
            continue
        assert code in {1, 2, 78}, (name, said)
        assert "Traceback" not in said.err + said.out, name
        assert said.err.startswith("error: ") or "\nerror: " in said.err, (name, said)
    assert watch.changed == []
    assert disk.state() == before
    assert [path.name for path in (private_home / "manifests").rglob("*.json")] == ["local.json"]


def _nobody(*_: object) -> Path:
    raise AssertionError("nothing of these names is to be asked for")


# --- the routes ---


@pytest.fixture
async def gateway(private_home: Path, outside: Path) -> AsyncIterator[Gateway]:
    settings = Settings(home=private_home)
    store = Store(private_home)
    gateway = Gateway(Fleet(store, settings, launcher=_NoWorkers()), store, settings)
    yield gateway
    await gateway.close()


class _NoWorkers:
    """No hostile name may ever get as far as a worker."""

    async def close(self) -> None:
        """There is nothing to close."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a worker was asked for: {name}")


# What the bodies of all routes need beside the name; they ignore what they do not know.
ANY_BODY = {
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "input": "hi",
    "query": "hi",
    "documents": ["hi"],
    "content": "hi",
    "tokens": [1],
    "max_tokens": 1,
}


def routes_of(gateway: Gateway) -> list[Route]:
    """Every route of the application, whoever put it there: those of the router inside its layers."""
    app: Any = build_app(gateway)
    while not isinstance(app, Router):
        app = app._app
    return [route for route in app.routes if isinstance(route, Route)]


def requests(gateway: Gateway, name: str) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Every route with the name wherever it takes one: method, target, body."""
    for route in routes_of(gateway):
        for method in sorted(route.methods or ()):
            if method == "HEAD":
                continue
            path = route.path
            if "{" in path:
                start = path.partition("{")[0]
                for spelled in {quote(name, safe=""), quote(name, safe="/")}:
                    yield method, start + spelled, None
            elif "model" in QUERIES.get((method, path), ()):
                yield method, f"{path}?model={quote(name, safe='')}", None
            elif method != "GET":
                yield method, path, {"model": name}
                yield method, path, {"name": name}
                yield method, path, {"model": name, "name": name, **ANY_BODY}


def test_the_routes_that_take_names_are_tried(gateway: Gateway) -> None:
    tried = {target for _, target, _ in requests(gateway, "x")}
    assert {"/v1/chat/completions", "/v1/models/x", "/admin/pull", "/admin/load", "/admin/stop"} <= tried
    assert {"/admin/plan?model=x", "/models?model=x"} <= tried


async def test_no_name_in_a_request_leads_outside(
    gateway: Gateway, outside: Path, private_home: Path, tmp_path: Path, watch: Watch
) -> None:
    disk = Disk(tmp_path, private_home, tmp_path / "hf")
    before = disk.state()
    transport = httpx2.ASGITransport(app=build_app(gateway))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:11435") as client:
        for name in NAMES:
            for method, target, body in requests(gateway, filled(name, outside, private_home)):
                watch.on = True
                answer = await client.request(method, target, json=body)
                watch.on = False
                case = (method, target[:100], name[:100], answer.status_code, answer.text[:300])
                if answer.status_code == 200:
                    # Unloading what is not loaded, and a segment that is none (`/v1/models/.`) is the list.
                    assert target.startswith(("/admin/stop", "/v1/models", "/v1/files", "/v1/batches")), case
                    continue
                assert 400 <= answer.status_code < 500, case
                assert "Traceback" not in answer.text, case
                assert str(private_home) not in answer.text.replace(filled(name, outside, private_home), ""), case
    assert watch.changed == []
    assert disk.state() == before


def anonymous(answer: str, name: str) -> str:
    """An answer without what differs by chance: the request's id, and the name that was asked for."""
    return re.sub(r"req[-_][0-9a-f]+", "ID", answer).replace(name, "X")


async def test_whether_a_file_exists_is_not_told(
    gateway: Gateway, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3: an existing file outside and a missing one answer alike, and after the same time: nobody looks for either."""
    looked: list[str] = []
    for function in ("stat", "lstat", "access", "readlink", "open", "scandir", "listdir"):
        real = getattr(os, function)

        def noting(path: Any, *arguments: Any, real: Any = real, **options: Any) -> Any:
            looked.append(str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, function, noting)
    transport = httpx2.ASGITransport(app=build_app(gateway))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:11435") as client:
        for existing, missing in (
            (outside / "secret.txt", outside / "absent.txt"),
            (outside, outside.with_name("none")),
        ):
            there, absent = requests(gateway, str(existing)), requests(gateway, str(missing))
            for (method, target, body), (_, other_target, other_body) in zip(there, absent, strict=True):
                one = await client.request(method, target, json=body)
                two = await client.request(method, other_target, json=other_body)
                assert one.status_code == two.status_code
                assert anonymous(one.text, existing.name) == anonymous(two.text, missing.name)
    assert [path for path in looked if path.startswith((str(outside), str(outside.with_name("none"))))] == []
    os.stat(outside)  # noqa: PTH116  # what would have been noted
    assert looked[-1] == str(outside)


# --- files given by their path: P4 and P5 ---


@pytest.mark.parametrize(
    "kind", ["random", "zero", "fifo", "socket", "directory", "environ", "empty", "link to /dev/zero"]
)
def test_what_is_no_regular_file_is_never_read(
    kind: str, outside: Path, private_home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import socket

    path = outside / "model.gguf"
    with socket.socket(socket.AF_UNIX) as listener:
        match kind:
            case "random" | "zero" | "link to /dev/zero":
                path.symlink_to("/dev/random" if kind == "random" else "/dev/zero")
            case "fifo":
                os.mkfifo(path)
            case "socket":
                listener.bind(os.path.relpath(path))
            case "directory":
                path.mkdir()
            case "environ":
                path.symlink_to("/proc/self/environ")
            case _:
                path.touch()
        for command in ("pull", "show", "import", "plan"):
            assert main([command, str(path)]) in {1, 2}
            said = capfd.readouterr()
            assert "error: " in said.err
            assert "Traceback" not in said.err
    assert [path.name for path in (private_home / "manifests").rglob("*.json")] == ["local.json"]


RACER = """
import itertools, os, sys
path, regular, link = sys.argv[1:]
for number in itertools.count():
    os.link(regular, link) if number % 2 else os.symlink("secret", link)
    os.replace(link, path)
    if number == 0:
        print(flush=True)
"""


def test_a_file_that_is_swapped_for_a_link_is_never_followed(outside: Path, tmp_path: Path) -> None:
    """P5: somebody puts a link in the file's place and takes it away again, as fast as a process can."""
    path, regular, link = (tmp_path / name for name in ("raced.gguf", "regular", "link"))
    regular.write_bytes(b"GGUF of the user's own")
    right = hashlib.sha256(regular.read_bytes()).hexdigest()
    seen: dict[str, int] = {"read": 0, "refused": 0}
    argv = [sys.executable, "-c", RACER, str(path), str(regular), str(link)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=outside) as racer:
        try:
            assert racer.stdout is not None
            racer.stdout.readline()
            while sum(seen.values()) < 10_000 or 0 in seen.values():
                try:
                    sha256, identity = sha256_of(path, ignore_progress)
                except InvalidModel:
                    seen["refused"] += 1
                    continue
                seen["read"] += 1
                assert (sha256, identity.inode) == (right, regular.stat().st_ino)
        finally:
            racer.kill()


@pytest.mark.parametrize("part", ["blobs", "manifests", "scratch", "partial", "locks"])
def test_a_link_in_the_place_of_a_directory_of_the_store_brings_nothing_out(
    part: str, outside: Path, private_home: Path, tmp_path: Path
) -> None:
    """A link may lead to a larger disk of the user's; one to a directory that others can write is refused."""
    store = Store(private_home, catalog=Catalog())
    directory = private_home / part
    if directory.exists():
        directory.rename(directory.with_name(f"{part}-before"))
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    directory.symlink_to(shared)
    model = write_tiny_model(tmp_path / "second.gguf", seed=4, layers=1)
    try:
        adopt(store, model)
    except LlmserveError as error:
        assert error.status in {400, 500, 502}
    if part in {"manifests", "scratch", "locks"}:
        assert list(shared.iterdir()) == []
