"""Callers without a pause, which count what they are answered and note what fails. Not a suite itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from soaking import size
from waiting import auntil

from salver.client import Client
from salver.words.errors import SalverError


class Callers:
    """Callers of a model that answers twice its input.

    Attributes:
        answered, wrong: Answers, and those of them that are wrong.
        errors: What failed.
    """

    def __init__(self, url: str, model: str) -> None:
        self._client = Client(url, timeout=20)
        self._model = model
        self.answered = self.wrong = 0
        self.errors: list[str] = []

    async def _call(self, number: int) -> None:
        while True:
            try:
                found = await self._client.infer(self._model, {"x": [[float(number)]]})
            except SalverError as error:
                self.errors.append(repr(error))
                await asyncio.sleep(0.01)
            else:
                self.answered += 1
                self.wrong += float(found["y"][0, 0]) != 2 * number

    @contextlib.asynccontextmanager
    async def calling(self) -> AsyncIterator["Callers"]:
        tasks = [asyncio.create_task(self._call(number)) for number in range(1, size(12, 6))]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._client.close()

    async def some_more(self) -> None:
        """Wait until each caller has had answers."""
        before = self.answered
        await auntil(lambda: self.answered > before + 20)
