"""The catalog: logical names and where the files behind them come from, read from `models.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from llmserve.choices import ModelFormat
from llmserve.errors import InvalidRequest, SettingsError
from llmserve.store.blobs import Expected, is_sha256
from llmserve.store.defaults import ChatDefaults
from llmserve.store.names import HubReference, LogicalName, PypiReference, parse_name
from llmserve.store.quantizations import canonical_quantization

if TYPE_CHECKING:
    from llmserve.types import ParserNames

_PARSER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
TASKS = ("chat", "code", "reasoning", "embed", "rerank")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to get a model. `size_bytes` and `sha256` are None where they are not known for certain.

    `file` is empty for safetensors, which are a whole repository. `size_bytes` is that of all files.
    """

    format: ModelFormat
    quantization: str
    source: str
    file: str
    size_bytes: int | None
    sha256: str | None

    @property
    def reference(self) -> HubReference | PypiReference:
        reference = parse_name(f"{self.source}:{self.file or self.format}")
        if isinstance(reference, LogicalName):
            raise InvalidRequest(f"`{self.source}` is not a source of files", param="source")
        return reference

    @property
    def label(self) -> str:
        """What tells it from the model's other variants: `q4_k_m` in `qwen3:8b-q4_k_m`."""
        return self.quantization.lower()

    @property
    def expected(self) -> Expected:
        return Expected(self.size_bytes, self.sha256)


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A logical name with at least one variant; `task` says what it is for (chat, code, reasoning, embed, rerank).

    `parsers` are those of vLLM's that read its calls and thoughts, where its chat template does not show which.
    """

    name: str
    aliases: tuple[str, ...]
    license: str | None
    description: str
    variants: tuple[Variant, ...]
    defaults: ChatDefaults = field(default_factory=ChatDefaults)
    task: str = "chat"
    parsers: ParserNames | None = None

    @property
    def tag(self) -> str:
        """The part of the name after the colon, which tells the size in parameters: `8b`."""
        return self.name.partition(":")[2]

    def labelled(self, label: str) -> tuple[Variant, ...]:
        """The variants of this quantization, however it is spelled."""
        wanted = canonical_quantization(label)
        return tuple(variant for variant in self.variants if canonical_quantization(variant.quantization) == wanted)


@dataclass(frozen=True)
class Catalog:
    models: tuple[CatalogModel, ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, CatalogModel]:
        spelled = {alias: model for model in self.models for alias in model.aliases}
        return spelled | {model.name: model for model in self.models}

    def find(self, name: str) -> CatalogModel | None:
        """The model of this name or alias."""
        return self._by_name.get(name)

    def entry(self, name: str) -> CatalogModel | None:
        """The model that a name, an alias or either with a variant's label belongs to."""
        if (model := self.find(name)) is not None:
            return model
        selected = self.select(name)
        return selected[0] if selected else None

    def resolve(self, name: str) -> str:
        """The logical name behind an alias, also before a variant's label; any other text as it is."""
        if (model := self.find(name)) is not None:
            return model.name
        if (selected := self.select(name)) is not None:
            return f"{selected[0].name}-{selected[1]}"
        return name

    def select(self, name: str) -> tuple[CatalogModel, str] | None:
        """The model and the label of its variant that `family:size-label` or `alias-label` names."""
        for spelled, model in self._by_name.items():
            label = name.removeprefix(f"{spelled}-")
            if label != name and model.labelled(label):
                return model, label
        return None

    def names(self) -> tuple[str, ...]:
        """Every name and alias."""
        return tuple(self._by_name)


def load_catalog(extra: Path | None = None) -> Catalog:
    """The shipped catalog, with the models of the file `extra` added; one of the same name replaces the shipped one.

    Raises `SettingsError` naming file and key for a catalog that does not say what it must.
    """
    models = {model.name: model for model in _read(_shipped_file())}
    if extra is not None:
        models.update((model.name, model) for model in _read(extra))
    catalog = Catalog(tuple(models[name] for name in sorted(models)))
    _check_aliases(catalog.models)
    return catalog


def _shipped_file() -> Path:
    """`models.toml` inside the installed package or, in a source checkout, beside it."""
    package = Path(__file__).parents[1]
    packaged = package / "models.toml"
    return packaged if packaged.is_file() else package.parent / "models.toml"


def _check_aliases(models: Iterable[CatalogModel]) -> None:
    owners: dict[str, str] = {}
    for model in models:
        for name in (model.name, *model.aliases):
            if owners.setdefault(name, model.name) != model.name:
                raise SettingsError(
                    f"the catalog gives the name `{name}` to both `{owners[name]}` and `{model.name}`", param=name
                )


def _read(file: Path) -> tuple[CatalogModel, ...]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"cannot read the catalog {file}: {error}") from error
    root = _Table(file, "", data)
    root.refuse_unknown("models")
    models = root.table("models")
    return tuple(_model(name, models.table(name)) for name in models.data)


def _model(name: str, table: _Table) -> CatalogModel:
    table.refuse_unknown(
        *("aliases", "license", "description", "task", "variants", "defaults", "tool_parser", "reasoning_parser")
    )
    aliases = table.texts("aliases")
    for spelled in (name, *aliases):
        _check_name(table, spelled)
    if ":" not in name:
        table.fail(None, "a model's name needs a tag, as in `family:tag`")
    variants = tuple(_variant(variant) for variant in table.tables("variants"))
    if not variants:
        table.fail("variants", "at least one variant is needed")
    return CatalogModel(
        name=name,
        aliases=aliases,
        license=table.text_or_none("license"),
        description=table.text("description"),
        variants=variants,
        defaults=_defaults(table.table("defaults")) if "defaults" in table.data else ChatDefaults(),
        task=_task(table),
        parsers=_parsers(table),
    )


def _parsers(table: _Table) -> ParserNames | None:
    tool, reasoning = table.text_or_none("tool_parser"), table.text_or_none("reasoning_parser")
    for key, name in (("tool_parser", tool), ("reasoning_parser", reasoning)):
        # It becomes an argument of vLLM's command line.
        if name is not None and not _PARSER.fullmatch(name):
            table.fail(key, "a name of letters, digits, dots, dashes and underscores is needed")
    if tool is None and reasoning is None:
        return None
    from llmserve.types import ParserNames

    return ParserNames(tool, reasoning)


def _task(table: _Table) -> str:
    task = table.text_or_none("task") or "chat"
    if task not in TASKS:
        table.fail("task", f"`{task}` is not one of {', '.join(TASKS)}")
    return task


def _defaults(table: _Table) -> ChatDefaults:
    table.refuse_unknown("system", "temperature")
    temperature = table.number_or_none("temperature")
    if temperature is not None and not 0 <= temperature <= 2:
        table.fail("temperature", f"{temperature:g} is outside 0 to 2")
    return ChatDefaults(system=table.text_or_none("system"), temperature=temperature)


def _check_name(table: _Table, name: str) -> None:
    try:
        is_logical = isinstance(parse_name(name), LogicalName)
    except InvalidRequest as error:
        table.fail(None, error.message)
    if not is_logical:
        table.fail(None, f"`{name}` is not a name of the form `family:tag`")


def _variant(table: _Table) -> Variant:
    table.refuse_unknown("format", "quantization", "source", "file", "size", "sha256")
    model_format = table.text("format")
    if model_format not in get_args(ModelFormat):
        table.fail("format", f"`{model_format}` is not one of {', '.join(get_args(ModelFormat))}")
    sha256 = table.text_or_none("sha256")
    if sha256 is not None and not is_sha256(sha256):
        table.fail("sha256", "64 lower-case hexadecimal digits are needed")
    if model_format == "safetensors" and ("file" in table.data or sha256 is not None):
        table.fail("file", "safetensors are all the files of a repository, so neither file nor sha256 can be stated")
    variant = Variant(
        format=model_format,  # type: ignore[arg-type]  # checked above
        quantization=table.text("quantization"),
        source=table.text("source"),
        file="" if model_format == "safetensors" else table.text("file"),
        size_bytes=table.positive_integer_or_none("size"),
        sha256=sha256,
    )
    try:
        _ = variant.reference
    except InvalidRequest as error:
        table.fail("source", error.message)
    return variant


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table that knows its file and its key, so that every complaint names both."""

    file: Path
    key: str
    data: Any

    def table(self, key: str) -> _Table:
        value = self._value(key, dict, "a table")
        return _Table(self.file, self._path(key), value)

    def tables(self, key: str) -> tuple[_Table, ...]:
        values = self._value(key, list, "an array of tables")
        tables = tuple(_Table(self.file, f"{self._path(key)}[{index}]", value) for index, value in enumerate(values))
        for table in tables:
            if not isinstance(table.data, dict):
                table.fail(None, "a table is needed")
        return tables

    def text(self, key: str) -> str:
        value: str = self._value(key, str, "a text")
        return value

    def text_or_none(self, key: str) -> str | None:
        return self.text(key) if key in self.data else None

    def number_or_none(self, key: str) -> float | None:
        if key not in self.data:
            return None
        value = self.data[key]
        if type(value) not in (int, float):
            self.fail(key, "a number is needed")
        return float(value)

    def texts(self, key: str) -> tuple[str, ...]:
        if key not in self.data:
            return ()
        values = self._value(key, list, "an array of texts")
        if not all(isinstance(value, str) for value in values):
            self.fail(key, "an array of texts is needed")
        return tuple(values)

    def positive_integer_or_none(self, key: str) -> int | None:
        if key not in self.data:
            return None
        value: int = self._value(key, int, "a whole number")
        if isinstance(value, bool) or value <= 0:
            self.fail(key, "a whole number above zero is needed")
        return value

    def refuse_unknown(self, *known: str) -> None:
        for key in self.data:
            if key not in known:
                self.fail(key, f"unknown key; known are {', '.join(known)}")

    def fail(self, key: str | None, problem: str) -> NoReturn:
        where = self._path(key) if key else self.key
        raise SettingsError(f"{self.file}: {where}: {problem}", param=where)

    def _value(self, key: str, kind: type[Any], needed: str) -> Any:
        if key not in self.data:
            self.fail(key, "is missing")
        value = self.data[key]
        if not isinstance(value, kind):
            self.fail(key, f"{needed} is needed")
        return value

    def _path(self, key: str) -> str:
        quoted = key if key.replace("_", "").isalnum() else f'"{key}"'
        return f"{self.key}.{quoted}" if self.key else quoted
