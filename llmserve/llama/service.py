"""One model behind the internal protocol: requests become jobs, jobs become answers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from llmserve.errors import InvalidRequest, TooManyRequests
from llmserve.llama.adapter_sets import Adapters
from llmserve.llama.chat_output import ChatOutput, ModelOutput
from llmserve.llama.choice_output import ChoiceOutput
from llmserve.llama.constraint import Constraint, ConstraintFactory
from llmserve.llama.content_scores import ContentScores
from llmserve.llama.draft import Drafter
from llmserve.llama.engine import Engine
from llmserve.llama.generation import Delta, Failure, Generation, Job
from llmserve.llama.grammar import Grammar
from llmserve.llama.model_defaults import SamplingChoices
from llmserve.llama.prefix_keeper import PrefixKeeper
from llmserve.llama.prompt import PromptBuilder
from llmserve.llama.sampler import Sampler, SamplingParameters
from llmserve.llama.sequence import Sequence as TokenSequence
from llmserve.llama.speculation import Experience, Speculation
from llmserve.llama.text_output import Echo, TextOutput
from llmserve.llama.text_stream import TextStream
from llmserve.openai.adapters import split_adapter
from llmserve.openai.requests import ChatRequest, CompletionRequest, SamplingRequest
from llmserve.openai.responses import Usage

# The gateway bounds its queues; this only keeps a worker that somebody else talks to from growing without end.
_MOST_WAITING = 2048


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the service needs to know of the loaded model.

    `context` is the longest one sequence may become. `piece` gives the bytes a token shows, and `spelling` those of
    control tokens too; both may be called from any thread.
    `sampling` is what the model's file states of how its tokens are chosen. `drafts`: answers are drafted ahead from
    their own text. `adapters` are those that a request may name.
    """

    name: str
    context: int
    vocabulary_size: int
    ends: tuple[int, ...]
    piece: Callable[[int], bytes]
    spelling: Callable[[int], bytes]
    sampling: SamplingChoices
    drafts: bool = False
    adapters: Adapters = field(default_factory=Adapters)


class Answer:
    """A submitted request: its deltas as they come, and its figures. Used on the event loop only.

    `outputs` read the text of the answers, one each.
    Whoever holds it must call `close`, however it ends; that cancels what is still being computed.
    """

    def __init__(
        self,
        engine: Engine,
        generations: Sequence[Generation],
        prompts: int,
        outputs: Sequence[ChoiceOutput | TextOutput],
    ) -> None:
        self._engine = engine
        self._generations = generations
        self._prompts = prompts
        self.outputs = outputs
        self._arrived: deque[Delta | Failure] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._unfinished = len(generations)
        self._job = Job(generations, self._deliver)
        engine.submit(self._job)

    @property
    def choices(self) -> int:
        return len(self._generations)

    async def deltas(self) -> AsyncIterator[list[Delta]]:
        """All deltas, in batches of what one wake-up finds, until every choice has finished.

        Raises the engine's error if the request fails.
        """
        while self._unfinished:
            if not self._arrived:
                self._wake = asyncio.get_running_loop().create_future()
                await self._wake
            batch: list[Delta] = []
            while self._arrived:
                event = self._arrived.popleft()
                if isinstance(event, Failure):
                    raise event.error
                batch.append(event)
                self._unfinished -= event.finish_reason is not None
            yield batch

    def stop_string(self, index: int) -> str | None:
        """The stop string that the choice `index` met, if one."""
        return self._generations[index].text.stopped_by

    def usage(self) -> Usage:
        """Tokens so far. A prompt answered `n` times counts once; its cached tokens are those of the first answer."""
        firsts = self._generations[:: len(self._generations) // self._prompts]
        return Usage(
            prompt_tokens=sum(generation.sequence.prompt_length for generation in firsts),
            completion_tokens=sum(generation.sequence.generated for generation in self._generations),
            cached_tokens=sum(generation.sequence.cached or 0 for generation in firsts),
            reasoning_tokens=sum(output.reasoning_tokens for output in self.outputs),
        )

    def timings(self) -> dict[str, float]:
        """llama.cpp's `timings`: tokens, milliseconds and tokens per second of prompt and answer."""
        usage = self.usage()
        now = time.monotonic()
        started = min((g.started for g in self._generations if g.started is not None), default=now)
        first = min((g.first_token for g in self._generations if g.first_token is not None), default=now)
        prompt_ms = (first - started) * 1000
        predicted_ms = (now - first) * 1000
        # The first token comes out of the prompt's own step, so the answer's time covers the others.
        written = max(0, usage.completion_tokens - len(self._generations))
        return {
            "prompt_n": usage.prompt_tokens - usage.cached_tokens,
            "cache_n": usage.cached_tokens,
            "prompt_ms": round(prompt_ms, 3),
            "predicted_n": usage.completion_tokens,
            "predicted_ms": round(predicted_ms, 3),
            "predicted_per_second": round(written / predicted_ms * 1000, 3) if predicted_ms > 0 else 0.0,
        }

    def close(self) -> None:
        """Cancel what is unfinished. May be called twice."""
        if self._unfinished:
            self._unfinished = 0
            self._engine.cancel(self._job)

    def _deliver(self, event: Delta | Failure) -> None:
        self._arrived.append(event)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


class Service:
    """Turns validated requests into answers. Prompts are prepared in one thread beside the event loop.

    `prefixes` brings back from the disk what prompts go on from; None: nothing is kept there.
    """

    def __init__(
        self,
        engine: Engine,
        model: ModelFacts,
        output: ModelOutput,
        prompts: PromptBuilder,
        constraints: ConstraintFactory,
        prefixes: PrefixKeeper | None = None,
    ) -> None:
        self.model = model
        self.engine = engine
        self.prefixes = prefixes
        self._output = output
        self._prompts = prompts
        self._constraints = constraints
        self._drafted = Experience()
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="prepare")
        # Of its own, so that nobody's prompt waits for another's grammar.
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="compile")

    async def chat(self, request: ChatRequest) -> Answer:
        """Raises `InvalidRequest`, `ContextLengthExceeded`, `TooManyRequests` or, where the model has no such adapter,
        `AdapterNotFound` before anything is computed."""
        self._check_room()
        loop = asyncio.get_running_loop()
        output = ChatOutput(self._output, request)

        def prepare() -> tuple[str, list[Generation]]:
            prompt = self._prompts.chat(output.chat)
            return prompt.ending, self._generations(request, [prompt.tokens])

        ending, generations = await loop.run_in_executor(self._preparing, prepare)
        constraint = await self._compile(lambda: output.grammars, lambda: output.promised)
        outputs = [output.choice(ending, constraint.fork() if constraint else None) for _ in generations]
        for generation, choice in zip(generations, outputs, strict=True):
            generation.shown = output.shown
            generation.follow(choice.rule)
            choice.scores = ContentScores(self.model.spelling) if generation.top is not None else None
        await self._bring_prefixes(generations[:1])
        return Answer(self.engine, generations, 1, outputs)

    async def complete(self, request: CompletionRequest) -> Answer:
        """Likewise; the choices of several prompts stand behind each other, `n` for each."""
        self._check_room()
        loop = asyncio.get_running_loop()

        def prepare() -> tuple[list[Generation], list[TextOutput]]:
            size, spelling = self.model.vocabulary_size, self.model.spelling
            prompts = [
                self._prompts.infill(prompt, request.suffix, size)
                if request.suffix
                else self._prompts.completion(prompt, size)
                for prompt in request.prompt
            ]
            piece = spelling if request.logprobs is not None else None
            asked: Sequence[str | Sequence[int]] = request.prompt
            outputs = [
                TextOutput(Echo.of(prompt, tokens, spelling) if request.echo else None, piece)
                for prompt, tokens in zip(asked, prompts, strict=True)
                for _ in range(request.n)
            ]
            generations = self._generations(request, prompts)
            for generation in generations:
                generation.sequence.scores_prompt = request.echo and request.logprobs is not None
            return generations, outputs

        generations, outputs = await loop.run_in_executor(self._preparing, prepare)
        grammar = Grammar.of_request(request.response_format, request.structured_outputs)
        constraint = await self._compile(lambda: [grammar] if grammar is not None else [])
        for generation in generations:
            generation.follow(constraint.fork() if constraint is not None else None)
        await self._bring_prefixes(generations[:: request.n])
        return Answer(self.engine, generations, len(request.prompt), outputs)

    def close(self) -> None:
        """Blocks while prefixes are written; the engine must still run."""
        if self.prefixes is not None:
            self.prefixes.close()
        self._preparing.shutdown(wait=False, cancel_futures=True)
        self._compiling.shutdown(wait=False, cancel_futures=True)

    def _check_room(self) -> None:
        if self.engine.waiting >= _MOST_WAITING:
            raise TooManyRequests("too many requests are waiting for this model", retry_after=1)

    async def _bring_prefixes(self, generations: Sequence[Generation]) -> None:
        if self.prefixes is None:
            return
        for generation in generations:
            if not generation.sequence.scores_prompt:
                await self.prefixes.bring(generation.sequence.tokens, generation.sequence.adapter)

    async def _compile(
        self, grammars: Callable[[], Sequence[Grammar]], parts: Callable[[], Sequence[Grammar]] = tuple
    ) -> Constraint | None:
        """The first of `grammars` that can be compiled. Where none can, the refusal of one of the `parts`, or of the
        last one."""

        def compile_first() -> Constraint | None:
            *preferred, last = grammars() or (None,)
            for grammar in preferred:
                with contextlib.suppress(InvalidRequest):
                    return self._constraints.compile(grammar)
            try:
                return self._constraints.compile(last) if last is not None else None
            except InvalidRequest:
                for part in parts():
                    self._constraints.compile(part)
                raise

        return await asyncio.get_running_loop().run_in_executor(self._compiling, compile_first)

    def _generations(self, request: SamplingRequest, prompts: Sequence[list[int]]) -> list[Generation]:
        """The answers to be written, `n` for each prompt. Slow where samplers look through long prompts."""
        parameters = self._parameters(request)
        adapter = self.model.adapters.number(self.model.name, split_adapter(request.model)[1])
        max_tokens = self.model.context if request.max_tokens is None else request.max_tokens
        return [
            Generation(
                index=prompt_index * request.n + index,
                sequence=self._sequence(prompt, max_tokens, adapter, streamed=request.stream),
                sampler=Sampler(parameters, prompt, index, self.model.piece),
                text=TextStream(request.stop),
                max_tokens=max_tokens,
                top=request.reported_alternatives,
            )
            for prompt_index, prompt in enumerate(prompts)
            for index in range(request.n)
        ]

    def _sequence(self, prompt: list[int], max_tokens: int, adapter: int, *, streamed: bool) -> TokenSequence:
        longest = min(self.model.context, len(prompt) + max(1, max_tokens))
        if not self.model.drafts or max_tokens <= 1:
            return TokenSequence(list(prompt), len(prompt), longest, streamed, adapter=adapter)
        drafter = Drafter(ends=frozenset(self.model.ends))
        drafter.propose(prompt, 0)  # indexes the prompt here, where nobody waits for the next step
        speculation = Speculation(drafter, self._drafted)
        return TokenSequence(list(prompt), len(prompt), longest, streamed, speculation=speculation, adapter=adapter)

    def _parameters(self, request: SamplingRequest) -> SamplingParameters:
        bias = request.logit_bias or {}
        for token in bias:
            if token >= self.model.vocabulary_size:
                raise InvalidRequest(
                    f"token {token} is outside the vocabulary of {self.model.vocabulary_size}", param="logit_bias"
                )
        banned = self.model.ends if request.ignore_eos else ()
        return SamplingChoices.of(request).or_else(self.model.sampling).parameters(bias, banned, request.seed)
