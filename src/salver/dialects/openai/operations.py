"""What each of OpenAI's routes does.

It finds the model that a request names, asks it through the door, and hands the answer on, whole or as a
stream of events. ``dialects/openai/codec.py`` reads requests and writes answers.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from salver.dialects.openai.answers import Usage
from salver.dialects.openai.codec import Embedding, Generating, embeddings, rows_of
from salver.dialects.openai.faults import openai_fault
from salver.dialects.openai.model_list import list_models
from salver.dialects.openai.requests import parse_chat, parse_completion, parse_embedding
from salver.dialects.openai.routes import OPERATIONS, find, is_openai
from salver.dialects.openai.voice import Spoken, Voice
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps
from salver.encoding.model_entries import openai_model
from salver.kernel.serving.decoding import Decoders
from salver.transport.ports import Control, InferDoor
from salver.transport.routes import Endpoint, HttpTable, Route, Write
from salver.words.artifacts import LoadOrder
from salver.words.errors import Cancelled, InvalidInput, SalverError
from salver.words.messages import Call
from salver.words.releases import trait

#: Runs of one request for embeddings that are under way at a time.
_AT_ONCE: Final = 8


class OpenAiOperations:
    """The operations of one server.

    Args:
        speech: Returns what a name means; raises NotFound or NotReady.
        owner: What the server calls itself.
        created: Unix seconds since which it serves.
        decoders: Parse large bodies; None = as small ones.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Control,
        speech: Callable[[str], Spoken],
        owner: str,
        created: int,
        decoders: Decoders | None = None,
    ) -> None:
        self._door = door
        self._decoders = decoders
        self._control = control
        self._speech = speech
        self._owner = owner
        self._created = created

    def table(self) -> HttpTable:
        """Return the operations."""
        endpoints = {
            "chat": Endpoint(stream=self._generate, is_large=True),
            "completions": Endpoint(stream=self._generate, is_large=True),
            "embeddings": Endpoint(self._embed, is_large=True),
            "list_v1": Endpoint(self._list),
            "load_v1": Endpoint(self._load),
            "unload_v1": Endpoint(self._unload),
        }
        return HttpTable(OPERATIONS, endpoints, openai_fault, is_openai, find)

    async def _generate(self, route: Route, http: HttpBody, call: Call, write: Write) -> HttpReply | None:
        """Go on with a conversation or a text: the reply, or None once ``write`` has had it in pieces."""
        call.protocol = Generating.protocol
        try:
            codec, spoken = await self._begun(route, http, call)
        except SalverError as error:
            return openai_fault(error)
        is_stream = bool(codec.request.stream)

        async def told(reply: HttpReply) -> None:
            if codec.has_begun:  # else it is an error that has its own status
                await write(reply)

        fault: HttpReply | None = await self._door.stream(
            codec, http, spoken.model, "", call, told if is_stream else _keep
        )
        if fault is not None or codec.failed is not None:
            return None if is_stream and codec.has_begun else codec.failed or fault
        counted = await _count(codec.uncounted, codec.voice)
        if not is_stream:
            return codec.whole(counted)
        with contextlib.suppress(Cancelled):  # the answer is there, and its reader is gone
            await write(codec.end(counted))
        return None

    async def _begun(self, route: Route, http: HttpBody, call: Call) -> tuple[Generating, Spoken]:
        """The codec of a request, whose prompt is made already if that may take a while."""
        is_chat, is_large = route.operation == "chat", call.is_large
        parse: Callable[[bytes], Any] = parse_chat if is_chat else parse_completion
        asked = await self._parsed(parse, http.body, call)
        spoken = self._speech(asked.model)
        _note_user(call, asked.user)
        new = uuid.uuid4().hex
        id = f"chatcmpl-{new}" if is_chat else f"cmpl-{new}"
        codec = Generating(asked, spoken, id, int(time.time()), lambda: uuid.uuid4().hex)
        if is_large:
            _, signature = self._door.signature(spoken.model)
            with contextlib.suppress(SalverError):  # comes again, where it is counted
                await asyncio.to_thread(codec.decode, http, signature)
        return codec, spoken

    async def _parsed(self, parse: Callable[[bytes], Any], body: bytes, call: Call) -> Any:
        """What a body asks; others have their turns while a large one is parsed."""
        if not call.is_large:
            return parse(body)
        call.is_large = False  # what is left is no matter of bytes
        return await self._decoders.call(parse, body) if self._decoders else parse(body)

    async def _embed(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        call.protocol = Embedding.protocol
        try:
            asked = await self._parsed(parse_embedding, http.body, call)
            spoken = self._speech(asked.model)
            _note_user(call, asked.user)
            if spoken.lora:
                raise InvalidInput(f"model '{spoken.model}' takes no LoRA for embeddings", field="model")
            _, signature = self._door.signature(spoken.model)
        except SalverError as error:
            return openai_fault(error)
        texts, rows = asked.texts, rows_of(signature)
        runs = [
            Embedding(asked, spoken, texts[at : at + (rows or len(texts))])
            for at in range(0, len(texts), rows or len(texts))
        ]
        failed = await self._run(runs, http, spoken.model, call)
        if failed is not None:
            return failed
        told = [run.tokens for run in runs]
        tokens = None if None in told else sum(count or 0 for count in told)
        if tokens is None and spoken.voice.count is not None:
            plain = [text for text in texts if isinstance(text, str)]
            tokens = await asyncio.to_thread(lambda: sum(map(spoken.voice.count or len, plain)))
        return embeddings(asked, [vector for run in runs for vector in run.vectors], tokens)

    async def _run(
        self, runs: Sequence[Embedding], http: HttpBody, model: str, call: Call
    ) -> HttpReply | None:
        """The first error, or None once all have their vectors."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(run: Embedding) -> HttpReply | None:
            async with turns:
                mine = msgspec.structs.replace(call) if len(runs) > 1 else call
                fault: HttpReply | None = await self._door.stream(run, http, model, "", mine, _keep)
                return run.failed or fault

        if len(runs) == 1:
            return await one(runs[0])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(run)) for run in runs]
        return next((failed for task in tasks if (failed := task.result()) is not None), None)

    async def _list(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        statuses = self._control.statuses()
        more: dict[str, Sequence[str]] = {}
        for name in dict.fromkeys(status.id.name for status in statuses):
            with contextlib.suppress(SalverError):
                more[name] = self._speech(name).names[1:]
        return HttpReply(200, dumps(list_models(statuses, self._owner, self._created, more)))

    async def _load(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        await self._control.load(route.model, LoadOrder())
        return HttpReply(200, dumps(openai_model(route.model, self._owner, self._created)))

    async def _unload(self, route: Route, http: HttpBody, call: Call) -> HttpReply:
        await self._control.unload(route.model, waits=True)
        return HttpReply(200, dumps({"status": "success", "model": route.model}))


def _note_user(call: Call, user: str | None) -> None:
    """OpenAI's ``user`` is the parameter of that name to those who split requests by it."""
    if user:
        call.traits = {"parameter:user": trait(user), **(call.traits or {})}


async def _keep(reply: HttpReply) -> None:
    """The codec has what it needs of it."""


async def _count(texts: tuple[str, str] | None, voice: Voice) -> Usage | None:
    count = voice.count
    if texts is None or count is None:
        return None
    return Usage(*await asyncio.to_thread(lambda: tuple(map(count, texts))))
