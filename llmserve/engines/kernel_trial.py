"""A trial of llama.cpp's own arithmetic: one product with a quantized matrix, as every step of a model computes many.

A build may load and list its devices, and die or err in its first step all the same: compiled for another processor, or
by a compiler that gets an instruction set wrong (docs/engines.md, AMX). The trial goes through ggml's interface for
backends (`ggml-backend.h`): the matrix is laid out in each of the ways that the CPU backend has, its ordinary one and
those of its faster kernels (repacked blocks, AMX), and multiplied wherever the backend says it can.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from llmserve.engines.native import function
from llmserve.hardware.failure import ProbeFailed

# Whole tiles of every kernel: AMX takes 32 rows at once, the widest repacked layout 64.
_COLUMNS, _ROWS, _TOKENS = 256, 64, 32
# ggml's `GGML_TYPE_F32`, `GGML_TYPE_Q4_0` and `GGML_BACKEND_DEVICE_TYPE_CPU`.
_F32, _Q4_0, _CPU = 0, 2, 0
# A block of Q4_0: a scale (1.0 in half precision), then 32 numbers of 4 bits of which 8 is zero, so that all are 1.
_BLOCK_OF_ONES = b"\x00\x3c" + b"\x99" * 16
_BLOCK_LENGTH = 32
# The other factor is rounded to 8 bits on the way.
_TOLERANCE = 0.01
_CONTEXT_BYTES = 2**20

_HANDLE = ctypes.c_void_p


class _Parameters(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def try_kernels(library: ctypes.CDLL) -> None:
    """Multiply with every kernel for processors that `library` (libllama, its backends loaded) has.

    Native code that may end the process: run it in a child. Raises `ProbeFailed` for a wrong product, `AttributeError`
    for a function that this version does not have.
    """
    backend = function(library, "ggml_backend_init_by_type", _HANDLE, ctypes.c_int, ctypes.c_char_p)(_CPU, None)
    if backend is None:
        return
    device = function(library, "ggml_backend_get_device", _HANDLE, _HANDLE)(backend)
    for layout in _layouts(library, device):
        _multiply(library, backend, device, layout)
    function(library, "ggml_backend_free", None, _HANDLE)(backend)


def _layouts(library: ctypes.CDLL, device: int) -> Iterator[int]:
    """The device's buffer types: its ordinary one, and those that its `ggml_backend_dev_get_extra_bufts` lists."""
    yield function(library, "ggml_backend_dev_buffer_type", _HANDLE, _HANDLE)(device)
    registry = function(library, "ggml_backend_dev_backend_reg", _HANDLE, _HANDLE)(device)
    find = function(library, "ggml_backend_reg_get_proc_address", _HANDLE, _HANDLE, ctypes.c_char_p)
    if address := find(registry, b"ggml_backend_dev_get_extra_bufts"):
        # An array that ends with a null pointer.
        listed = ctypes.CFUNCTYPE(ctypes.POINTER(_HANDLE), _HANDLE)(address)(device)
        index = 0
        while listed and (layout := listed[index]):
            yield layout
            index += 1


def _multiply(library: ctypes.CDLL, backend: int, device: int, layout: int) -> None:
    """Ones times ones, the matrix in a buffer of the type `layout`. Raises `ProbeFailed` where the sums are wrong."""
    context = function(library, "ggml_init", _HANDLE, _Parameters)(_Parameters(_CONTEXT_BYTES, None, True))
    tensor = function(library, "ggml_new_tensor_2d", _HANDLE, _HANDLE, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    matrix, vectors = tensor(context, _Q4_0, _COLUMNS, _ROWS), tensor(context, _F32, _COLUMNS, _TOKENS)
    size = function(library, "ggml_backend_buft_get_alloc_size", ctypes.c_size_t, _HANDLE, _HANDLE)(layout, matrix)
    weights = function(library, "ggml_backend_buft_alloc_buffer", _HANDLE, _HANDLE, ctypes.c_size_t)(layout, size)
    base = function(library, "ggml_backend_buffer_get_base", _HANDLE, _HANDLE)(weights)
    function(library, "ggml_backend_tensor_alloc", ctypes.c_int, _HANDLE, _HANDLE, _HANDLE)(weights, matrix, base)
    product = function(library, "ggml_mul_mat", _HANDLE, _HANDLE, _HANDLE, _HANDLE)(context, matrix, vectors)
    if function(library, "ggml_backend_dev_supports_op", ctypes.c_bool, _HANDLE, _HANDLE)(device, product):
        others = function(library, "ggml_backend_alloc_ctx_tensors", _HANDLE, _HANDLE, _HANDLE)(context, backend)
        _set(library, matrix, _BLOCK_OF_ONES * (_COLUMNS // _BLOCK_LENGTH * _ROWS))
        _set(library, vectors, bytes((ctypes.c_float * (_COLUMNS * _TOKENS))(*[1.0] * (_COLUMNS * _TOKENS))))
        graph = function(library, "ggml_new_graph", _HANDLE, _HANDLE)(context)
        function(library, "ggml_build_forward_expand", None, _HANDLE, _HANDLE)(graph, product)
        status = function(library, "ggml_backend_graph_compute", ctypes.c_int, _HANDLE, _HANDLE)(backend, graph)
        sums = _floats(library, product, _ROWS * _TOKENS)
        if status != 0 or any(abs(found - _COLUMNS) > _COLUMNS * _TOLERANCE for found in sums):
            name = function(library, "ggml_backend_buft_name", ctypes.c_char_p, _HANDLE)(layout).decode()
            raise ProbeFailed(f"its kernels for {name} compute wrong results on this processor")
        function(library, "ggml_backend_buffer_free", None, _HANDLE)(others)
    function(library, "ggml_backend_buffer_free", None, _HANDLE)(weights)
    function(library, "ggml_free", None, _HANDLE)(context)


def _set(library: ctypes.CDLL, tensor: int, data: bytes) -> None:
    put = function(library, "ggml_backend_tensor_set", None, _HANDLE, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t)
    put(tensor, data, 0, len(data))


def _floats(library: ctypes.CDLL, tensor: int, count: int) -> list[float]:
    found = (ctypes.c_float * count)()
    get = function(library, "ggml_backend_tensor_get", None, _HANDLE, _HANDLE, ctypes.c_size_t, ctypes.c_size_t)
    get(tensor, ctypes.addressof(found), 0, ctypes.sizeof(found))
    return list(found)
