"""Every bound the HTTP side keeps, in one value that tests replace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds.

    header_bytes, header_lines, url_bytes: of one request head. body_bytes: of one request body.
    header_seconds, body_seconds: how long a client may take to send each. send_stall_seconds: how long a client may
    read nothing while bytes wait for it. connections: open at once. wrong_keys: requests with a missing or wrong key
    that get an honest 401 in a row, and wrong_keys_per_second: how fast that allowance comes back.
    grace_seconds: how long a stream waits for its first event before the status line is sent; until then a failure
    is a real HTTP status. keep_alive_seconds: between comments in a silent stream.
    first_byte_seconds: a streaming worker's silence; answer_seconds: a whole answer that is not streamed.
    answer_bytes: of such an answer, the largest of which are thousands of long embeddings.
    event_bytes: of one server-sent event. upload_bytes: of one request that uploads a file, and upload_seconds: how
    long that may take.
    """

    header_bytes: int = 64 * 1024
    header_lines: int = 100
    url_bytes: int = 8 * 1024
    body_bytes: int = 10 * 1024 * 1024
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_stall_seconds: float = 30.0
    connections: int = 1024
    wrong_keys: int = 100
    wrong_keys_per_second: float = 10.0
    grace_seconds: float = 1.0
    keep_alive_seconds: float = 5.0
    first_byte_seconds: float = 300.0
    answer_seconds: float = 3600.0
    answer_bytes: int = 256 * 1024 * 1024
    event_bytes: int = 8 * 1024 * 1024
    upload_bytes: int = 200 * 1024 * 1024
    upload_seconds: float = 600.0
