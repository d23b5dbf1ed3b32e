"""The layers of docs/architecture.md, and what no file of the program may contain: read from the source, not run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "llmserve"

# The rows of the table. A package may import itself and what stands in an earlier row.
ROWS = (
    ("choices", "errors", "installed", "json_text", "settings", "types"),
    ("openai",),
    ("vllm",),
    ("planning",),
    ("dialects",),
    ("hardware",),
    ("store",),
    ("state",),
    ("batches",),
    ("engines",),
    ("fleet",),
    ("api",),
    ("client",),
    ("cli",),
)
# The worker's process: imports these only, and nothing imports it.
CHILD = "llama"
CHILD_MAY_IMPORT = {"choices", "errors", "installed", "json_text", "settings", "types", "openai", "planning"}
# `python -m llmserve` starts the command line; the package itself holds nothing but its version.
TOP = "__main__"
BOTTOM = "__init__"

ENGINES = {"llama_cpp", "torch", "vllm"}
NATIVE_MODULES = (
    "embedding_runner",
    "native_context",
    "native_metadata",
    "native_model",
    "native_weights",
    "quantizer",
    "runner",
    "token_batch",
    "vocabulary",
)
ENGINE_IMPORTS = {(f"llmserve.llama.{name}", "llama_cpp") for name in NATIVE_MODULES}
GATEWAY = ("llmserve.api", "llmserve.fleet", "llmserve.cli", "llmserve.client", "llmserve.__main__")

UNSAFE_MODULES = {"pickle", "cPickle", "shelve", "marshal", "dill", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec"}


def source_files() -> list[Path]:
    return sorted((ROOT / PACKAGE).rglob("*.py"))


def module_name(path: Path) -> str:
    """The dotted name of a file of the package; a package's `__init__.py` has the package's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST, module: str, *, is_package: bool = False) -> Iterator[str]:
    """The dotted names a module imports, wherever in the file: also in functions, under `if`, and by `import_module`.

    `from a import b` gives `a.b`, which may be a module or a name in one.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parents, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"} and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def called(node: ast.Call) -> str | None:
    """The last part of the name of what a call calls."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else None


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    return tuple(imports(tree_of(path), module_name(path), is_package=path.name == "__init__.py"))


def unit(name: str) -> str:
    """The row entry that a dotted name of the program belongs to: `llmserve.api.app` to `api`."""
    parts = name.split(".")
    if len(parts) == 1 or parts[1] == "__version__":
        return BOTTOM
    return parts[1]


def upward(importer: str, imported: str) -> bool:
    """Whether `importer` must not import `imported` (both row entries)."""
    if importer in (imported, TOP) or imported == BOTTOM:
        return False
    if CHILD in (importer, imported):
        return importer != CHILD or imported not in CHILD_MAY_IMPORT
    if imported == TOP or importer == BOTTOM:
        return True
    return row(imported) > row(importer)


def row(entry: str) -> int:
    return next(index for index, entries in enumerate(ROWS) if entry in entries)


def forbidden(tree: ast.AST) -> Iterator[str]:
    """What a file contains that no file may contain, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Assert():
                yield f"line {node.lineno}: assert, which -O removes"
            case ast.Call(func=ast.Name(id=name)) if name in UNSAFE_CALLS:
                yield f"line {node.lineno}: {name}()"
            case ast.keyword(arg="shell", value=value) if not is_false(value):
                yield f"line {value.lineno}: a shell"
            case ast.Attribute(attr="path", value=ast.Attribute(attr="url")):
                # Built from the Host header, so a client can choose it; `scope["path"]` is what was asked for.
                yield f"line {node.lineno}: url.path"


def is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("path", source_files(), ids=module_name)
class TestEveryFile:
    def test_belongs_to_a_row(self, path: Path) -> None:
        entry = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
        assert entry in {CHILD, TOP, BOTTOM} or any(entry in entries for entries in ROWS)

    def test_imports_from_earlier_rows_only(self, path: Path) -> None:
        importer = unit(module_name(path))
        inside = [name for name in imports_of(path) if name.split(".")[0] == PACKAGE]
        assert [name for name in inside if upward(importer, unit(name))] == []

    def test_imports_no_engine(self, path: Path) -> None:
        module = module_name(path)
        engines = {name.split(".")[0] for name in imports_of(path)} & ENGINES
        assert {(module, engine) for engine in engines} <= ENGINE_IMPORTS

    def test_contains_nothing_unsafe(self, path: Path) -> None:
        modules = {name.split(".")[0] for name in imports_of(path)} & UNSAFE_MODULES
        assert [*forbidden(tree_of(path)), *sorted(modules)] == []


def reachable(start: str, graph: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Every name that importing the modules below `start` may import, however indirectly."""
    found: set[str] = set()
    waiting = [name for name in graph if name == start or name.startswith(f"{start}.")]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        parent = name.rpartition(".")[0]
        # `a.b.name` means module `a.b`; and importing `a.b` runs `a` first.
        waiting += [*graph.get(name, ()), *([parent] if parent else [])]
    return found


@pytest.mark.parametrize("start", GATEWAY)
def test_the_gateway_never_imports_an_engine(start: str) -> None:
    graph = {module_name(path): imports_of(path) for path in source_files()}
    found = reachable(start, graph)
    assert len(found) > 1
    assert found & ENGINES == set()
    assert not any(name.startswith(f"{PACKAGE}.{CHILD}.") for name in found)


def test_the_table_is_the_one_in_the_architecture_document() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\| (?:\d|child) \| ([^|]+) \|", text, re.MULTILINE)
    documented = [tuple(name.removesuffix(".py") for name in re.findall(r"`([\w.]+)/?`", line)) for line in lines]
    assert documented == [*ROWS, (CHILD,)]


class TestTheChecksThemselves:
    @pytest.mark.parametrize(
        "source",
        [
            "import llmserve.api.app",
            "from llmserve.api import app",
            "from llmserve import api",
            "def late():\n    from llmserve.api.app import build",
            "if TYPE_CHECKING:\n    from llmserve.api.app import build",
            "from ..api import app",
            "importlib.import_module('llmserve.api.app')",
        ],
    )
    def test_an_upward_import_is_seen(self, source: str) -> None:
        found = list(imports(ast.parse(source), "llmserve.store.blobs"))
        assert [unit(name) for name in found] == ["api"]
        assert upward("store", "api")

    @pytest.mark.parametrize(
        ("importer", "imported", "wrong"),
        [
            ("store", "types", False),
            ("store", "store", False),
            ("settings", "errors", False),
            ("engines", "hardware", False),
            ("hardware", "engines", True),
            ("types", "openai", True),
            ("client", "cli", True),
            ("llama", "openai", False),
            ("llama", "store", True),
            ("engines", "llama", True),
            ("cli", "llama", True),
            ("__main__", "cli", False),
            ("cli", "__main__", True),
            ("api", "__init__", False),
            ("__init__", "types", True),
        ],
    )
    def test_directions(self, importer: str, imported: str, wrong: bool) -> None:
        assert upward(importer, imported) is wrong

    @pytest.mark.parametrize(
        "source",
        [
            "def f(x):\n    assert x",
            "eval('1')",
            "exec('1')",
            "subprocess.run('ls', shell=True)",
            "subprocess.run('ls', shell=flag)",
            "request.url.path",
        ],
    )
    def test_an_unsafe_line_is_seen(self, source: str) -> None:
        assert len(list(forbidden(ast.parse(source)))) == 1

    @pytest.mark.parametrize(
        "source", ["model.eval()", "subprocess.run(['ls'], shell=False)", "file.path", "scope['path']"]
    )
    def test_a_harmless_line_is_not(self, source: str) -> None:
        assert list(forbidden(ast.parse(source))) == []
