"""A stand-in for `llmserve serve --uds`: `python fake_serve.py SOCKET FIFO BEHAVIOUR`.

It writes its process id to FIFO and holds it open, so that a reader sees end of file when this process is gone.
Behaviours: "obey" ends with standard input; "stay" ignores that; "fail" ends at once with a message and code 71.
It answers a chat with one word and then nothing more.
"""

from __future__ import annotations

import json
import os
import select
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler

from llmserve import __version__


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({"status": "ok", "service": "llmserve", "version": __version__})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            self.answer({"status": "ready"})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'data: {"choices":[{"delta":{"content":"Once"}}]}\n\n')
        select.select([self.connection], [], [])
        self.close_connection = True

    def answer(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def main() -> None:
    socket, fifo, behaviour = sys.argv[1:]
    if behaviour == "fail":
        print("error: there is no room", file=sys.stderr)
        sys.exit(71)
    lifeline = os.open(fifo, os.O_WRONLY)
    os.write(lifeline, f"{os.getpid()}\n".encode())
    threading.Thread(target=Server(socket, Handler).serve_forever, daemon=True).start()
    sys.stdin.read()
    if behaviour == "stay":
        threading.Event().wait()


if __name__ == "__main__":
    main()
