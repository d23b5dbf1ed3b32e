"""What is wrong with a machine for serving models, and the command that mends it. Pure: the facts are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmserve.planning.accelerators import DEVICE_NAMES
from llmserve.planning.formatting import counted, human_bytes, listed
from llmserve.planning.memory import GIB
from llmserve.types import EngineInfo, HardwareInfo

Verdict = Literal["ok", "note", "broken"]

_LITTLE_DISK = 10 * GIB
_NO_DISK = GIB
_LITTLE_MEMORY = 2 * GIB
_FEW_FILES = 1024
# A clock that is behind what has already happened by more than this is wrong, whatever the time zone.
_CLOCK_SLACK_SECONDS = 86_400.0
# A processor reads all weights once for each token of one user: 1 GiB of them at this speed gives ten tokens a second.
_SLOW_MEMORY = 5 * GIB
# Instruction sets for whose lack in a build every prompt pays, by the name of ggml's option.
_WORTH_REBUILDING = ("avx2", "avx512f", "fma", "f16c")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks need besides the hardware; None where a fact could not be found out.

    `home_mode` are the permission bits of the data directory, `port_answer` what listens at the port ("nothing",
    "llmserve" or "another program"), `proxies` the names of the variables that name one, `latest_file` the newest
    modification time among the program's own files and `now` the clock, both in seconds of the epoch;
    `build_features` the instruction sets that the CPU engine was compiled for, `device_files` the GPUs' device files
    that this user may not open.
    """

    home: str
    home_writable: bool
    home_mode: int | None
    disk_free: int | None
    address: str
    port_answer: Literal["nothing", "llmserve", "another program"]
    proxies: tuple[str, ...]
    proxy_spares_loopback: bool
    now: float
    latest_file: float | None
    open_files: int | None
    memory_bytes_per_second: float | None
    build_features: tuple[str, ...]
    device_files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found in a sentence and, unless that is well, the command that mends it."""

    check: str
    verdict: Verdict
    finding: str
    command: str | None = None


def diagnose(hardware: HardwareInfo, around: Surroundings) -> tuple[Finding, ...]:
    """Every check, in the order in which trouble is worth mending."""
    return (
        *_engines(hardware),
        *_gpus(hardware, around),
        _instructions(hardware, around),
        *_limits(hardware),
        _memory(hardware),
        _memory_speed(around),
        _disk(around),
        _home(around),
        _port(around),
        _proxy(around),
        _clock(around),
        _open_files(around),
    )


def _engines(hardware: HardwareInfo) -> Iterator[Finding]:
    llama = next((info for info in hardware.engines if info.engine == "llama.cpp"), None)
    if llama is None or not llama.installed:
        why = "it was not probed" if llama is None else llama.detail
        yield Finding("engine", "broken", f"llama.cpp cannot be used: {why}", "llmserve engines install llama.cpp")
    else:
        yield Finding("engine", "ok", llama.detail or f"llama.cpp {llama.version}")
    # ggml's own words for a build whose driver is missing or does not match.
    for info in hardware.engines:
        if info.installed and "finds no device" in info.detail and hardware.gpus:
            yield Finding(
                "driver",
                "broken",
                f"{info.engine} was built for a GPU and finds none, although {hardware.gpus[0].name} is there: "
                "its driver is missing here, or older than the build needs",
                "llmserve engines install llama.cpp",
            )


def _gpus(hardware: HardwareInfo, around: Surroundings) -> Iterator[Finding]:
    for note in hardware.notes:
        if "differ in version" in note.finding:
            yield Finding("driver", "broken", "the NVIDIA driver and its library differ in version", "sudo reboot")
        elif "the NVIDIA driver is not loaded" in note.finding:
            # The libraries alone prove nothing: containers have them without a GPU.
            finding = "NVIDIA's libraries are installed and its driver is not loaded: well if there is no such GPU"
            yield Finding("driver", "note", finding, "sudo modprobe nvidia")
    if around.device_files:
        files = listed(around.device_files)
        yield Finding("gpu", "broken", f"this user may not open {files}", 'sudo usermod -aG render,video "$USER"')
    llama = next((info for info in hardware.engines if info.engine == "llama.cpp" and info.installed), None)
    for gpu in hardware.gpus:
        if llama is not None and not _drives(llama, gpu.device, hardware.vulkan):
            built = listed([DEVICE_NAMES[device] for device in llama.devices])
            yield Finding(
                "gpu",
                "broken",
                f"{gpu.name} is not used, because llama.cpp was built for {built} only",
                f"llmserve engines install llama.cpp --device {gpu.device}",
            )
        else:
            yield Finding("gpu", "ok", f"{gpu.name} can be used")
    if not hardware.gpus and not around.device_files:
        yield Finding("gpu", "ok", "none was found, so models run on the processor")


def _drives(engine: EngineInfo, device: str, vulkan: bool | None) -> bool:
    return device in engine.devices or ("vulkan" in engine.devices and device != "metal" and vulkan is not False)


def _instructions(hardware: HardwareInfo, around: Surroundings) -> Finding:
    if not around.build_features:
        return Finding("processor", "ok", "the build of llama.cpp chooses its code for this processor when it runs")
    lacking = [
        name for name in _WORTH_REBUILDING if name in hardware.cpu.features and name not in around.build_features
    ]
    if lacking:
        return Finding(
            "processor",
            "note",
            f"the processor has {listed(lacking)}, and llama.cpp was compiled without",
            "llmserve engines install llama.cpp --device cpu",
        )
    return Finding("processor", "ok", "llama.cpp was compiled for this processor's instructions")


def _limits(hardware: HardwareInfo) -> Iterator[Finding]:
    cpu, memory = hardware.cpu, hardware.memory
    if cpu.quota is not None and cpu.quota < 1:
        finding = f"the control group gives {cpu.quota:g} of a processor, so computing stops in every period"
        yield Finding("limits", "note", finding, "docker update --cpus 2 CONTAINER")
    if memory.limit is not None and memory.limit < _LITTLE_MEMORY:
        finding = f"the control group allows {human_bytes(memory.limit)} of memory"
        yield Finding("limits", "note", finding, "docker update --memory 8g --memory-swap 8g CONTAINER")
    quota = "" if cpu.quota is None else f", {cpu.quota:g} by quota"
    limit = "" if memory.limit is None else f", memory limited to {human_bytes(memory.limit)}"
    yield Finding("limits", "ok", f"{counted(cpu.usable_cpus, 'processor')} may be used{quota}{limit}")


def _memory(hardware: HardwareInfo) -> Finding:
    available = hardware.memory.available
    if available is None:
        return Finding("memory", "note", "how much memory is free is not known, so plans cannot count on it")
    if available < _LITTLE_MEMORY:
        finding = f"only {human_bytes(available)} are free, which holds models of up to about a billion parameters"
        return Finding("memory", "note", finding, "ps aux --sort=-rss | head")
    return Finding("memory", "ok", f"{human_bytes(available)} are free")


def _memory_speed(around: Surroundings) -> Finding:
    speed = around.memory_bytes_per_second
    if speed is None:
        return Finding("memory speed", "note", "it could not be measured")
    finding = f"one core reads {human_bytes(int(speed))} in a second"
    if speed < _SLOW_MEMORY:
        return Finding("memory speed", "note", f"{finding}, which is slow: choose small models", "llmserve plan MODEL")
    return Finding("memory speed", "ok", finding)


def _disk(around: Surroundings) -> Finding:
    if around.disk_free is None:
        return Finding("disk", "note", f"how much is free at {around.home} is not known")
    finding = f"{human_bytes(around.disk_free)} are free at {around.home}"
    if around.disk_free < _NO_DISK:
        return Finding("disk", "broken", f"{finding}: no model can be pulled", "llmserve prune")
    if around.disk_free < _LITTLE_DISK:
        return Finding("disk", "note", finding, "llmserve du")
    return Finding("disk", "ok", finding)


def _home(around: Surroundings) -> Finding:
    if not around.home_writable:
        command = f'sudo chown -R "$USER" {around.home}'
        return Finding("permissions", "broken", f"{around.home} is not writable for this user", command)
    if around.home_mode is not None and around.home_mode & 0o077:
        finding = f"others may look into {around.home}, where models and what was asked are kept"
        return Finding("permissions", "note", finding, f"chmod 700 {around.home}")
    return Finding("permissions", "ok", f"{around.home} belongs to this user alone")


def _port(around: Surroundings) -> Finding:
    if around.port_answer == "another program":
        finding = f"another program listens at {around.address}"
        return Finding("port", "broken", finding, "llmserve serve --port 11500")
    words = "a server of llmserve runs" if around.port_answer == "llmserve" else "nobody listens"
    return Finding("port", "ok", f"{words} at {around.address}")


def _proxy(around: Surroundings) -> Finding:
    if not around.proxies:
        return Finding("proxy", "ok", "none is set")
    names = listed(around.proxies)
    if not around.proxy_spares_loopback:
        finding = f"{names} would send other programs' requests for this machine through a proxy"
        return Finding("proxy", "note", finding, "export NO_PROXY=localhost,127.0.0.1,::1")
    return Finding("proxy", "ok", f"{names} set, and this machine is spared")


def _clock(around: Surroundings) -> Finding:
    if around.latest_file is not None and around.now < around.latest_file - _CLOCK_SLACK_SECONDS:
        finding = "the clock is behind files that exist already, so certificates of servers will look wrong"
        return Finding("clock", "broken", finding, "sudo timedatectl set-ntp true")
    return Finding("clock", "ok", "not behind what has happened already")


def _open_files(around: Surroundings) -> Finding:
    if around.open_files is not None and around.open_files < _FEW_FILES:
        finding = f"{around.open_files} files may be open, fewer than many clients need"
        return Finding("open files", "note", finding, f"ulimit -n {4 * _FEW_FILES}")
    return Finding("open files", "ok", "as many as many clients need")
