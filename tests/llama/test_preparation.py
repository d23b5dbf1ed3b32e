"""The helper process: what exceeds its limits costs its own answer and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmserve.errors import Unavailable
from llmserve.llama.preparation import GaveUp, Preparer, PreparerLimits
from tests.support import runs, until

LIMITS = PreparerLimits(cpu_seconds=0.3, wall_seconds=5, memory_bytes=64 * 1024 * 1024)
TEMPLATES = {
    "good": "{{ messages[0].content }}!",
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "repeat": "{{ 'a' * 10 ** 10 }}",
    "center": "{{ 'a'.center(10 ** 10) }}",
    "doubling": "{% set ns = namespace(s='aaaa') %}{% for _ in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "list": "{{ ([1] * 10 ** 9)|length }}",
    "macro": "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
    "output": "{% for a in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
    "indent": "{{ ('a\n' * 1000000)|indent(1000000) }}",
    "nested": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "blocks": "{% if 1 %}" * 200 + "{% endif %}" * 200,
    "invalid": "{% if %}",
}


@pytest.fixture
def start() -> Iterator[Callable[..., Preparer]]:
    preparers: list[Preparer] = []

    def start(limits: PreparerLimits = LIMITS, templates: dict[str, str] = TEMPLATES) -> Preparer:
        preparer = Preparer("templates", limits)
        preparer.set_up(lambda: {"templates": templates, "tokens": {}})
        preparers.append(preparer)
        return preparer

    yield start
    for preparer in preparers:
        preparer.close()


def render(template: str, content: str = "hi") -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"template": template, "variables": {"messages": messages}, "most_characters": 1000}


def processes() -> list[psutil.Process]:
    """The preparers that this process started, supervisor before server; not those of workers."""
    supervisors = [
        process for process in psutil.Process().children() if "llmserve.llama.preparer" in " ".join(process.cmdline())
    ]
    return [process for supervisor in supervisors for process in (supervisor, *supervisor.children())]


@pytest.mark.parametrize("bomb", ["loop", "power"])
def test_t2_what_computes_without_end_is_stopped_and_the_next_request_served(
    start: Callable[..., Preparer], bomb: str
) -> None:
    preparer = start()
    with pytest.raises(GaveUp, match=r"longer than the 0\.3 s"):
        preparer.ask(render(bomb))
    assert preparer.ask(render("good")) == {"id": 2, "text": "hi!"}


@pytest.mark.parametrize("bomb", ["repeat", "center", "doubling", "list", "indent"])
def test_t3_what_takes_too_much_memory_is_refused(start: Callable[..., Preparer], bomb: str) -> None:
    preparer = start(PreparerLimits(cpu_seconds=30, wall_seconds=30, memory_bytes=64 * 1024 * 1024))
    assert preparer.ask(render(bomb))["refused"] == "it needs too much memory"
    assert preparer.ask(render("good"))["text"] == "hi!"


@pytest.mark.parametrize("bad", ["macro", "nested", "blocks", "invalid"])
def test_t4_t7_what_is_no_template_is_refused(start: Callable[..., Preparer], bad: str) -> None:
    assert "template" in start().ask(render(bad))["refused"]


def test_t5_output_is_bounded(start: Callable[..., Preparer]) -> None:
    assert start().ask(render("output"))["too_long"] is True


def test_whatever_waits_instead_of_computing_is_stopped_too(start: Callable[..., Preparer]) -> None:
    preparer = start(PreparerLimits(cpu_seconds=0.05, wall_seconds=0.05))
    with pytest.raises(GaveUp):
        preparer.ask(render("loop"))


def test_t8_requests_behind_bombs_are_all_served(start: Callable[..., Preparer]) -> None:
    preparer = start(PreparerLimits(cpu_seconds=0.1))
    outcomes: dict[int, str] = {}

    def ask(number: int) -> None:
        try:
            outcomes[number] = preparer.ask(render("good" if number % 5 else "loop", str(number)))["text"]
        except GaveUp:
            outcomes[number] = "gave up"

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {number: f"{number}!" if number % 5 else "gave up" for number in range(20)}


@pytest.mark.parametrize("victim", [0, 1], ids=["supervisor", "server"])
def test_a_process_that_is_killed_while_idle_is_replaced(start: Callable[..., Preparer], victim: int) -> None:
    preparer = start()
    preparer.ask(render("good"))
    killed = processes()[victim]
    killed.kill()
    until(lambda: not runs(killed))
    for content in ("one", "two", "three"):
        assert preparer.ask(render("good", content))["text"] == f"{content}!"


def test_a_stopped_process_is_replaced_after_its_time(start: Callable[..., Preparer]) -> None:
    preparer = start(PreparerLimits(cpu_seconds=0.1, wall_seconds=0.1))
    preparer.ask(render("good"))
    for process in processes():
        os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(GaveUp):
        preparer.ask(render("good"))
    assert preparer.ask(render("good"))["text"] == "hi!"


def test_nothing_outlives_the_handle(start: Callable[..., Preparer]) -> None:
    preparer = start()
    preparer.ask(render("good"))
    started = processes()
    assert len(started) == 2
    preparer.close()
    until(lambda: not any(process.is_running() for process in started))
    with pytest.raises(Unavailable):
        preparer.ask(render("good"))
    preparer.close()


def test_closing_ends_a_request_in_flight(start: Callable[..., Preparer]) -> None:
    preparer = start(PreparerLimits(cpu_seconds=60, wall_seconds=60))
    preparer.ask(render("good"))
    ended: list[str] = []

    def ask() -> None:
        with pytest.raises(Unavailable):
            preparer.ask(render("loop"))
        ended.append("told")

    asking = threading.Thread(target=ask)
    server = processes()[1]
    idle = server.cpu_times().user
    asking.start()
    until(lambda: server.cpu_times().user > idle + 0.02)
    preparer.close()
    asking.join(timeout=20)
    assert ended == ["told"]


ORPHAN = """
import sys, time
from llmserve.llama.preparation import Preparer
preparer = Preparer("templates")
preparer.set_up(lambda: {"templates": {"default": "x"}, "tokens": {}})
preparer.ask({"template": "default", "variables": {}, "most_characters": 9})
print("ready", flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_worker_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        started = psutil.Process(worker.pid).children(recursive=True)
        worker.kill()
    assert len(started) == 2
    until(lambda: not any(process.is_running() for process in started))


def test_a_large_request_and_answer_pass(start: Callable[..., Preparer]) -> None:
    content = "é" * 3_000_000
    preparer = start(PreparerLimits())
    answer = preparer.ask({**render("good", content), "most_characters": 4_000_000})
    assert answer["text"] == f"{content}!"


def test_a_template_reaches_no_file(start: Callable[..., Preparer], tmp_path: Path) -> None:
    target = tmp_path / "written"
    source = "{{ ''.__class__.__mro__[1].__subclasses__() }}{% include '" + str(target) + "' %}"
    preparer = start(templates={"escape": source, "open": f"{{{{ open('{target}', 'w') }}}}"})
    assert "not allowed" in preparer.ask(render("escape"))["refused"]
    assert "refused" in preparer.ask(render("open"))
    assert not target.exists()
