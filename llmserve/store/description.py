"""A model in the user's words: the TOML file that `llmserve create` reads.

    base = "smollm2:135m"                        the model to start from
    system = "You answer in one sentence."
    template = "{% for message in messages %}…"  or { file = "chat.jinja" }
    adapters = ["style.gguf"]                    or [{ file = "style.gguf", scale = 0.5, name = "style" }]

    [parameters]                                 temperature, top_p, max_tokens, seed
    temperature = 0.2

Paths are relative to the file's own directory. What is not stated is the base's. An adapter with a `name` is for
requests that ask for `model@name` and, with `default = true`, for those that ask for none; one without is always on.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from llmserve.errors import InvalidRequest
from llmserve.store.adapter_names import is_adapter_name
from llmserve.store.chat_templates import TEMPLATE_LIMIT_CHARACTERS, check_template
from llmserve.store.defaults import ChatDefaults
from llmserve.store.names import shown

_KEYS = ("base", "system", "template", "adapters", "parameters", "temperature")
_ADAPTERS_LIMIT = 16
_SCALE_LIMIT = 100.0
# The kind of each parameter and its inclusive bounds, those of the request field of that name.
_PARAMETERS: Mapping[str, tuple[type[float] | type[int], float, float]] = MappingProxyType(
    {
        "temperature": (float, 0, 2),
        "top_p": (float, 0, 1),
        "max_tokens": (int, 1, 16_777_216),
        "seed": (int, -(2**63), 2**63 - 1),
    }
)


@dataclass(frozen=True, slots=True)
class AdapterPath:
    path: Path
    scale: float = 1.0
    name: str | None = None
    default: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """What is stated; None for what is to be as in the base. `defaults` likewise, field by field."""

    base: str
    defaults: ChatDefaults = field(default_factory=ChatDefaults)
    template: str | None = None
    adapters: tuple[AdapterPath, ...] | None = None


def read_description(file: Path) -> Description:
    """Read the file. Raises `InvalidRequest` naming it and the key that cannot be used."""
    try:
        with file.open("rb") as opened:
            described = tomllib.load(opened)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequest(f"cannot read {file}: {reason}", param="file") from error
    reader = _Reader(file, described)
    reader.refuse_unknown()
    base = reader.text("base")
    if base is None:
        reader.fail("base", "is missing: the model to start from")
    return Description(base, reader.defaults(), reader.template(), reader.adapters())


@dataclass(frozen=True, slots=True)
class _Reader:
    file: Path
    described: dict[str, Any]

    def refuse_unknown(self) -> None:
        for key in self.described:
            if key not in _KEYS:
                raise InvalidRequest(
                    f"{self.file}: unknown key `{key}`", param=key, hint=f"known are {', '.join(_KEYS)}"
                )

    def text(self, key: str) -> str | None:
        value = self.described.get(key)
        if value is not None and not isinstance(value, str):
            self.fail(key, "is no text")
        return value

    def defaults(self) -> ChatDefaults:
        parameters = self.described.get("parameters", {})
        if not isinstance(parameters, dict):
            self.fail("parameters", "is no table")
        if "temperature" in self.described:
            if "temperature" in parameters:
                self.fail("temperature", "is stated twice")
            parameters = {**parameters, "temperature": self.described["temperature"]}
        values = {key: self._parameter(key, value) for key, value in parameters.items()}
        return ChatDefaults(system=self.text("system"), **values)

    def _parameter(self, key: str, value: object) -> Any:
        if key not in _PARAMETERS:
            raise InvalidRequest(
                f"{self.file}: unknown parameter `{key}`", param=key, hint=f"known are {', '.join(_PARAMETERS)}"
            )
        kind, low, high = _PARAMETERS[key]
        if isinstance(value, bool) or not isinstance(value, int | kind):
            self.fail(key, "is no number" if kind is float else "is no whole number")
        if not low <= value <= high:
            self.fail(key, f"is {value:g}, outside {low:g} to {high:g}")
        return kind(value)

    def template(self) -> str | None:
        stated = self.described.get("template")
        if isinstance(stated, dict):
            stated = self._read_template(self._path("template", stated, "file"))
        if stated is None:
            return None
        if not isinstance(stated, str):
            self.fail("template", 'is neither text nor { file = "..." }')
        check_template(stated)
        return stated

    def _read_template(self, path: Path) -> str:
        try:
            with path.open(encoding="utf-8") as opened:
                return opened.read(TEMPLATE_LIMIT_CHARACTERS + 1)
        except OSError as error:
            self.fail("template", f"cannot be read from {path}: {error.strerror}")
        except UnicodeDecodeError:
            self.fail("template", f"cannot be read from {path}: it is not UTF-8 text")

    def adapters(self) -> tuple[AdapterPath, ...] | None:
        stated = self.described.get("adapters")
        if stated is None:
            return None
        if not isinstance(stated, list) or len(stated) > _ADAPTERS_LIMIT:
            self.fail("adapters", f"is no list of at most {_ADAPTERS_LIMIT} files")
        adapters = tuple(self._adapter({"file": item} if isinstance(item, str) else item) for item in stated)
        names = Counter(adapter.name for adapter in adapters if adapter.name is not None)
        for name, count in names.items():
            if count > 1:
                self.fail("adapters", f"has two of the name `{name}`")
        if sum(adapter.default for adapter in adapters) > 1:
            self.fail("adapters", "has two with `default`; one can be on where nobody asks for another")
        return adapters

    def _adapter(self, item: object) -> AdapterPath:
        if not isinstance(item, dict):
            self.fail("adapters", 'holds something else than paths and { file = "...", scale = 1.0, name = "..." }')
        scale = item.get("scale", 1.0)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not -_SCALE_LIMIT <= scale <= _SCALE_LIMIT:
            self.fail("adapters", f"has a scale that is no number from {-_SCALE_LIMIT:g} to {_SCALE_LIMIT:g}")
        name, default = item.get("name"), item.get("default", False)
        if name is not None and (not isinstance(name, str) or not is_adapter_name(name)):
            stated = shown(name) if isinstance(name, str) else name
            self.fail("adapters", f"has the name `{stated}`: a name has a-z, 0-9, '.', '_' and '-', and is not `none`")
        if not isinstance(default, bool):
            self.fail("adapters", "has a `default` that is neither true nor false")
        if default and name is None:
            self.fail("adapters", "has a `default` without a `name`: one without a name is always on")
        return AdapterPath(
            self._path("adapters", item, "file", "scale", "name", "default"), float(scale), name, default
        )

    def _path(self, key: str, table: dict[str, Any], *known: str) -> Path:
        """The path at `file` in a table that has no other keys than those known."""
        if unknown := sorted(table.keys() - set(known)):
            self.fail(key, f"has the unknown key `{unknown[0]}`; known are {', '.join(known)}")
        path = table.get("file")
        if not isinstance(path, str) or not path or "\0" in path:
            self.fail(key, "names no file")
        return self.file.parent / Path(path).expanduser()

    def fail(self, key: str, problem: str) -> NoReturn:
        raise InvalidRequest(f"{self.file}: `{key}` {problem}", param=key)
