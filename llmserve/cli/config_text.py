"""Settings put into the text of a configuration file, which keeps everything else that it says.

Pure. Every function takes the text of the file, empty where there is none, and gives its new text; each raises
`InvalidRequest` for a text that it cannot read, or cannot change without risk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from llmserve.errors import InvalidRequest

if TYPE_CHECKING:
    from yaml.nodes import Node  # type: ignore[import-untyped]

Edit = tuple[int, int, str]

# A name, its value in quotes or without, and a comment.
_ASSIGNMENT = re.compile(
    r"""\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"""
    r"""('[^']*'|"(?:[^"\\]|\\.)*"|[^\s'"#](?:[^#]|(?<!\s)\#)*?|)(?:\s+\#.*|\s*)"""
)
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_./:@%+-]*")
_CONTINUE_HEAD = "name: Local Config\nversion: 1.0.0\nschema: v1\n"


def with_variables(text: str, variables: Mapping[str, str]) -> str:
    """A `.env` file's text with these `variables`: each in the place where it was set, or at the end."""
    lines = text.splitlines()
    missing = dict(variables)
    for number, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        assigned = _ASSIGNMENT.fullmatch(line)
        if assigned is None:
            _refuse(f"line {number + 1} is no assignment of one line")
        if (name := assigned[1]) in variables:
            lines[number] = line[: assigned.start(2)] + _env_value(variables[name]) + line[assigned.end(2) :]
            missing.pop(name, None)
    lines += [f"{name}={_env_value(value)}" for name, value in missing.items()]
    return "\n".join(lines) + "\n"


def with_environment(text: str, variables: Mapping[str, str]) -> str:
    """A JSON file's text with these `variables` in its object `env`."""
    try:
        settings = json.loads(text, object_pairs_hook=_without_duplicates) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        _refuse(f"it is not JSON: {error}")
    if not isinstance(settings, dict) or not isinstance(settings.setdefault("env", {}), dict):
        _refuse("it has no object `env`")
    if all(settings["env"].get(name) == value for name, value in variables.items()):
        return text
    settings["env"] |= variables
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"


def with_model(text: str, model: Mapping[str, str]) -> str:
    """The text of Continue's config.yaml with this entry in `models`, in the place of one with the same name."""
    import yaml  # type: ignore[import-untyped]  # shipped without types

    if not text.strip():
        text = _CONTINUE_HEAD
    try:
        known = yaml.safe_load(text)
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        _refuse(f"it is not YAML: {str(error).splitlines()[0]}")
    if not isinstance(known, dict) or not isinstance(known.get("models") or [], list):
        _refuse("it has no list `models`")
    entries = list(known.get("models") or [])
    edits, place = _edits(text, document, entries, model)
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    entries[place:] = [{**(entries[place] if place < len(entries) else {}), **model}, *entries[place + 1 :]]
    try:
        changed = yaml.safe_load(text)
    except yaml.YAMLError:
        changed = None
    if changed != {**known, "models": entries}:
        _refuse("its `models` are written in a way that cannot be added to without risk")
    return text


def _edits(text: str, document: Node, entries: Sequence[Any], model: Mapping[str, str]) -> tuple[list[Edit], int]:
    """What to replace so that `model` is among the `entries` of the list `models`, and at which place it is then."""
    from yaml.nodes import MappingNode, SequenceNode

    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    place = names.index(model["name"]) if model["name"] in names else len(entries)
    models = next((value for key, value in document.value if key.value == "models"), None)
    if models is None:
        # At the end, as far to the right as the other keys.
        indent = " " * document.start_mark.column
        before = "" if text.endswith("\n") else "\n"
        return [(len(text), len(text), f"{before}{indent}models:\n{_item(model, len(indent) + 2)}")], place
    if place < len(entries) and isinstance(models.value[place], MappingNode):
        return _field_edits(text, models.value[place], model), place
    if not isinstance(models, SequenceNode):
        return [(models.start_mark.index, models.end_mark.index, f"\n{_item(model, 2)}".rstrip("\n"))], place
    if models.flow_style:
        end = models.end_mark.index - 1
        return [(end, end, f"{', ' if entries else ''}{json.dumps(dict(model))}")], place
    line_end = text.find("\n", _end(text, models))
    before = "\n" if line_end < 0 else ""
    at = len(text) if line_end < 0 else line_end + 1
    return [(at, at, before + _item(model, models.start_mark.column))], place


def _field_edits(text: str, entry: Node, model: Mapping[str, str]) -> list[Edit]:
    """What to replace so that the mapping `entry` says what `model` does; its other keys stay."""
    stated = {key.value: value for key, value in entry.value}
    edits: list[Edit] = []
    for name, value in model.items():
        if name in stated and stated[name].value != value:
            begin, end = stated[name].start_mark.index, _end(text, stated[name])
            # Nothing stands where a colon is all that there is.
            edits.append((begin, end, json.dumps(value) if begin < end else f" {json.dumps(value)}"))
    start = entry.start_mark.index + (1 if entry.flow_style else 0)
    between = ", " if entry.flow_style else "\n" + " " * entry.start_mark.column
    added = "".join(f"{json.dumps(name)}: {json.dumps(model[name])}{between}" for name in model if name not in stated)
    return [*edits, (start, start, added)] if added else edits


def _end(text: str, node: Node) -> int:
    """Where `node` ends in `text`. A block's own mark is where the next begins, behind blank lines and comments."""
    while isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    begin: int = node.start_mark.index
    end: int = node.end_mark.index
    return begin + len(text[begin:end].rstrip())


def _item(model: Mapping[str, str], column: int) -> str:
    """`model` as an item of a block sequence whose dashes are in `column`."""
    indent = " " * column
    lines = [f"{name}: {json.dumps(value)}" for name, value in model.items()]
    return f"{indent}- " + f"\n{indent}  ".join(lines) + "\n"


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these `pairs`; writing one back would lose a name that stands in it twice."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return dict(pairs)


def _env_value(value: str) -> str:
    """`value` as every reader of such files takes it."""
    if _PLAIN_VALUE.fullmatch(value):
        return value
    if "'" in value or "\n" in value:
        _refuse("the key has characters that such a file cannot hold")
    return f"'{value}'"


def _refuse(reason: str) -> NoReturn:
    raise InvalidRequest(f"the file is left as it is: {reason}")
