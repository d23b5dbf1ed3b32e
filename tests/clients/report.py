"""The table of docs/clients.md: which client did what in this run, and whether that worked."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

CACHE = Path(os.environ.get("LLMSERVE_TEST_CLIENTS", ""))
_BEGIN = "<!-- clients: written by scripts/test-clients -->\n"
_END = "<!-- end -->"
# Each in an environment that has its name, not in that of the tests.
_ELSEWHERE = frozenset({"guidellm", "instructor"})


@dataclass
class Results:
    """What each client was to do, with what became of it: `works`, `FAILS` or a reason for not trying."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, client: str, did: str, result: str) -> None:
        tasks = self.rows.setdefault(client, {})
        # Several tests may be about one thing: it works where all of them do.
        if tasks.get(did, "works") == "works":
            tasks[did] = result

    def write(self, path: Path) -> None:
        """Put the table into the document at `path`, between its two marks."""
        before, _, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
        _, _, after = rest.partition(_END)
        table = "\n".join(self._table())
        path.write_text(f"{before}{_BEGIN}{table}\n{_END}{after}", encoding="utf-8")

    def _table(self) -> Iterator[str]:
        yield "| client | version | what it does here | result |"
        yield "|---|---|---|---|"
        for client, tasks in sorted(self.rows.items()):
            wrong = [f"{did}: {result}" for did, result in tasks.items() if result != "works"]
            yield f"| {client} | {_version(client)} | {'; '.join(tasks)} | {'; '.join(wrong) or 'works'} |"


def _version(client: str) -> str:
    """The installed version of a client, which is called as its package is; npm's have `(Node)` behind the name."""
    name, _, where = client.partition(" (")
    if where == "Node)":
        manifest = CACHE / "node/node_modules" / name / "package.json"
        return str(json.loads(manifest.read_text())["version"]) if manifest.exists() else "not installed"
    if name in _ELSEWHERE:
        code = f"from importlib.metadata import version; print(version({name!r}))"
        python = CACHE / name / "bin/python"
        if not python.exists():
            return "not installed"
        return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return version(name)
