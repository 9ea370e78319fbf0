"""From a folder to a step engine: vocabularies, and what an owner reads when something is wrong."""

import asyncio
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from msgspec.structs import replace
from waiting import auntil

from salver.backends.protocol import LoadOptions
from salver.backends.python import PythonBackend
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Terms
from salver.kernel.serving.steps import load_steps
from salver.words.artifacts import Instances, Manifest, ModelConfig, Steps
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor

NEXT = """
import numpy as np
class Model:
    def step(self, slots, tokens):
        return np.eye(%d, dtype="f4")[(tokens + 1) %% %d]
    def release(self, slot):
        pass
"""


def manifest(folder: Path, size: int, **config) -> Manifest:
    path = folder / "model.py"
    path.write_text(NEXT % (size, size))
    return Manifest(ModelId("m", "1"), path, "python", "python", ModelConfig(**config))


async def answer(engine, text, **settings):
    parameters = {"temperature": 0.0} | settings
    request = InferRequest("m", (tensor("text_input", [text]),), parameters=parameters)
    async with aclosing(engine.stream(request)) as pieces:
        return b"".join([piece.outputs[0].array[0] async for piece in pieces]).decode()


async def load(found: Manifest):
    engine, _ = await load_steps(PythonBackend(), found, [LoadOptions()], time.monotonic, lambda event: None)
    return engine


async def test_a_vocabulary_of_listed_texts(tmp_path: Path):
    (tmp_path / "words.json").write_text('["a", "bee ", "ü", "d"]')
    engine = await load(manifest(tmp_path, 4, steps=Steps(vocabulary="words.json", end_token=3)))
    assert await answer(engine, "a", max_tokens=9) == "bee ü"
    with pytest.raises(InvalidInput, match=r"no token for 'b' \(at character 1\)"):
        await answer(engine, "ab")
    await engine.close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"cannot read the vocabulary .*words.json.*Put the file beside the artefact"),
        ('{"a": 1}', "is not a JSON list of strings"),
        ("[1]", "is not a JSON list of strings"),
        ("[", "is not a JSON list of strings"),
        ("[]", "is empty"),
        ('["a", "a"]', "holds a text twice"),
        ('["a", ""]', "empty text"),
        ('["a", "b", "c"]', r"scores of shape \[4\] where \[3\]"),
    ],
)
async def test_a_wrong_vocabulary_is_a_reason_not_to_load(tmp_path: Path, content, reason):
    if content is not None:
        (tmp_path / "words.json").write_text(content)
    with pytest.raises(LoadFailed, match=reason):
        await load(manifest(tmp_path, 4, steps=Steps(vocabulary="words.json")))


async def test_a_host_process_is_not_for_step_wise_models(tmp_path: Path):
    found = manifest(tmp_path, 256, steps=Steps(vocabulary="bytes"), instances=Instances(runner="process"))
    with pytest.raises(LoadFailed, match=r"run on a thread.*Leave instances.runner out"):
        await load(found)


async def test_a_step_wise_model_of_a_request_belongs_into_the_repository(tmp_path: Path):
    brought = replace(manifest(tmp_path, 256, steps=Steps(vocabulary="bytes")), brought="files")
    loader = Loader({"python": PythonBackend()}, Bus(), time.monotonic, Terms(cores=2))
    with pytest.raises(LoadFailed, match="put it into the repository"):
        await loader.load(brought)


async def test_the_loader_makes_a_servable_that_streams(tmp_path: Path):
    loader = Loader({"python": PythonBackend()}, Bus(), time.monotonic, Terms(cores=2))
    servable = await loader.load(manifest(tmp_path, 256, steps=Steps(vocabulary="bytes")))
    await servable.warm(servable.manifest.config)
    assert servable.capabilities.stream is not None
    assert await answer(servable.engine, "a", max_tokens=3) == "bcd"
    assert (servable.engine.queued, servable.placement.runner) == (0, "thread")
    await servable.close()


THREADS = """
import time
import numpy as np
class Model:
    def load(self, context):
        self.seconds = %f / context.threads
    def step(self, slots, tokens):
        time.sleep(self.seconds)
        return np.eye(256, dtype="f4")[tokens]
    def release(self, slot):
        pass
"""


@pytest.mark.parametrize(
    ("seconds", "asked", "threads"), [(0.03, 0, 2), (0.0, 0, 1), (0.0, 2, 2), (0.03, 1, 1)]
)
async def test_quick_steps_run_on_one_thread_and_others_on_all(tmp_path: Path, seconds, asked, threads):
    config = {"steps": Steps(vocabulary="bytes", max_chunk=1), "instances": Instances(threads=asked)}
    found = manifest(tmp_path, 256, **config)
    found.path.write_text(THREADS % seconds)
    loader = Loader({"python": PythonBackend()}, Bus(), time.monotonic, Terms(cores=2))
    servable = await loader.load(found)
    assert servable.placement.threads == threads
    assert await answer(servable.engine, "a", max_tokens=2) == "aa"
    await servable.close()


SLOW = """
import time
from pathlib import Path
class Model:
    def load(self, context):
        self.folder = context.path.parent
    def step(self, slots, tokens):
        (self.folder / "stepped").touch()
        time.sleep(0.05)
        raise ValueError("never right")
    def release(self, slot):
        pass
    def close(self):
        (self.folder / "closed").touch()
"""


async def test_a_load_that_is_given_up_closes_the_model(tmp_path: Path):
    found = manifest(tmp_path, 256, steps=Steps(vocabulary="bytes"))
    found.path.write_text(SLOW)
    task = asyncio.ensure_future(load(found))
    await auntil((tmp_path / "stepped").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (tmp_path / "closed").exists()
