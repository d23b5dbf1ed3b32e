"""Quantizing an installed model by llama.cpp's own function, in a child process, into a model of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmserve.errors import InsufficientStorage, InvalidModel, InvalidRequest
from llmserve.hardware.cpu import read_cpu
from llmserve.hardware.environment import native_environment
from llmserve.store.blobs import Blob
from llmserve.store.budget import Budget, make_room
from llmserve.store.copies import new_name
from llmserve.store.files import free_bytes, require_space, sha256_of
from llmserve.store.gguf import read_header
from llmserve.store.manifests import Created, Manifest
from llmserve.store.names import QUANTIZED, LogicalName, parse_name, shown
from llmserve.store.progress import PullProgress, Report, ignore_progress
from llmserve.store.quantizations import canonical_quantization, shard_names
from llmserve.store.registration import register
from llmserve.store.scratch import Scratch, scratch
from llmserve.store.sources.artifact import Artifact, ArtifactFile
from llmserve.store.store import Store
from llmserve.types import InstalledModel, ModelInfo

# What can be made of a model without a file of how important its weights are, and the bits that a weight takes then, as
# a bound: llama.cpp keeps some tensors in more bits, and in small models those are much of the whole.
TYPES: Mapping[str, float] = MappingProxyType(
    {
        "F32": 32.0,
        "BF16": 16.0,
        "F16": 16.0,
        "Q8_0": 8.5,
        "Q6_K": 8.5,
        "Q5_K_M": 7.5,
        "Q5_K_S": 7.5,
        "Q5_1": 7.5,
        "Q5_0": 7.5,
        "Q4_K_M": 6.6,
        "Q4_K_S": 6.6,
        "Q4_1": 6.6,
        "IQ4_NL": 6.6,
        "IQ4_XS": 6.6,
        "Q4_0": 6.6,
        "Q3_K_L": 6.6,
        "Q3_K_M": 6.6,
        "Q3_K_S": 6.6,
        "Q2_K": 6.6,
    }
)
_SYNONYMS = MappingProxyType({"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"})
# Tensors of these types are what a model was trained in, or as good.
_WHOLE = frozenset({"F32", "F16", "BF16"})
_KEPT_LINES = 5


@dataclass(frozen=True, slots=True)
class Quantization:
    """What is to be made: `again` says that the base is quantized already, which costs quality a second time."""

    base: Manifest
    type: str
    target: LogicalName
    again: bool
    most_bytes: int


def plan_quantization(store: Store, name: str, type_name: str, target: str | None = None) -> Quantization:
    """What quantizing `name` would make, and under which name (None: after the base). Nothing is written.

    Raises `InvalidRequest` for a type that is none or a model that is no GGUF, `Conflict` for a name that is taken, and
    what `Store.find` raises.
    """
    label = canonical_quantization(type_name)
    label = _SYNONYMS.get(label, label)
    if label not in TYPES:
        raise InvalidRequest(
            f"`{shown(type_name)}` is no type that can be made", param="type", hint=f"there are {', '.join(TYPES)}"
        )
    base = store.manifest(name)
    info = store.inspect(name)
    if info.format != "gguf":
        raise InvalidRequest(f"`{base.name}` is no GGUF model, and llama.cpp quantizes no other", param="model")
    again = any(kind not in _WHOLE for kind, _ in info.tensor_types)
    made = new_name(store, target or _derived_name(base.name, label))
    return Quantization(base, label, made, again, _most_bytes(info, label))


def quantize(
    store: Store, wanted: Quantization, progress: Report | None = None, budget: Budget | None = None
) -> InstalledModel:
    """Make it, and install it with its origin. Blocking.

    Raises `InsufficientStorage` before or while it is written, `InvalidModel` with llama.cpp's reason, `Conflict` for a
    name that was taken meanwhile; nothing becomes visible then.
    """
    report = progress or ignore_progress
    store.prepare()
    with store.locks.held("model", str(wanted.target)), scratch(store.home / "scratch") as area:
        store.require_free(wanted.target)
        if budget is not None:
            make_room(store, wanted.most_bytes, budget, keep=(str(wanted.target), wanted.base.name))
        require_space(area.path, wanted.most_bytes)
        output = area.path / "quantized.gguf"
        _run(store, wanted, output, area, report)
        sha256, identity = sha256_of(output, report)
        with store.blobs.lock(sha256):
            blob = store.blobs.put(Blob(output, sha256, identity))
            file = ArtifactFile(output.name, blob.path, sha256, identity)
            source = f"{QUANTIZED}{wanted.type}:{wanted.base.source}"
            artifact = Artifact((file,), source, owned=True, license=wanted.base.license)
            return register(store, wanted.target, artifact, report, Created(store.defaults(wanted.base.name)))


def _derived_name(name: str, label: str) -> str:
    """`qwen3:8b` in Q4_0 is `qwen3-quantized:8b-q4_0`: the catalog's own variant has the name without the word."""
    reference = parse_name(name)
    if not isinstance(reference, LogicalName):
        raise InvalidRequest(
            f"`{name}` gives no name for what is made of it", param="name", hint="state one with -o NAME"
        )
    return f"{reference.family}-quantized:{reference.tag}-{label.lower()}"


def _most_bytes(info: ModelInfo, label: str) -> int:
    """An upper bound of what is written: the weights, and header and vocabulary as they are in the base."""
    header_bytes = info.size_bytes - sum(layer.weight_bytes for layer in info.layers) - info.input_bytes
    return int(info.parameters * TYPES[label] / 8) + max(0, header_bytes - info.output_bytes)


def _run(store: Store, wanted: Quantization, output: Path, area: Scratch, report: Report) -> None:
    path = store.load_path(wanted.base)
    command = [sys.executable, "-P", "-m", "llmserve.llama.quantizer", "--type", wanted.type]
    command += [
        "--threads",
        str(read_cpu().usable_cpus),
        *(["--again"] if wanted.again else []),
        str(path),
        str(output),
    ]
    with (area.path / "log").open("w+b") as log:
        # Its standard input ends with this process, and it with its input; until then the directory is in use.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=native_environment(os.environ),
            pass_fds=(area.lock,),
            start_new_session=True,
        )
        with process:
            try:
                failure = _follow(process, _tensor_bytes(path), report)
            except BaseException:
                process.kill()
                raise
        # Its exit status says nothing: it also ends when its standard input does, which may be just before it would.
        if failure is not None:
            raise _failed(wanted, failure or _last_words(log, process.returncode), area)


def _follow(process: subprocess.Popen[bytes], sizes: Mapping[str, int], report: Report) -> str | None:
    """Report the child's progress until it ends; None if it is done, else the reason it states, which may be empty."""
    done = begun = 0
    total = sum(sizes.values())
    report(PullProgress("quantizing", 0, total))
    failure: str | None = ""
    for line in process.stdout or ():
        match _event(line):
            case {"tensor": str(name)}:
                done += begun
                begun = sizes.get(name, 0)
                report(PullProgress("quantizing", done, total))
            case {"failed": str(reason)}:
                failure = shown(reason, 300)
            case {"done": True}:
                failure = None
    return failure


def _event(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _tensor_bytes(path: Path) -> dict[str, int]:
    """The bytes of every tensor of a model, of all parts of a split one."""
    parts: Sequence[Path] = [path.with_name(name) for name in shard_names(path.name)]
    return {tensor.name: tensor.size_bytes for part in parts for tensor in read_header(part).tensors}


def _last_words(log: Any, status: int) -> str:
    log.seek(0)
    lines = deque((line.decode(errors="replace").strip() for line in log), maxlen=_KEPT_LINES)
    words = next((shown(line, 300) for line in reversed(lines) if line), None)
    return words or f"it ended with the status {status}"


def _failed(wanted: Quantization, reason: str, area: Scratch) -> InvalidModel | InsufficientStorage:
    if "iostream" in reason and free_bytes(area.path) < wanted.most_bytes:
        return InsufficientStorage(f"the disk became full while `{wanted.target}` was written")
    return InvalidModel(f"llama.cpp could not make {wanted.type} of `{wanted.base.name}`: {reason}")
