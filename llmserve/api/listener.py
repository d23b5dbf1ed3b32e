"""Where a gateway listens: whether it may, the bound socket, and the address to show."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from llmserve.errors import SettingsError, StartupFailed
from llmserve.settings import DEFAULT_HOST, DEFAULT_PORT, Settings

_BACKLOG = 1024
_PROBE_SECONDS = 1.0
# Connections inherit it. The kernel's own choice swallows megabytes, so that a whole answer would be generated for a
# client that reads none of it.
_SEND_BUFFER_BYTES = 64 * 1024
_HINTS = {
    errno.EADDRINUSE: "another program, perhaps another llmserve, listens there; stop it or choose another --port",
    errno.EACCES: "choose a port above 1023 with --port",
    errno.EADDRNOTAVAIL: "this machine has no such address; see --host",
}


def addresses(settings: Settings) -> list[Settings]:
    """`settings` once for each socket of the gateway: its own and, where one is asked for, that of Ollama's port."""
    if settings.ollama_port is None:
        return [settings]
    return [settings, replace(settings, uds=None, port=settings.ollama_port)]


def check_exposure(settings: Settings) -> bool:
    """Whether others than this machine can reach the address without a key, which the settings must then allow.

    Raises `SettingsError` where they do not.
    """
    if settings.uds is not None or settings.api_key or _is_loopback(settings.host or DEFAULT_HOST):
        return False
    if settings.insecure_no_auth:
        return True
    raise SettingsError(
        f"listening on {settings.host} without an API key would let anybody on the network use this server",
        param="host",
        hint="set LLMSERVE_API_KEY, or allow it with --insecure-no-auth",
    )


@contextmanager
def bound(settings: Settings) -> Iterator[socket.socket]:
    """`bind` for the length of a block; the file of a Unix socket goes at its end."""
    listener = bind(settings)
    try:
        yield listener
    finally:
        listener.close()
        if settings.uds is not None:
            settings.uds.unlink(missing_ok=True)


def bind(settings: Settings) -> socket.socket:
    """A listening socket at the address in the settings. Raises `StartupFailed` in one line with a hint."""
    host = settings.host or DEFAULT_HOST
    port = DEFAULT_PORT if settings.port is None else settings.port
    shown = f"{host}:{port}" if settings.uds is None else str(settings.uds)
    try:
        return _bind_tcp(host, port) if settings.uds is None else _bind_unix(settings.uds)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StartupFailed(f"cannot listen on {shown}: {reason.lower()}", hint=_HINTS.get(error.errno or 0)) from error


def shown_address(listener: socket.socket) -> str:
    """What to type into a client: a URL, or the path of a Unix socket."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind_tcp(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = found[0]
    # With the protocol given: asyncio turns Nagle's delay off only for sockets that say they are TCP.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        _listen(listener)
    except OSError:
        listener.close()
        raise
    return listener


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        _remove_stale(path)
        listener.bind(str(path))
        _listen(listener)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _listen(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    listener.listen(_BACKLOG)


def _remove_stale(path: Path) -> None:
    """Remove the socket file of a server that is gone. One that answers, or another kind of file, stays."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
