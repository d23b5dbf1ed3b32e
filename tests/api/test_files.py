"""`/v1/files`: forms as clients send them, and as nobody should."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import openai
import pytest

from llmserve.api.limits import Limits
from llmserve.settings import Settings
from tests.api.fakes import Served, read_answer, wait_until

BATCH = {"purpose": "batch"}
BOUNDARY = "Content-Type: multipart/form-data; boundary=x"


@pytest.fixture
def gateway(serve: Callable[..., Served], tmp_path: Path) -> Served:
    return serve(Settings(home=tmp_path, batch_disk=2_000_000), Limits(upload_bytes=4_000_000))


@pytest.fixture
def client(gateway: Served) -> Iterator[httpx2.Client]:
    with gateway.client() as client:
        yield client


def file(content: bytes = b"{}\n", name: str = "in.jsonl") -> dict[str, tuple[str, bytes]]:
    return {"file": (name, content)}


def part(disposition: str, content: bytes) -> bytes:
    return b"--x\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


PURPOSE = part('name="purpose"', b"batch")
FILE = part('name="file"; filename="a.jsonl"', b"content")
END = b"--x--\r\n"


def kept(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "batches" / "files").glob("*")]


def test_a_file_comes_back_as_it_was(client: httpx2.Client) -> None:
    # More than is written at once, with what looks like the end of a part in it.
    content = bytes(range(256)) * 6000 + b"\r\n--\r\n--x"
    answer = client.post("/v1/files", data=BATCH, files=file(content, "../../etc/pass\x00wd\r\n.jsonl"))
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["object"], shown["bytes"], shown["purpose"]) == ("file", len(content), "batch")
    assert shown["status"] == "processed"
    assert shown["expires_at"] - shown["created_at"] == 30 * 86_400
    assert "/" not in shown["filename"]
    assert shown["filename"].isprintable()
    assert client.get(f"/v1/files/{shown['id']}").json() == shown
    got = client.get(f"/v1/files/{shown['id']}/content")
    assert (got.content, got.headers["content-type"]) == (content, "application/octet-stream")
    assert got.headers["content-disposition"] == "attachment"
    assert client.head(f"/v1/files/{shown['id']}/content").headers["content-length"] == str(len(content))
    deleted = client.delete(f"/v1/files/{shown['id']}").json()
    assert deleted == {"id": shown["id"], "object": "file", "deleted": True}
    for path in (f"/v1/files/{shown['id']}", f"/v1/files/{shown['id']}/content"):
        missing = client.get(path)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "file_not_found")


def test_the_official_client(gateway: Served) -> None:
    with openai.OpenAI(base_url=f"http://{gateway.authority}/v1", api_key="unused", max_retries=0) as official:
        expiry = {"anchor": "created_at", "seconds": 3600}
        made = [
            official.files.create(file=io.BytesIO(b"%d" % n), purpose="batch", expires_after=expiry)  # type: ignore[arg-type]
            for n in range(3)
        ]
        assert made[0].expires_at == made[0].created_at + 3600
        assert official.files.retrieve(made[1].id) == made[1]
        assert official.files.content(made[1].id).read() == b"1"
        assert [one.id for one in official.files.list(limit=1)] == [one.id for one in reversed(made)]
        assert [one.id for one in official.files.list(order="asc")] == [one.id for one in made]
        assert list(official.files.list(purpose="batch_output")) == []
        assert official.files.delete(made[0].id).deleted
        with pytest.raises(openai.NotFoundError):
            official.files.retrieve(made[0].id)


def test_the_purpose_may_come_after_the_file_and_the_rest_is_named(gateway: Served) -> None:
    body = FILE + PURPOSE + part('name="color"', b"red") + END
    answer = gateway.raw(gateway.head("POST", "/v1/files", BOUNDARY, f"Content-Length: {len(body)}") + body)
    assert (answer.status, answer.headers["x-llmserve-ignored-fields"]) == (200, "color")


def test_a_strict_server_refuses_what_nobody_knows(serve: Callable[..., Served], tmp_path: Path) -> None:
    with serve(Settings(home=tmp_path, strict=True)).client() as client:
        answer = client.post("/v1/files", data={**BATCH, "color": "red"}, files=file())
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "color")
        assert kept(tmp_path) == []
        assert client.post("/v1/files", data=BATCH, files=file()).status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (PURPOSE + END, "file", "`file` is required"),
        (FILE + END, "purpose", "`purpose` is required"),
        (part('name="purpose"', b"fine-tune") + FILE + END, "purpose", "must be 'batch'"),
        (PURPOSE + FILE + FILE + END, "file", "one file"),
        (PURPOSE + part('name="other"; filename="a"', b"x") + END, "file", "one file"),
        (PURPOSE + PURPOSE + FILE + END, None, "twice"),
        (PURPOSE + part('name="purpose[a]"', b"x") + FILE + END, None, "twice"),
        (PURPOSE + part('name="expires_after[seconds]"', b"10") + FILE + END, "expires_after", None),
        (PURPOSE + part('name="expires_after"', b"10") + FILE + END, "expires_after", None),
        (PURPOSE + part('name="long"', b"y" * 2000) + FILE + END, None, "longer than 1024"),
        (PURPOSE + part('name="bad"', b"\xff") + FILE + END, None, "not UTF-8"),
        (PURPOSE + part('size="1"', b"") + FILE + END, None, "has no name"),
        (part('name="a"', b"1") * 40 + END, None, "twice"),
        (b"".join(part(f'name="a{n}"', b"1") for n in range(40)) + END, None, "more than 32 fields"),
        (PURPOSE + FILE, None, "breaks off"),
        (b"nonsense", None, "well-formed"),
        (b"--x\r\n" + b"A: b\r\n" * 100 + b"\r\n", None, "well-formed"),
        (b"--x\r\nA: " + b"b" * 100_000 + b"\r\n\r\n", None, "well-formed"),
        (b"", None, "well-formed"),
    ],
)
def test_a_form_that_is_none(
    gateway: Served, tmp_path: Path, body: bytes, param: str | None, message: str | None
) -> None:
    answer = gateway.raw(gateway.head("POST", "/v1/files", BOUNDARY, f"Content-Length: {len(body)}") + body)
    assert answer.status == 400, answer.body
    assert (answer.error["param"] or "").partition(".")[0] == (param or "")
    assert (message or "") in answer.error["message"]
    assert kept(tmp_path) == []


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        ("text/plain", 415),
        ("multipart/form-data", 415),
        ("multipart/form-data; boundary=", 415),
        (f"multipart/form-data; boundary={'x' * 300}", 400),
    ],
)
def test_only_a_form_is_taken(gateway: Served, content_type: str, status: int) -> None:
    body = PURPOSE + FILE + END
    head = gateway.head("POST", "/v1/files", f"Content-Type: {content_type}", f"Content-Length: {len(body)}")
    assert gateway.raw(head + body).status == status


def test_a_form_is_taken_nowhere_else(gateway: Served) -> None:
    body = PURPOSE + FILE + END
    for path in ("/v1/batches", "/v1/chat/completions", "/v1/files/x", "/v1/files/"):
        head = gateway.head("POST", path, BOUNDARY, f"Content-Length: {len(body)}")
        assert gateway.raw(head + body).status in {405, 415}


def test_a_foreign_page_cannot_send_one(gateway: Served, tmp_path: Path) -> None:
    body = PURPOSE + FILE + END
    for header in ("Origin: https://evil.test", "Sec-Fetch-Site: cross-site"):
        head = gateway.head("POST", "/v1/files", BOUNDARY, f"Content-Length: {len(body)}", header)
        assert gateway.raw(head + body).status == 403
    assert kept(tmp_path) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_one_file_may_be_so_large(gateway: Served, tmp_path: Path, chunked: bool) -> None:
    start = PURPOSE + b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    length = "Transfer-Encoding: chunked" if chunked else "Content-Length: 4000001"
    with gateway.connect() as connection:
        connection.sendall(gateway.head("POST", "/v1/files", BOUNDARY, length))
        if chunked:
            # It may be told before it has sent everything, and nobody reads on then.
            with suppress(OSError):
                for piece in (start, *[b"y" * 100_000] * 60):
                    connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        answer = read_answer(connection)
    # Of a body that does not say how large it is, what was written counts first.
    assert answer.status == (507 if chunked else 413)
    wait_until(lambda: kept(tmp_path) == [])


def test_all_files_may_be_so_large(client: httpx2.Client, tmp_path: Path) -> None:
    assert client.post("/v1/files", data=BATCH, files=file(b"x" * 1_500_000)).status_code == 200
    answer = client.post("/v1/files", data=BATCH, files=file(b"x" * 1_500_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
    assert "batch_disk" in answer.json()["error"]["message"]
    assert len(kept(tmp_path)) == 1
    assert client.post("/v1/files", data=BATCH, files=file(b"x" * 400_000)).status_code == 200


def test_nothing_stays_of_who_hangs_up(gateway: Served, tmp_path: Path) -> None:
    with gateway.connect() as connection:
        connection.sendall(gateway.head("POST", "/v1/files", BOUNDARY, "Content-Length: 3000000") + PURPOSE)
        connection.sendall(
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"y" * 1_100_000
        )
        wait_until(lambda: kept(tmp_path))
    wait_until(lambda: kept(tmp_path) == [])


@pytest.mark.parametrize(
    ("query", "param"),
    [("limit=0", "limit"), ("limit=10001", "limit"), ("order=up", "order"), ("after=file-none", "after")],
)
def test_a_list_that_cannot_be(client: httpx2.Client, query: str, param: str) -> None:
    answer = client.get(f"/v1/files?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_two_servers_cannot_share_the_files(
    gateway: Served, client: httpx2.Client, serve: Callable[..., Served], tmp_path: Path
) -> None:
    made = client.post("/v1/files", data=BATCH, files=file()).json()
    other = serve(Settings(home=tmp_path))
    with other.client() as second:
        answer = second.get(f"/v1/files/{made['id']}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
        gateway.stop()
        wait_until(lambda: second.get(f"/v1/files/{made['id']}").status_code == 200)
        assert json.loads(second.get(f"/v1/files/{made['id']}/content").content) == {}
