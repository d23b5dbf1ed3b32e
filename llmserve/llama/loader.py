"""Brings a model up in a thread, so that the worker answers `/health` while it loads."""

from __future__ import annotations

import asyncio
from pathlib import Path

from llmserve.llama.chat_template import CHATML, ChatTemplate
from llmserve.llama.constraint import ConstraintFactory
from llmserve.llama.engine import Engine
from llmserve.llama.prompt import PromptBuilder
from llmserve.llama.scheduler import Limits, Scheduler
from llmserve.llama.service import ModelFacts, Service
from llmserve.llama.step_budget import StepBudget
from llmserve.types import EnginePlan

# Slots for finished sequences beside the running ones, so that their prefixes can be shared.
_IDLE_SLOTS = 32
_MOST_SLOTS = 256
# Cells that finished sequences may keep. Attention on a CPU walks over every used cell, whoever owns it, so a large
# idle part slows each token; a long shared prefix is kept all the same while it is the newest.
_IDLE_CELLS_CPU = 4096


class Loader:
    """`service` is None until the model is ready; `progress` runs from 0 to 1 before that."""

    def __init__(self, name: str, path: Path, plan: EnginePlan) -> None:
        self._name = name
        self._path = path
        self._plan = plan
        self.progress = 0.0
        self.service: Service | None = None

    async def load(self) -> None:
        """Load the model and start its engine. Raises `InvalidModel` where llama.cpp or a check refuses it."""
        loop = asyncio.get_running_loop()
        self.service = await asyncio.to_thread(self._bring_up, loop)

    def close(self) -> None:
        if self.service is not None:
            self.service.close()
            self.service.engine.close()

    def _bring_up(self, loop: asyncio.AbstractEventLoop) -> Service:
        from llmserve.llama.runner import Runner

        plan = self._plan
        slots = min(_MOST_SLOTS, plan.parallel + _IDLE_SLOTS)
        runner = Runner(self._path, plan, slots, self._report)
        vocabulary = runner.vocabulary
        limits = Limits(
            parallel=min(plan.parallel, slots - 1),
            slots=slots,
            cells=runner.cells,
            idle_cells=runner.cells if plan.gpu_layers else min(runner.cells, _IDLE_CELLS_CPU),
            shares_prefixes=runner.shares_prefixes,
        )
        engine = Engine(
            runner,
            Scheduler(limits, StepBudget(plan.batch)),
            vocabulary.piece,
            vocabulary.ends,
            loop.call_soon_threadsafe,
        )
        context = min(plan.context, runner.cells)
        template = ChatTemplate(
            runner.chat_template or CHATML, bos=vocabulary.text(vocabulary.bos), eos=vocabulary.text(vocabulary.eos)
        )
        facts = ModelFacts(self._name, context, vocabulary.size, vocabulary.ends)
        constraints = ConstraintFactory(runner.grammar_tokenizer, vocabulary.size)
        runner.warm_up()
        engine.start()
        return Service(engine, facts, PromptBuilder(vocabulary, template, context), constraints)

    def _report(self, progress: float) -> None:
        self.progress = progress
