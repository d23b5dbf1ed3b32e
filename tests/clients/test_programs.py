"""Programs for the command line, and clients that need an environment of their own: each is a process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import transformers

from tests.clients.report import CACHE
from tests.clients.servers import EMBEDDER, KEY, MODEL, PYTHON, SYSTEM, Server, starter_file

does = pytest.mark.does
HERE = Path(__file__).parent


def run(command: list[str | Path], environment: dict[str, str], folder: Path | None = None) -> str:
    """What the command writes; it must succeed."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the starter model's tokenizer, as `transformers` reads one."""
    folder = tmp_path_factory.mktemp("tokenizer")
    run([PYTHON, "-P", HERE / "tokenizer.py", starter_file(), folder], {})
    return folder


def addresses(server: Server) -> dict[str, str]:
    """What a script of a client's own is told."""
    return {
        **{"URL": server.url, "OLLAMA_URL": server.ollama_url, "KEY": KEY, "SYSTEM": SYSTEM},
        **{"MODEL": MODEL, "EMBEDDER": EMBEDDER},
    }


class TestNode:
    """Each script checks what it gets and ends with what it did."""

    @pytest.fixture
    def node(self, server: Server) -> Any:
        folder = CACHE / "node"
        if shutil.which("node") is None or not folder.exists():
            pytest.skip("there is no Node here")

        def ran(name: str) -> list[str]:
            # Beside its packages, where Node looks for them.
            for source in (HERE / "node").glob("*.mjs"):
                shutil.copy(source, folder)
            checks: list[str] = json.loads(run(["node", folder / name], addresses(server)))
            return checks

        return ran

    @pytest.mark.client("openai (Node)")
    @does("models, chat, streams with their helper, tools, completions, responses, embeddings, errors")
    def test_openai(self, node: Any) -> None:
        assert node("openai.mjs") == [
            *("models", "chat", "stream", "tools", "completions", "responses", "embeddings", "errors")
        ]

    @pytest.mark.client("@anthropic-ai/sdk (Node)")
    @does("messages, streams with their helper, tools, count_tokens, errors")
    def test_anthropic(self, node: Any) -> None:
        assert node("anthropic.mjs") == ["messages", "stream", "tools", "count_tokens", "errors"]

    @pytest.mark.client("ollama (Node)")
    @does("chat, generate, embed, list, show, ps, copy, create, delete, abort")
    def test_ollama(self, node: Any) -> None:
        assert node("ollama.mjs") == ["chat", "generate", "embed", "models", "names", "abort"]


@pytest.mark.client("instructor")
@does("an object after a pydantic model: with tools, with a JSON schema, streamed")
def test_instructor(server: Server) -> None:
    script = HERE / "instructor_job.py"
    done = run([CACHE / "instructor/bin/python", script], addresses(server))
    assert json.loads(done) == ["tools", "json_schema", "partial"]


@pytest.mark.client("llm")
class TestLlm:
    """simonw/llm with a model of its `extra-openai-models.yaml`."""

    @pytest.fixture
    def llm(self, server: Server, tmp_path: Path) -> Any:
        (tmp_path / "extra-openai-models.yaml").write_text(
            f"- {{model_id: local, model_name: '{MODEL}', api_base: '{server.openai_url}', api_key_name: local,"
            " supports_tools: true, supports_schema: true}\n"
        )
        (tmp_path / "keys.json").write_text(json.dumps({"local": KEY}))

        def ask(*arguments: str) -> str:
            command = [str(Path(sys.executable).with_name("llm")), *arguments]
            return run(command, {"LLM_USER_PATH": str(tmp_path)})

        return ask

    @does("prompt, streamed and not, a conversation, its log")
    def test_prompt(self, llm: Any) -> None:
        asked = ["-m", "local", "-s", SYSTEM, "-o", "temperature", "0", "-o", "max_tokens", "24"]
        whole = llm("prompt", "--no-stream", *asked, "What is the capital of France?")
        assert "Paris" in whole
        assert llm("prompt", *asked, "What is the capital of France?") == whole
        assert llm("prompt", "-c", "-o", "max_tokens", "8", "And of Italy?").strip()
        logged = json.loads(llm("logs", "-n", "3", "--json"))
        assert [entry["prompt"] for entry in logged] == [*("What is the capital of France?",) * 2, "And of Italy?"]
        assert all(entry["input_tokens"] and entry["output_tokens"] for entry in logged)

    @does("a schema")
    def test_schema(self, llm: Any) -> None:
        schema = {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 99}},
            "required": ["name", "age"],
            "additionalProperties": False,
        }
        answer = json.loads(llm("prompt", "-m", "local", "--schema", json.dumps(schema), "Describe a dog."))
        assert answer.keys() == {"name", "age"}
        assert isinstance(answer["age"], int)


@pytest.mark.client("lm-eval")
class TestLmEval:
    """Tasks of its own over a small local data set: no hub is asked."""

    @pytest.fixture
    def evaluate(self, server: Server, tmp_path: Path) -> Any:
        def run_task(model: str, path: str, task: str, tokenizer: Path | None = None) -> dict[str, Any]:
            arguments = f"model={MODEL},base_url={server.openai_url}{path},num_concurrent=2,max_retries=1"
            more = ["--apply_chat_template"] if tokenizer is None else []
            if tokenizer is not None:
                arguments += f",tokenizer={tokenizer}"
            command: list[str | Path] = [
                *(Path(sys.executable).with_name("lm-eval"), "run", "--model", model, "--model_args", arguments),
                *("--tasks", task, "--include_path", HERE / "lm_eval_tasks", "--output_path", tmp_path, *more),
            ]
            environment = {
                **{"OPENAI_API_KEY": KEY, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"},
                **{"HF_HOME": str(tmp_path / "hub"), "TOKENIZERS_PARALLELISM": "false"},
            }
            run(command, environment, HERE / "lm_eval_tasks")
            (results,) = tmp_path.rglob("results_*.json")
            scores: dict[str, Any] = json.loads(results.read_text())["results"][task]
            return scores

        return run_task

    @does("`local-chat-completions`: answers that are generated")
    def test_generated_answers(self, evaluate: Any) -> None:
        scores = evaluate("local-chat-completions", "/chat/completions", "capitals_asked")
        assert 0.5 <= scores["contains,none"] <= 1

    @does("`local-completions`: log probabilities of given answers, asked with token ids")
    def test_log_probabilities(self, server: Server, evaluate: Any, tokenizer: Path) -> None:
        # What it makes of a text is what the server makes of it.
        text = "The capital of France is Paris, 123."
        own = transformers.AutoTokenizer.from_pretrained(tokenizer)(text)["input_ids"]
        request = {"model": MODEL, "prompt": text}
        assert httpx2.post(f"{server.url}/tokenize", json=request, headers={"x-api-key": KEY}).json()["tokens"] == own
        scores = evaluate("local-completions", "/completions", "capitals_chosen", tokenizer)
        assert 0.75 <= scores["acc,none"] <= 1


@pytest.mark.client("guidellm")
class TestGuidellm:
    """Random words from four clients at a time; how fast they are answered is not looked at."""

    REQUESTS, STREAMS, TOKENS = 8, 4, 12

    @pytest.fixture
    def measured(self, server: Server, tokenizer: Path, tmp_path: Path) -> Any:
        program = CACHE / "guidellm/bin/guidellm"
        if not program.exists():
            pytest.skip("PyTorch's build for CPUs, which it needs, could not be had")

        def measure(path: str) -> dict[str, Any]:
            backend = f"kind=openai_http,target={server.url},model={MODEL},api_key={KEY},request_format={path}"
            command: list[str | Path] = [
                *(program, "run", "--backend", backend, "--tokenizer", f"kind=huggingface_auto,model={tokenizer}"),
                *("--data", f"kind=synthetic_text,prompt_tokens=32,output_tokens={self.TOKENS}"),
                *("--profile", f"kind=concurrent,streams={self.STREAMS}"),
                *("--constraint", f"kind=max_requests,count={self.REQUESTS}"),
                *("--output", f"kind=json,path={tmp_path / 'report.json'}", "--disable-console-interactive"),
            ]
            run(command, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "TOKENIZERS_PARALLELISM": "false"})
            (benchmark,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
            found: dict[str, Any] = benchmark
            return found

        return measure

    @does("`guidellm run`: chat and completions, streamed, four at a time")
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
    def test_a_run(self, measured: Any, path: str) -> None:
        benchmark = measured(path)
        # What it sent and what came back; its figures may be of fewer, those of the time in which it measures.
        sent = benchmark["scheduler_state"]
        assert (sent["created_requests"], sent["successful_requests"]) == (self.REQUESTS, self.REQUESTS)
        assert (sent["errored_requests"], sent["cancelled_requests"]) == (0, 0)
        measured_requests = benchmark["requests"]["successful"]
        assert self.STREAMS <= len(measured_requests) <= self.REQUESTS
        for request in measured_requests:
            # As the server counts them: `ignore_eos` is sent, so that every answer has its length.
            assert request["output_metrics"]["text_tokens"] == self.TOKENS
            assert request["input_metrics"]["text_tokens"] >= 32
            timings = request["info"]["timings"]
            assert timings["request_start"] < timings["first_token_iteration"] < timings["last_token_iteration"]
