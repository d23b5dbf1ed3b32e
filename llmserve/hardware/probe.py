"""The whole machine: every probe at once, and a sentence for each."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from llmserve.hardware.cpu import read_cpu
from llmserve.hardware.failure import ProbeFailed
from llmserve.hardware.memory import read_memory
from llmserve.hardware.metal import probe_metal
from llmserve.hardware.nvidia import probe_nvidia
from llmserve.hardware.rocm import probe_rocm
from llmserve.hardware.vulkan import VulkanPresence, read_vulkan
from llmserve.types import CpuInfo, EngineInfo, GpuInfo, HardwareInfo, MemoryInfo, ProbeNote

T = TypeVar("T")

# A probe keeps its own time-out; this long after it, whatever still runs (a file that hangs) is left behind.
GRACE_SECONDS = 1.0


def probe_machine(*, timeout: float = 5.0, engines: tuple[EngineInfo, ...] = ()) -> HardwareInfo:
    """Probe this machine. Blocks about as long as the slowest probe, at most a second over `timeout`.

    No machine makes it raise: a probe that fails leaves its facts unknown and its reason in `notes`.
    """
    system, environ = sys.platform, os.environ
    deadline = time.monotonic() + timeout + GRACE_SECONDS
    gpu_probes = {
        "nvml": in_thread(lambda: probe_nvidia(timeout=timeout, system=system, environ=environ)),
        "rocm": in_thread(lambda: probe_rocm(timeout=timeout, system=system, environ=environ)),
        "metal": in_thread(lambda: probe_metal(timeout=timeout, system=system)),
    }
    vulkan_probe = in_thread(lambda: read_vulkan(system=system, environ=environ))
    memory_probe = in_thread(lambda: read_memory(system=system))
    cpu = read_cpu(system=system, timeout=timeout)
    notes = [ProbeNote("cpu", describe_cpu(cpu))]

    def settle(name: str, future: Future[T], absent: T, describe: Callable[[T], str]) -> T:
        try:
            found = outcome(future, deadline)
        except ProbeFailed as failure:
            notes.append(ProbeNote(name, f"none, because {failure}"))
            return absent
        notes.append(ProbeNote(name, describe(found)))
        return found

    memory = settle("memory", memory_probe, MemoryInfo(None, None, None), describe_memory)
    gpus: tuple[GpuInfo, ...] = ()
    for name, future in gpu_probes.items():
        gpus += settle(name, future, (), describe_gpus)
    vulkan = settle("vulkan", vulkan_probe, VulkanPresence(None, ""), lambda presence: presence.finding)
    return with_engines(HardwareInfo(system, cpu, memory, gpus, vulkan.present, (), tuple(notes)), engines)


def with_engines(hardware: HardwareInfo, engines: tuple[EngineInfo, ...]) -> HardwareInfo:
    """`hardware` with these engines and a note for each."""
    notes = tuple(
        ProbeNote(info.engine, info.detail if info.installed else f"none, because {info.detail}") for info in engines
    )
    return dataclasses.replace(hardware, engines=hardware.engines + engines, notes=hardware.notes + notes)


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Run `call` in a daemon thread: one that hangs does not keep the program from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # handed to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def outcome(future: Future[T], deadline: float) -> T:
    """The result, or the exception raised. Raises `ProbeFailed` when there is none at `deadline` (monotonic)."""
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise ProbeFailed("the probe did not answer in time") from None
    except OSError as error:
        raise ProbeFailed(f"{error.filename or 'a file'} cannot be read: {error.strerror}") from error


def describe_cpu(cpu: CpuInfo) -> str:
    """For example "AMD EPYC 7713, 8 of 16 CPUs usable (quota 8)"."""
    of = "" if cpu.logical_cpus is None else f" of {cpu.logical_cpus}"
    quota = "" if cpu.quota is None else f" (quota {cpu.quota:g})"
    return f"{cpu.model or cpu.architecture}, {cpu.usable_cpus}{of} CPUs usable{quota}"


def describe_memory(memory: MemoryInfo) -> str:
    """For example "15.4 GiB, of which 10.7 GiB are available"."""
    limit = "" if memory.limit is None else f" (limit {_size(memory.limit)})"
    return f"{_size(memory.total)}, of which {_size(memory.available)} are available{limit}"


def describe_gpus(gpus: tuple[GpuInfo, ...]) -> str:
    """For example "Tesla T4 (15.0 GiB, of which 14.6 GiB are free)"."""
    return ", ".join(
        f"{gpu.name} ({_size(gpu.total_memory)}, of which {_size(gpu.free_memory)} are free)" for gpu in gpus
    )


def _size(size: int | None) -> str:
    return "an unknown amount" if size is None else f"{size / 2**30:.1f} GiB"
