"""A new version has a chat template of its own: in a release its callers' messages are told by that one."""

import asyncio
from pathlib import Path

import openai
import pytest
from splitting_server import SplittingServer

from salver.configuration import ServeConfig
from salver.features.releases.experiments.assign import assign
from salver.transport.server import FrontConfig
from salver.words.releases import Split

ECHO = """
class Model:
    inputs = {"text_input": ("BYTES", [-1, 1])}
    outputs = {"text_output": ("BYTES", [-1, 1])}
    def predict(self, inputs):
        return {"text_output": inputs["text_input"]}
"""
SPLIT = Split("r1", "talk", stable="1", canary="2", weight=0.5, salt="voices")


def ask(client: openai.OpenAI, user: str, is_stream: bool) -> str:
    answer = client.chat.completions.create(
        model="talk", messages=[{"role": "user", "content": "hello"}], user=user, stream=is_stream
    )
    if isinstance(answer, openai.Stream):
        return "".join(piece.choices[0].delta.content or "" for piece in answer if piece.choices)
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_each_version_is_spoken_to_by_its_own_template(tmp_path: Path, is_stream: bool) -> None:
    for version, name in ((1, "old"), (2, "new")):
        folder = tmp_path / "talk" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(ECHO)
        (folder / "chat.jinja").write_text(name + ": {{ messages[0].content }}")
    (tmp_path / "talk" / "salver.toml").write_text(
        '[versions]\nall = true\n[chat]\ntemplate = "chat.jinja"\n'
    )
    said = set()
    async with SplittingServer(ServeConfig(paths=(str(tmp_path),), front=FrontConfig(port=0))) as server:
        server.splits.router.replace([SPLIT])
        with openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as client:
            for user in (f"user-{number}" for number in range(8)):
                version = assign(SPLIT, {"parameter:user": user, "request": ""}).version
                text = await asyncio.to_thread(ask, client, user, is_stream)
                assert text == {"1": "old: hello", "2": "new: hello"}[version]
                said.add(text)
    assert len(said) == 2
