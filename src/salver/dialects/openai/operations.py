"""Operations of OpenAI's routes: find the model, run the request, deliver the answer whole or as events."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from salver.dialects.openai.faults import openai_fault
from salver.dialects.openai.routes import OPERATIONS, find, is_openai
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps
from salver.lazy import lazy_imports
from salver.transport.calls import RequestContext
from salver.transport.ports import Control, InferDoor
from salver.transport.routes import Endpoint, HttpTable, Route, Write
from salver.words.artifacts import LoadOrder
from salver.words.errors import Cancelled, InvalidInput, SalverError
from salver.words.messages import Call
from salver.words.releases import trait

with lazy_imports():
    from salver.dialects.openai.answers import Usage
    from salver.dialects.openai.codec import EmbeddingCodec, GenerationCodec, embeddings, rows_of
    from salver.dialects.openai.model_list import list_models
    from salver.dialects.openai.requests import parse_chat, parse_completion, parse_embedding
    from salver.dialects.openai.resolved_model import ChatSettings, ResolvedModel
    from salver.dialects.openai.transcription import TranscriptionCodec, parse_transcription
    from salver.encoding.model_entries import openai_model


#: Concurrent runs of one request for embeddings.
_AT_ONCE: Final = 8


class OpenAiOperations:
    """Operations of one server.

    Args:
        resolve: Returns the model that a name stands for; raises NotFound or NotReady.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        resolve: Callable[[str], ResolvedModel],
        context: RequestContext,
    ) -> None:
        self._door = door
        self._decoders = context.decoders
        self._server = context.server_name, context.began
        self._control = control
        self._resolve = resolve

    def table(self) -> HttpTable:
        """Return the operations."""
        endpoints = {
            "chat": Endpoint(stream=self._generate, is_large=True),
            "completions": Endpoint(stream=self._generate, is_large=True),
            "embeddings": Endpoint(self._embed, is_large=True),
            "transcriptions": Endpoint(self._transcribe, is_large=True),
            "translations": Endpoint(self._transcribe, is_large=True),
            "list_v1": Endpoint(self._list, filters=True),
            "load_v1": Endpoint(self._load),
            "unload_v1": Endpoint(self._unload),
        }
        return HttpTable(OPERATIONS, endpoints, openai_fault, is_openai, find)

    async def _generate(self, route: Route, http: HttpBody, call: Call, write: Write) -> HttpReply | None:
        """Generate text: return the reply, or None once ``write`` has got it in pieces."""
        call.protocol = GenerationCodec.protocol
        try:
            codec, resolved = await self._parse_generation(route, http, call)
        except SalverError as error:
            return openai_fault(error)
        is_stream = bool(codec.request.stream)

        async def forward(reply: HttpReply) -> None:
            # An error before the first event is returned with its own status.
            if is_stream and codec.has_begun:
                await write(reply)

        fault: HttpReply | None = await self._door.stream(codec, http, resolved.model, "", call, forward)
        if fault is not None or codec.failed is not None:
            if is_stream and codec.has_begun:
                return None
            return codec.failed or fault
        charge = call.charge
        codec.charges_tokens = charge is not None and charge.counts_tokens
        counted = await _count(codec.uncounted, codec.settings)
        if charge is not None and (usage := codec.usage or counted) is not None:
            charge.add((usage.prompt_tokens, usage.completion_tokens))
        if not is_stream:
            return codec.whole(counted)
        with contextlib.suppress(Cancelled):  # the answer is complete, and its reader is gone
            await write(codec.end(counted))
        return None

    async def _parse_generation(
        self, route: Route, http: HttpBody, call: Call
    ) -> tuple[GenerationCodec, ResolvedModel]:
        """Return the codec of a request; of a large one, the prompt is made here, off the loop."""
        is_large = call.is_large
        parse: Callable[[bytes], Any] = parse_completion
        prefix = "cmpl"
        if route.operation == "chat":
            parse, prefix = parse_chat, "chatcmpl"
        request = await self._parse(parse, http.body, call)
        resolved = self._resolved(request.model, call)
        _note_user(call, request.user)
        id = f"{prefix}-{uuid.uuid4().hex}"
        codec = GenerationCodec(request, resolved, id, int(time.time()), lambda: uuid.uuid4().hex)
        if is_large:
            _, signature = self._door.signature(resolved.model)
            with contextlib.suppress(SalverError):  # raised again by the data plane, which counts it
                await asyncio.to_thread(codec.decode, http, signature)
        return codec, resolved

    def _resolved(self, name: str, call: Call) -> ResolvedModel:
        """Return the model of a name. Raises Forbidden whether it exists or not; NotFound, NotReady."""
        if call.grant is not None:
            call.grant.check(name)
        return self._resolve(name)

    async def _parse(self, parse: Callable[[bytes], Any], body: bytes, call: Call) -> Any:
        """Parse a body, a large one in a process for decoding."""
        if not call.is_large:
            return parse(body)
        call.is_large = False  # the data plane need not decode it elsewhere
        if self._decoders:
            return await self._decoders.call(parse, body)
        return parse(body)

    async def _embed(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        call.protocol = EmbeddingCodec.protocol
        try:
            request = await self._parse(parse_embedding, http.body, call)
            resolved = self._resolved(request.model, call)
            _note_user(call, request.user)
            if resolved.lora:
                raise InvalidInput(f"model '{resolved.model}' accepts no LoRA for embeddings", field="model")
            _, signature = self._door.signature(resolved.model)
        except SalverError as error:
            return openai_fault(error)
        texts = request.texts
        rows = rows_of(signature) or len(texts)
        runs = [EmbeddingCodec(request, resolved, texts[at : at + rows]) for at in range(0, len(texts), rows)]
        failed = await self._run(runs, http, resolved.model, call)
        if failed is not None:
            return failed
        counts = [run.tokens for run in runs]
        tokens: int | None = None
        if None not in counts:
            tokens = sum(filter(None, counts))
        elif resolved.settings.count is not None:
            plain = [text for text in texts if isinstance(text, str)]
            tokens = await asyncio.to_thread(lambda: sum(map(resolved.settings.count or len, plain)))
        return embeddings(request, [vector for run in runs for vector in run.vectors], tokens)

    async def _transcribe(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        call.protocol = TranscriptionCodec.protocol
        call.is_large = False  # a form is cut into views, which takes no time
        try:
            request = parse_transcription(http, translates=route.operation == "translations")
            resolved = self._resolved(request.model, call)
        except SalverError as error:
            return openai_fault(error)
        reply: HttpReply = await self._door.infer(TranscriptionCodec(request), http, resolved.model, "", call)
        return reply

    async def _run(
        self, runs: Sequence[EmbeddingCodec], http: HttpBody, model: str, call: Call
    ) -> HttpReply | None:
        """Return the first error, or None once all runs have their vectors."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(run: EmbeddingCodec) -> HttpReply | None:
            async with turns:
                mine = msgspec.structs.replace(call) if len(runs) > 1 else call
                fault: HttpReply | None = await self._door.stream(run, http, model, "", mine, _keep)
                if mine.charge is not None and run.tokens:
                    mine.charge.add((run.tokens, 0))
                return run.failed or fault

        if len(runs) == 1:
            return await one(runs[0])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(run)) for run in runs]
        return next((failed for task in tasks if (failed := task.result()) is not None), None)

    async def _list(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        statuses = [status for status in self._control.statuses() if call.may_see(status.id.name)]
        more: dict[str, Sequence[str]] = {}
        for name in dict.fromkeys(status.id.name for status in statuses):
            with contextlib.suppress(SalverError):
                more[name] = self._resolve(name).names[1:]
        return HttpReply(200, dumps(list_models(statuses, *self._server, more)))

    async def _load(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        await self._control.load(route.model, LoadOrder())
        return HttpReply(200, dumps(openai_model(route.model, *self._server)))

    async def _unload(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        await self._control.unload(route.model, waits=True)
        return HttpReply(200, dumps({"status": "success", "model": route.model}))


def _note_user(call: Call, user: str | None) -> None:
    """Make OpenAI's ``user`` the parameter of that name, so that splits can use it."""
    if user:
        call.traits = {"parameter:user": trait(user), **(call.traits or {})}


async def _keep(reply: HttpReply) -> None:
    """Discard a reply: the codec keeps what it needs."""


async def _count(texts: tuple[str, str] | None, settings: ChatSettings) -> Usage | None:
    count = settings.count
    if texts is None or count is None:
        return None
    return Usage(*await asyncio.to_thread(lambda: tuple(map(count, texts))))
