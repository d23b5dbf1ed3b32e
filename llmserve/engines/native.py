"""A function of a native library, with its C types."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast


def function(library: ctypes.CDLL, name: str, result: type[Any] | None, *arguments: type[Any]) -> Callable[..., Any]:
    """The function `name`, of these types. Raises `AttributeError` where neither the library nor one that it needs has
    it."""
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return cast("Callable[..., Any]", found)
