"""How a probe says that it found nothing."""

from __future__ import annotations


class ProbeFailed(Exception):
    """A probe came back with nothing; `str(error)` completes the sentence "none, because ...".

    Not part of the tree in `llmserve.errors`: it never reaches a user, it becomes a `ProbeNote`.
    """
