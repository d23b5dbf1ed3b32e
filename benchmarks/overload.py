"""A gateway that is asked for ten times what its worker can do: what is still answered, and how the rest is told.

    python -m benchmarks.overload --seconds 60

A request takes one second, so the capacity is known: as many a second as the worker is given at once. First clients
that wait for each other's places measure the peak, then ten times as many requests a second come from forty keys, and
then single ones show when all is normal again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass

import psutil

from benchmarks.relay import gateway_process

_PARALLEL = 16
_PLACES = _PARALLEL + _PARALLEL // 4
_KEYS = 40
_SCRIPT = json.dumps({"events": 20, "interval": 0.05})


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: its status, the seconds it took, and what it was told to wait."""

    status: int
    seconds: float
    retry_after: str | None


async def ask(port: int, key: int) -> Answer:
    body = json.dumps({"model": "bench", "prompt": _SCRIPT, "stream": True}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-API-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + body)
    received = await reader.read()
    writer.close()
    seconds = time.perf_counter() - started
    lines = received.partition(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    told = [line.partition(":")[2].strip() for line in lines if line.startswith("retry-after:")]
    status = int(lines[0].split()[1])
    if status == 200 and not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        raise RuntimeError("an answer is not whole")
    return Answer(status, seconds, told[0] if told else None)


async def peak(port: int, seconds: float) -> float:
    """Answers a second with as many clients as there are places."""
    until = time.perf_counter() + seconds
    answered = 0

    async def client(key: int) -> None:
        nonlocal answered
        while time.perf_counter() < until:
            answer = await ask(port, key)
            answered += answer.status == 200  # not in one line: others count while this one waits

    started = time.perf_counter()
    await asyncio.gather(*(client(key) for key in range(_PLACES)))
    return answered / (time.perf_counter() - started)


async def flood(port: int, rate: float, seconds: float) -> list[Answer]:
    """All answers to `rate` requests a second, which wait for nothing."""
    asked = []
    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        asked.append(asyncio.create_task(ask(port, number % _KEYS)))
        await asyncio.sleep(max(0.0, started + (number + 1) / rate - time.perf_counter()))
    return list(await asyncio.gather(*asked))


async def recovery(port: int) -> float:
    """Seconds until a request is answered as fast as on an idle server."""
    started = time.perf_counter()
    while (answer := await ask(port, 0)).status != 200 or answer.seconds > 1.5:  # noqa: ASYNC110 (another process recovers)
        await asyncio.sleep(0.05)
    return time.perf_counter() - started - answer.seconds


async def measure(seconds: float) -> None:
    async with gateway_process(_PARALLEL, max_queue=4 * _PARALLEL) as (port, process):
        best = await peak(port, 5.0)
        before = process.memory_info().rss
        largest = before
        flooding = asyncio.create_task(flood(port, 10 * best, seconds))
        started = time.perf_counter()
        while time.perf_counter() < started + seconds:
            largest = max(largest, psutil.Process(process.pid).memory_info().rss)
            await asyncio.sleep(0.5)
        back = await recovery(port)
        report(await flooding, best, seconds)
        print(f"memory {before / 2**20:.0f} MiB before, {largest / 2**20:.0f} MiB at most; normal after {back:.1f} s")


def report(answers: list[Answer], best: float, seconds: float) -> None:
    good = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status in {429, 503}]
    told = [answer for answer in refused if answer.retry_after is not None]
    at_once = statistics.quantiles([answer.seconds * 1000 for answer in refused], n=1000)
    # The queue that is left at the end of the flood takes its time too.
    goodput = len(good) / (seconds + 4 * _PARALLEL / best)
    others = len(answers) - len(good) - len(refused)
    print(f"peak {best:.1f} answers/s; asked {len(answers) / seconds:.0f}/s for {seconds:g} s")
    print(f"goodput {goodput:.1f}/s ({goodput / best:.0%} of the peak), {others} other statuses")
    print(
        f"refused {len(refused)}, {len(told)} with Retry-After, in ms: p50 {at_once[499]:.1f}, p99 {at_once[989]:.1f}"
    )


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    uvloop.run(measure(parser.parse_args().seconds))


if __name__ == "__main__":
    main()
