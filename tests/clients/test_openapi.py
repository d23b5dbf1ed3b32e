"""Schemathesis over `/openapi.json`: thousands of requests, right and wrong ones, and what may never be answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.clients.servers import Server

FAKE_WORKER = {"scripted": False}

REQUESTS = 10_000
# The same requests in every run, so that one without a change does not fail where the last one passed; other numbers
# find more.
SEED = int(os.environ.get("LLMSERVE_TEST_SEED", "1"))
# Of each operation, beside those for the edges of its schema, whose number is the schema's.
_DRAWN = 170
_HANG_SECONDS = 20
_MODELS = ["tiny:local", "embedder:local"]
_COPIES = [f"copy:{number}" for number in range(40)]
_NAMES: dict[tuple[str, str], list[str]] = {
    ("OllamaDeleteRequest", "model"): _COPIES[:20],
    ("OllamaCopyRequest", "destination"): [f"copied:{number}" for number in range(100)],
    ("OllamaCreateRequest", "model"): [f"created:{number}" for number in range(100)],
}
_PLAIN_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
    "additionalProperties": False,
}

# Some requests to these are right in every respect; the others need what only an earlier answer names, or the hub.
_SUCCEED = {
    *(f"POST /v1/{what}" for what in ("chat/completions", "completions", "embeddings", "rerank", "responses")),
    *(f"POST /v1/{what}" for what in ("messages", "messages/count_tokens")),
    *(f"POST /api/{what}" for what in ("chat", "generate", "embed", "embeddings", "show", "copy", "create")),
    *(f"POST /{what}" for what in ("rerank", "tokenize", "detokenize", "models/load", "models/unload")),
    *(f"GET /{what}" for what in ("v1/models", "v1/models/{model}", "models", "api/tags", "api/ps", "api/version")),
    *(f"GET /{what}" for what in ("health", "ready", "metrics", "admin/ps", "openapi.json")),
    *("POST /admin/load", "POST /admin/stop", "DELETE /models", "DELETE /api/delete"),
}


# A server that hangs is found by the limit of each request; this one is for machines that are busy with other things.
@pytest.mark.timeout(2700)
def test_ten_thousand_requests(fake_gateway: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for copy in _COPIES:
        httpx2.post(f"{fake_gateway.url}/api/copy", json={"source": _MODELS[0], "destination": copy}).raise_for_status()
    described = httpx2.get(f"{fake_gateway.url}/openapi.json").json()
    (tmp_path / "openapi.json").write_text(json.dumps(_within_reach(described)))
    command = [
        *(
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(Path(__file__).with_name("schemathesis.toml")),
        ),
        *("run", "openapi.json", "--url", fake_gateway.url, "--max-examples", str(_DRAWN), "--continue-on-failure"),
        *("--seed", str(SEED)),
        *("--request-timeout", str(_HANG_SECONDS), "--no-color", "--report", "json,ndjson"),
        *("--report-json-path", "report.json", "--report-ndjson-path", "events.ndjson"),
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    # Shown where the test fails.
    print(f"LLMSERVE_TEST_SEED={SEED}", run.stdout[-20_000:], run.stderr[-2_000:], sep="\n")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (run.returncode, report["failures"], report["errors"]) == (0, [], [])
    answers = Counter(_answers(tmp_path / "events.ndjson"))
    statuses = Counter(status for _, status in answers.elements())
    with capsys.disabled():
        print(f"\n{answers.total()} requests with LLMSERVE_TEST_SEED={SEED}, answers: {sorted(statuses.items())}")
    assert answers.total() >= REQUESTS
    assert 500 not in statuses
    assert {label for label in _SUCCEED if not answers[label, 200]} == set()
    # And afterwards the server is as well as before.
    assert [entry for entry in fake_gateway.log.read_text().splitlines() if '"exception"' in entry] == []
    models = {model["id"] for model in httpx2.get(f"{fake_gateway.url}/v1/models").json()["data"]}
    assert models >= set(_MODELS)
    assert sum(model["leases"] for model in httpx2.get(f"{fake_gateway.url}/admin/ps").json()["models"]) == 0


def _within_reach(described: dict[str, Any]) -> dict[str, Any]:
    """The description with names of models that are there and the plainest messages, so that requests get further."""
    schemas = described["components"]["schemas"]
    for name, schema in schemas.items():
        fields = schema.get("properties", {})
        for field in fields.keys() & {"model", "source", "from", "destination"}:
            fields[field] = {"enum": _NAMES.get((name, field), _MODELS)}
        if "keep_alive" in fields:
            # Models that leave at once would be loaded thousands of times.
            fields["keep_alive"] = {"enum": ["5m", 600, -1, "long", [], None]}
    (removed,) = described["paths"]["/models"]["delete"]["parameters"]
    removed["schema"] = {"enum": _COPIES[20:]}
    (shown,) = described["paths"]["/v1/models/{model}"]["get"]["parameters"]
    shown["schema"] = {"enum": _MODELS}
    schemas["AnyMessage"] = schemas["Message"]
    schemas["Message"] = {"anyOf": [_PLAIN_MESSAGE, {"$ref": "#/components/schemas/AnyMessage"}]}
    return described


def _answers(events: Path) -> Iterator[tuple[str, int]]:
    """The operation and the status of each answer in the report."""
    with events.open() as lines:
        for line in lines:
            finished = json.loads(line).get("ScenarioFinished")
            if finished is None:
                continue
            recorder = finished["recorder"]
            for interaction in recorder["interactions"].values():
                assert interaction["response"] is not None, interaction["request"]
                yield recorder["label"], interaction["response"]["status_code"]
