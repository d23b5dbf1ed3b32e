"""The plan for every machine and every GGUF model, number by number.

A row of `plans.csv` changes only when a rule does; the reasons for the rules are in `llmserve.planning.rules` and its
callers, and `test_invariants.py` checks independently that no row could be better.
"""

from __future__ import annotations

import pytest

from tests.planning.machines import NAMES
from tests.planning.models import GGUF_MODELS
from tests.planning.table import Row, read, row

EXPECTED = read()


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda row: f"{row.machine}-{row.model}")
def test_plan(expected: Row) -> None:
    assert row(expected.machine, expected.model) == expected


def test_the_table_has_every_machine_with_every_model() -> None:
    assert [(row.machine, row.model) for row in EXPECTED] == [(name, model) for name in NAMES for model in GGUF_MODELS]
    assert len(NAMES) >= 30
    assert len(GGUF_MODELS) >= 12
