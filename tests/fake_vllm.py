"""A server that behaves like vLLM's as far as its gateway can see: run as `python fake_vllm.py SOCKET MODE`.

It writes a start's log, listens on a Unix socket, streams what vLLM 0.32 streams and counts its steps. MODE `serves`
does just that; `hangs` stops in the middle of every stream and takes no step any more; `no memory` ends at the start
as vLLM does where memory runs out.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

START = """\
(Worker pid=1) INFO 11-24 20:46:00 [cpu_model_runner.py:68] Starting to load model /models/m...
Loading safetensors checkpoint shards:  50% Completed | 1/2
"""
OUT_OF_MEMORY = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB "
    "of which 1.00 GiB is free.\nRuntimeError: Engine core initialization failed. See root cause above.\n"
)


class Server:
    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._steps = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        lengths = [line for line in head.splitlines() if line.lower().startswith("content-length:")]
        body = await reader.readexactly(int(lengths[0].partition(":")[2])) if lengths else b""
        identity = next(
            (line.partition(": ")[2] for line in head.splitlines() if line.lower().startswith("x-request-id")), ""
        )
        if method == "GET":
            text = "".join(
                f'vllm:{name}{{engine="0"}} {float(self._steps)}\n'
                for name in ("iteration_tokens_total_count", "generation_tokens_total")
            )
            await self._send(writer, 200, text.encode() if path == "/metrics" else b"")
        else:
            await self._generate(writer, json.loads(body), identity)
        writer.close()

    async def _generate(self, writer: asyncio.StreamWriter, request: dict[str, Any], identity: str) -> None:
        if request.get("max_tokens") == 7:
            message = "This model's maximum context length is 64 tokens. However, your prompt contains 99 input tokens"
            error = {"message": message, "type": "BadRequestError", "param": "input_tokens", "code": 400}
            await self._send(writer, 400, json.dumps({"error": error}).encode())
            return
        head = {"id": f"chatcmpl-{identity}", "object": "x", "created": 1, "model": request["model"]}
        if not request.get("stream"):
            message = {"role": "assistant", "content": json.dumps(request), "reasoning": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
            usage = {"prompt_tokens": 3, "total_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": None}
            await self._send(writer, 200, json.dumps({**head, "choices": [choice], "usage": usage}).encode())
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for number in range(3):
            delta = {"role": "assistant", "content": ""} if number == 0 else {"content": f"{number}"}
            finish = "stop" if number == 2 else None
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            event = f"data: {json.dumps({**head, 'choices': [choice]}, separators=(',', ':'))}\n\n".encode()
            self._steps += 1
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
            if self._mode == "hangs" and number == 1:
                await asyncio.Event().wait()
        done = b"data: [DONE]\n\n\n"
        writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done))
        await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()


async def main(socket: str, mode: str) -> None:
    print(START, flush=True, file=sys.stderr)
    if mode == "no memory":
        print(OUT_OF_MEMORY, flush=True, file=sys.stderr)
        sys.exit(1)
    server = await asyncio.start_unix_server(Server(mode).answer, socket)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
