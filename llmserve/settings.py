"""What the user asked for: flags over environment over `settings.toml` over "you decide" (None).

A `Settings` is read once, at the start of a command, and passed down; no module reads the environment by itself.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from llmserve.choices import Engine, KvType, LoadShape
from llmserve.errors import SettingsError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 11435


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What is special about one model: the table `[models."NAME"]` of `settings.toml`, by its name or an alias.

    keep_alive: as in `Settings`, for this model. pin: it is not unloaded to make room for another. preload: it is
    loaded when the server starts.
    """

    name: str
    keep_alive: float | None = None
    pin: bool | None = None
    preload: bool | None = None


@dataclass(frozen=True, slots=True)
class ModelGroup:
    """Models that may not be loaded at the same time or, if `together`, are loaded with each other: `[[groups]]`."""

    models: tuple[str, ...]
    together: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; every field is also a key of `settings.toml` and an environment variable `LLMSERVE_<FIELD>`.

    None means that the program decides. Tuples are comma-separated in the environment and lists in the file.

    home: the data directory. host, port: where to listen. uds: listen on this Unix socket instead.
    ollama_port: listen here too, at the same host, for clients that know no other port than Ollama's.
    api_key: a key clients must send (only from the environment or the file, never from a flag).
    insecure_no_auth: allow an address off loopback without a key. allowed_hosts, allowed_origins: more names for the
    Host and Origin checks. strict: a request field nobody knows is a 400 instead of a response header. page: a browser
    that opens `/` gets a page about this server (yes, unless this says no).
    engine, context, parallel, kv_type, threads, gpu_layers: override the plan. load_shape: whose winner to take where
    `tune` measured several. vllm_python: the interpreter (or the folder of the environment) that has a vLLM of the
    user's own, which is then used. output_format: how models write thoughts and tool calls, where their chat templates
    do not show it. speculation: answers may be drafted ahead from their own text (yes, unless this says no).
    fast_start: vLLM starts without compiling the model, sooner and slower then (yes on CPUs, no on GPUs, unless this
    says otherwise). max_output_tokens: the cap of a request that states none. keep_alive: seconds an idle model stays
    loaded (-1: for ever). max_queue: requests that may wait per model. max_queue_seconds: how long a request may wait
    for a place, loading included, before it is told to come again. load_timeout: seconds a worker may take to become
    ready. memory_reserve: bytes of RAM to keep free: idle models are unloaded when less is. models, groups: see
    `ModelSettings`, `ModelGroup`; only in the file. locked: serve only what this lock file names. disk_budget: the most
    bytes that the models of the store may take (as a number or like "20GB"). make_room: remove the models used longest
    ago without asking, where the disk budget needs it. prefix_disk: the most bytes of the disk for prefixes that
    outlive a model's worker (0: none do). batch_disk: the most bytes for uploaded files and the answers of batches.
    batch_days: how long both are kept.
    """

    home: Path | None = None
    host: str | None = None
    port: int | None = None
    uds: Path | None = None
    ollama_port: int | None = None
    api_key: str | None = None
    insecure_no_auth: bool | None = None
    allowed_hosts: tuple[str, ...] | None = None
    allowed_origins: tuple[str, ...] | None = None
    strict: bool | None = None
    page: bool | None = None
    engine: Engine | None = None
    vllm_python: Path | None = None
    context: int | None = None
    parallel: int | None = None
    kv_type: KvType | None = None
    threads: int | None = None
    gpu_layers: int | None = None
    load_shape: LoadShape | None = None
    output_format: str | None = None
    speculation: bool | None = None
    fast_start: bool | None = None
    max_output_tokens: int | None = None
    keep_alive: float | None = None
    max_queue: int | None = None
    max_queue_seconds: float | None = None
    load_timeout: float | None = None
    memory_reserve: int | None = None
    locked: Path | None = None
    disk_budget: int | None = None
    prefix_disk: int | None = None
    make_room: bool | None = None
    batch_disk: int | None = None
    batch_days: float | None = None
    models: tuple[ModelSettings, ...] | None = None
    groups: tuple[ModelGroup, ...] | None = None


# A number of bytes, decimal unless the unit says `i`: `500k`, `5MB`, `2 GiB`.
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
# The settings that are numbers of bytes.
_SIZES = frozenset({"disk_budget", "prefix_disk", "batch_disk", "memory_reserve"})
# The settings that are tables of the file.
_TABLES: dict[str, type[Any]] = {"models": ModelSettings, "groups": ModelGroup}

# Inclusive bounds of the numbers; a value outside is refused by name rather than clamped.
_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "ollama_port": (1, 65535),
    "context": (64, 16_777_216),
    "parallel": (1, 256),
    "threads": (1, 1024),
    "gpu_layers": (0, 10_000),
    "max_output_tokens": (1, 16_777_216),
    "keep_alive": (-1, 31_536_000),
    "max_queue": (0, 100_000),
    "max_queue_seconds": (0, 86_400),
    "load_timeout": (1, 86_400),
    "memory_reserve": (0, 2**60),
    "disk_budget": (1, 2**60),
    "prefix_disk": (0, 2**60),
    "batch_disk": (0, 2**60),
    "batch_days": (0.05, 3650),
}


def load_settings(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Read the settings. `flags` holds values by field name, None where the flag was not given.

    `environ` defaults to the process environment, `file` to `$LLMSERVE_CONFIG` or `settings.toml` in the platform's
    user config directory; a missing file is an empty one. Raises `SettingsError` naming the source and the key.
    """
    environ = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    merged.update(_from_file(_config_path(environ) if file is None else file))
    merged.update(_from_environment(environ))
    for key, value in (flags or {}).items():
        if value is not None:
            merged[key] = _checked(key, value, f"--{key.replace('_', '-')}")
    return Settings(**merged)


def parse_size(text: str) -> float | None:
    """The number of bytes that `text` states, None where it states none."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    base = 1024 if match[3] else 1000
    scale: int = base ** " kmgt".index(match[2].lower() or " ")
    return float(match[1]) * scale


def home_directory(settings: Settings) -> Path:
    """The data directory: `home`, or the platform's user data directory + `llmserve`. Not created here."""
    if settings.home is not None:
        return settings.home
    if (plain := _plain_directory("XDG_DATA_HOME", ".local/share")) is not None:
        return plain / "llmserve"
    import platformdirs

    return Path(platformdirs.user_data_dir("llmserve", appauthor=False))


def runtime_directory() -> Path:
    """Where sockets live: short (a Unix socket path holds about 100 bytes), private, gone after a restart."""
    import platformdirs

    with warnings.catch_warnings():
        # Without a login session there is no XDG_RUNTIME_DIR; the fallback in /tmp is meant, and checked by its users.
        warnings.simplefilter("ignore")
        return Path(platformdirs.user_runtime_dir("llmserve", appauthor=False))


def _config_path(environ: Mapping[str, str]) -> Path:
    if named := environ.get("LLMSERVE_CONFIG"):
        return Path(named)
    # Not "llmserve": an unrelated program of that name keeps its settings there.
    if (plain := _plain_directory("XDG_CONFIG_HOME", ".config")) is not None:
        return plain / "llmserve-server" / "settings.toml"
    import platformdirs

    return Path(platformdirs.user_config_dir("llmserve-server", appauthor=False)) / "settings.toml"


def _plain_directory(variable: str, below_home: str) -> Path | None:
    """The user's directory where absolute paths in the environment say it; None: platformdirs has to.

    What nearly everybody has needs no import of platformdirs, which takes a tenth of a short command's time.
    """
    if sys.platform != "linux":
        return None
    given, home = os.environ.get(variable, ""), os.environ.get("HOME", "")
    if given:
        return Path(given) if given.startswith("/") else None
    return Path(home, below_home) if home.startswith("/") else None


def _from_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from error
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error}") from error
    known = {field.name for field in fields(Settings)}
    for key in data:
        if key not in known:
            names = ", ".join(sorted(known))
            raise SettingsError(f"{path}: unknown setting `{key}`", param=key, hint=f"known: {names}")
    return {key: _checked(key, value, str(path)) for key, value in data.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in fields(Settings):
        variable = f"LLMSERVE_{field.name.upper()}"
        if text := environ.get(variable):
            values[field.name] = _checked(field.name, _parse(field.name, text, variable), variable)
    return values


@cache
def _type_hints(owner: type[Any]) -> Mapping[str, Any]:
    return get_type_hints(owner)


def _field_type(key: str, owner: type[Any] = Settings) -> type[Any]:
    """The one type of a field besides None."""
    wanted: Any = owner  # mypy does not take every class for hashable
    hint = _type_hints(wanted)[key]
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if type(None) in get_args(hint) else [hint]
    return kinds[0]  # type: ignore[no-any-return]


def _tables(key: str, value: object, source: str) -> object:
    """The entries of `[models."NAME"]` tables, or of `[[groups]]`."""
    named = key == "models" and isinstance(value, dict)
    entries = [{"name": name, **table} for name, table in value.items()] if named else value  # type: ignore[attr-defined]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SettingsError(f"{source}: `{key}` must be written as tables in the settings file", param=key)
    kind = _TABLES[key]
    known = {field.name for field in fields(kind)}
    checked = []
    for entry in entries:
        if unknown := sorted(entry.keys() - known):
            raise SettingsError(f"{source}: unknown setting `{unknown[0]}` in `{key}`", param=key)
        if key == "groups" and len(entry.get("models", ())) < 2:
            raise SettingsError(f"{source}: a group needs at least two `models`", param=key)
        checked.append(kind(**{name: _checked(name, part, source, kind) for name, part in entry.items()}))
    return tuple(checked)


def _parse(key: str, text: str, source: str) -> object:
    kind = _field_type(key)
    if key in _SIZES:
        return text
    if kind is bool:
        if text.lower() in {"1", "true", "yes", "on"}:
            return True
        if text.lower() in {"0", "false", "no", "off"}:
            return False
        raise SettingsError(f"{source}: `{text}` is neither true nor false", param=key)
    if kind in {int, float}:
        try:
            return kind(text)
        except ValueError:
            raise SettingsError(f"{source}: `{text}` is not a number", param=key) from None
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def _checked(key: str, value: object, source: str, owner: type[Any] = Settings) -> object:
    if owner is Settings and key in _TABLES:
        return _tables(key, value, source)
    kind = _field_type(key, owner)
    if key in _SIZES and isinstance(value, str):
        if (size := parse_size(value)) is None:
            raise SettingsError(f"{source}: `{value}` is no size, as in 20GB", param=key)
        value = int(size)
    if kind is Path and isinstance(value, str | Path):
        return Path(value).expanduser().absolute()
    if kind == tuple[str, ...] and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if choices := [choice for choice in get_args(kind) if isinstance(choice, str)]:
        if value not in choices:
            raise SettingsError(f"{source}: `{key}` is `{value}`, not one of {', '.join(choices)}", param=key)
        return value
    if kind not in {int, float, bool, str} or type(value) is not kind:
        raise SettingsError(f"{source}: `{key}` has the wrong type ({type(value).__name__})", param=key)
    if key in _BOUNDS:
        low, high = _BOUNDS[key]
        if not low <= float(str(value)) <= high:
            raise SettingsError(f"{source}: `{key}` is {value}, outside {low:g} to {high:g}", param=key)
    return value
