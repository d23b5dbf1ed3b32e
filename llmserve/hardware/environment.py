"""The environment of processes that load native libraries: an allow-list, so that no secret travels with it."""

from __future__ import annotations

from collections.abc import Mapping

_ALLOWED = frozenset(
    {
        # Who and where.
        *("PATH", "HOME", "USER", "LOGNAME", "TZ", "TMPDIR"),
        *("LANG", "LANGUAGE", "LC_ALL", "LC_COLLATE", "LC_CTYPE", "LC_MESSAGES", "LC_NUMERIC", "LC_TIME"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_DIRS", "XDG_CONFIG_HOME", "XDG_DATA_DIRS", "XDG_DATA_HOME"),
        # Where libraries are.
        *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
        # NVIDIA: which devices, and where compiled kernels are kept.
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "CUDA_PATH", "CUDA_MODULE_LOADING"),
        *("CUDA_CACHE_PATH", "CUDA_CACHE_MAXSIZE", "CUDA_CACHE_DISABLE"),
        # AMD.
        *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HSA_OVERRIDE_GFX_VERSION"),
        *("ROCM_PATH", "HIP_PATH"),
        # Vulkan.
        *("GGML_VK_VISIBLE_DEVICES", "VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES"),
        # Placement of threads and the allocator's arenas.
        *("GOMP_CPU_AFFINITY", "OMP_PLACES", "OMP_PROC_BIND", "KMP_AFFINITY", "MALLOC_ARENA_MAX"),
    }
)


def native_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of `environ` a process with native code needs: no key, token, proxy or Python path passes."""
    return {name: value for name, value in environ.items() if name in _ALLOWED}
