"""A model of the user's own: used where it lies, never copied and never deleted."""

from __future__ import annotations

from pathlib import Path

from llmserve.errors import InvalidModel
from llmserve.store.files import sha256_of
from llmserve.store.progress import PullProgress, Report
from llmserve.store.quantizations import is_shard, shard_names
from llmserve.store.sources.artifact import Artifact, ArtifactFile
from llmserve.store.sources.hub_choice import CONFIG, safetensors_files


def locate(path: Path) -> Path:
    """The absolute path of a .gguf file or a directory of safetensors, links resolved once and for all.

    Of a split model it is the first part, under its own name: the parts are found by their names. Raises
    `InvalidModel`.
    """
    try:
        expanded = path.expanduser()
        is_directory = expanded.is_dir() and (expanded / CONFIG).exists()
        is_nothing = not expanded.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidModel("the path is not valid") from error
    if is_nothing:
        raise InvalidModel(f"there is no file or directory {path}", hint=_hint(path))
    if not is_directory and not path.name.lower().endswith(".gguf"):
        raise InvalidModel(
            f"{path} is not a .gguf file, and no directory with the {CONFIG} and .safetensors files of a model"
        )
    try:
        if is_shard(path.name):
            first = expanded.with_name(shard_names(path.name)[0])
            first.stat()
            resolved = first.parent.resolve(strict=True) / first.name
        else:
            resolved = expanded.resolve(strict=True)
        str(resolved).encode()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its links lead nowhere"
        raise InvalidModel(f"cannot open {path}: {reason}") from error
    except ValueError as error:
        raise InvalidModel("the path is not valid UTF-8 text") from error
    return resolved


def _hint(path: Path) -> str | None:
    """What may have been meant by a path to nothing: a file of a repository, as the Hub's pages write it."""
    owner, repository, *rest = (*path.parts, "", "")
    file = "/".join(part for part in rest if part)
    if path.is_absolute() or owner in {"..", "~"} or not file:
        return None
    return f"a file of a repository on the Hub is written `{owner}/{repository}:{file}`"


def fetch(path: Path, report: Report) -> Artifact:
    """The model at `path`, which `locate` returned, with its digests. Raises `InvalidModel` for what is not one."""
    directory = path if path.is_dir() else path.parent
    names = _files(path)
    sizes = {name: _size(directory / name) for name in names}
    total = sum(sizes.values())
    files = []
    before = 0
    for name in names:
        file = directory / name

        def tell(progress: PullProgress, before: int = before) -> None:
            report(PullProgress("verifying", before + progress.completed, total))

        # A file in a directory may be a link, as all are in the Hugging Face cache; what it leads to is what is read.
        sha256, identity = sha256_of(file.resolve() if len(names) > 1 else file, tell)
        files.append(ArtifactFile(name, file, sha256, identity))
        before += sizes[name]
    return Artifact(tuple(files), source=f"file:{path}", owned=False)


def _files(path: Path) -> tuple[str, ...]:
    if not path.is_dir():
        return shard_names(path.name)
    names = tuple(child.name for child in path.iterdir() if child.is_file())
    if not (files := safetensors_files(names)):
        raise InvalidModel(f"{path} holds no .safetensors files beside its {CONFIG}")
    return files


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InvalidModel(f"cannot open {path}: {error.strerror}") from error
