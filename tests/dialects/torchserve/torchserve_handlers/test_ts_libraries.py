"""Handlers of large models: use of their libraries, and errors for missing ones.

The libraries are stand-ins: they are not among those of the tests, and want devices of their own.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from handler_runs import Context
from ts.handler_utils import libraries, utils
from ts.handler_utils.distributed import deepspeed, pt_pippy
from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch
from ts.handler_utils.preprocess.dali import get_dali_pipeline
from ts.torch_handler.dali_image_classifier import DALIImageClassifier
from ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler
from ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler
from ts.torch_handler.trt_llm_handler import TRTLLMHandler
from ts.torch_handler.vllm_handler import VLLMHandler
from ts.utils.util import PredictionException

from salver.words.errors import LoadFailed

DALI = {"dali": {"batch_size": 2, "num_threads": 1, "device_id": 0, "seed": 1}}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a module and its parents in place."""

    def put(name: str, **content: Any) -> ModuleType:
        module = ModuleType(name)
        vars(module).update(content)
        parent = ""
        for part in name.split(".")[:-1]:
            parent = f"{parent}.{part}".strip(".")
            if parent not in sys.modules:
                package = ModuleType(parent)
                package.__path__ = []
                monkeypatch.setitem(sys.modules, parent, package)
        if name not in sys.modules:
            module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
        above, _, last = name.rpartition(".")
        if above:
            monkeypatch.setattr(sys.modules[above], last, module, raising=False)
        return module

    return put


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    sent: list[Any] = []

    def send(ret: list[Any], ids: Any, message: str, code: int, context: Any) -> None:
        sent.extend(ret)
        assert (ids, message, code) == ({0: "first"}, "Result", 200)

    for module in ("vllm_handler", "trt_llm_handler"):
        monkeypatch.setattr(
            sys.modules[f"ts.torch_handler.{module}"], "send_intermediate_predict_response", send
        )
    return sent


class TestMissing:
    @pytest.mark.clause("TS-A5")
    @pytest.mark.parametrize(
        ("handler", "config", "named"),
        [
            (VLLMHandler, {}, "the vLLM handler needs the package 'vllm', which is not installed"),
            (
                TRTLLMHandler,
                {},
                "the TensorRT-LLM handler needs the package 'tensorrt_llm', which is not inst",
            ),
            (
                BaseDeepSpeedHandler,
                {},
                "the DeepSpeed handler needs the package 'deepspeed', which is not inst",
            ),
            (
                BasePippyHandler,
                {},
                "the PiPPy handler needs the package 'torchpippy', which is not installed",
            ),
            (
                DALIImageClassifier,
                DALI,
                "'dali' configuration needs the package 'nvidia-dali', which is not in",
            ),
        ],
    )
    def test_a_missing_library_is_named_at_load(self, handler: Any, config: Any, named: str) -> None:
        with pytest.raises(LoadFailed, match=named) as refused:
            handler().initialize(Context(Path("/"), config))
        assert "Install it beside Salver" in str(refused.value.fix)

    @pytest.mark.clause("TS-A5")
    def test_one_that_is_there_but_broken_says_why(self, tmp_path: Path, monkeypatch: Any) -> None:
        (tmp_path / "broken_library.py").write_text("import no_such_driver\n")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(LoadFailed, match="which cannot be imported: No module named 'no_such_driver'"):
            libraries.needed("m", "broken_library")

    @pytest.mark.clause("TS-A5")
    def test_one_of_another_version_says_what_it_lacks(self, library: Any) -> None:
        module = library("fancy", __version__="9.1")
        with pytest.raises(LoadFailed, match=r"m needs fancy\.Engine, which version 9\.1 does not have"):
            libraries.part_of(module, "m", "Engine")


class Engine:
    async def get_model_config(self) -> str:
        return "config"


class Fields(SimpleNamespace):
    @classmethod
    def model_validate(cls, body: Any) -> "Fields":
        fields = json.loads(body) if isinstance(body, str) else body
        return cls(**{"stream": False, **fields})

    def model_dump(self) -> dict[str, Any]:
        return dict(vars(self))


class Refusal(Fields):
    pass


class Service:
    """vLLM's, of completions or chats."""

    def __init__(self, engine: Any, config: Any, names: list[str], *role: str, **around: Any) -> None:
        self.told = (config, names, role, around)

    async def create_completion(self, request: Any, caller: Any) -> Any:
        assert not await caller.is_disconnected()
        if request.stream:
            return self._events(request)
        return Refusal(message="no") if request.prompt == "bad" else Fields(text=request.prompt)

    create_chat_completion = create_completion

    async def _events(self, request: Any) -> AsyncIterator[str]:
        for word in request.prompt.split():
            yield f"data: {word}\n\n"
        yield "data: [DONE]\n\n"

    async def show_available_models(self) -> Fields:
        return Fields(data=self.told[1])


class TestVllm:
    @pytest.fixture
    def arguments(self, library: Any) -> list[Any]:
        seen: list[Any] = []

        class Arguments(SimpleNamespace):
            def __init__(self, model: str) -> None:
                super().__init__(model=model, served_model_name=None, max_model_len=0)
                seen.append(self)

        openai = "vllm.entrypoints.openai"
        engine = SimpleNamespace(from_engine_args=lambda arguments: Engine())
        library("vllm", AsyncEngineArgs=Arguments, AsyncLLMEngine=engine)
        library(f"{openai}.serving_engine", LoRAModulePath=lambda name, path: (name, path))
        library(f"{openai}.serving_completion", OpenAIServingCompletion=Service)
        library(f"{openai}.serving_chat", OpenAIServingChat=Service)
        library(
            f"{openai}.protocol",
            ErrorResponse=Refusal,
            CompletionRequest=Fields,
            ChatCompletionRequest=Fields,
        )
        return seen

    @pytest.fixture(autouse=True)
    def _loop(self) -> Iterator[None]:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        yield
        asyncio.set_event_loop(None)
        loop.close()

    def opened(self, folder: Path, **handler: Any) -> tuple[VLLMHandler, Context]:
        made = VLLMHandler()
        context = Context(folder, {"handler": handler})
        made.initialize(context)
        return made, context

    @staticmethod
    def ask(made: VLLMHandler, context: Context, path: str, body: Any) -> Any:
        context.headers = {"url_path": path}
        loop = asyncio.get_event_loop_policy().get_event_loop()
        return loop.run_until_complete(made.handle([{"body": body}], context))

    @pytest.mark.clause("TS-A5")
    def test_the_engine_is_told_what_the_configuration_says(self, arguments: Any, tmp_path: Path) -> None:
        (tmp_path / "weights").mkdir()
        settings = {"max_model_len": 250, "no_such": 1, "served_model_name": ["a", "b"]}
        made, _ = self.opened(
            tmp_path,
            model_path="weights",
            vllm_engine_config=settings,
            adapters={"lora": "here"},
            chat_template="{{ messages }}",
        )
        (told,) = arguments
        assert told.model == str(tmp_path / "weights") and told.max_model_len == 250
        assert not hasattr(told, "no_such")
        around = {"lora_modules": [("lora", "here")], "prompt_adapters": None, "request_logger": None}
        assert made.completion_service.told == ("config", ["a", "b"], (), around)
        chat = {**around, "chat_template": "{{ messages }}"}
        assert made.chat_completion_service.told == ("config", ["a", "b"], ("assistant",), chat)

    @pytest.mark.clause("TS-A5")
    @pytest.mark.parametrize(
        ("handler", "model"),
        [
            ({"model_path": "hub/name"}, "hub/name"),
            ({"vllm_engine_config": {"model": "other/name"}}, "other/name"),
        ],
    )
    def test_a_model_may_be_a_name(self, arguments: Any, tmp_path: Path, handler: Any, model: str) -> None:
        made, _ = self.opened(tmp_path, **handler)
        assert arguments[0].model == model
        assert made.completion_service.told[1] == [model]

    @pytest.mark.clause("TS-A5")
    def test_it_must_be_named(self, arguments: Any, tmp_path: Path) -> None:
        with pytest.raises(LoadFailed, match="has no model"):
            self.opened(tmp_path)

    @pytest.mark.clause("TS-A5", "TS-R4")
    def test_the_path_says_what_is_asked(self, arguments: Any, tmp_path: Path, pieces: list[Any]) -> None:
        made, context = self.opened(tmp_path, model_path="m")
        assert self.ask(made, context, "v1/completions", b'{"prompt": "hi"}') == [{"text": "hi"}]
        assert self.ask(made, context, "v1/chat/completions", {"prompt": "ho"}) == [{"text": "ho"}]
        assert self.ask(made, context, "v1/completions", {"prompt": "bad"}) == [{"message": "no"}]
        assert self.ask(made, context, "v1/models", {}) == [{"data": ["m"]}]
        with pytest.raises(PredictionException, match="Unknown API endpoint: v1/other") as unknown:
            self.ask(made, context, "v1/other", {})
        assert unknown.value.error_code == 404
        assert context.metrics.names() == ["HandlerTime"] * 4 and pieces == []

    @pytest.mark.clause("TS-A5", "TS-R15")
    def test_a_stream_goes_out_event_by_event(
        self, arguments: Any, tmp_path: Path, pieces: list[Any]
    ) -> None:
        made, context = self.opened(tmp_path, model_path="m")
        asked = {"prompt": "one two", "stream": True}
        assert self.ask(made, context, "v1/completions", asked) == ["data: [DONE]\n\n"]
        assert pieces == ["data: one\n\n", "data: two\n\n"]

    @pytest.mark.clause("TS-A5")
    def test_one_request_a_run(self, arguments: Any, tmp_path: Path) -> None:
        made, context = self.opened(tmp_path, model_path="m")
        with pytest.raises(ValueError, match="Expecting batch_size = 1"):
            asyncio.run(made.handle([{"body": 1}, {"body": 2}], context))


@pytest.mark.clause("TS-A5")
def test_trt_llm_answers_prompts_whole_and_in_pieces(library: Any, pieces: list[Any]) -> None:
    class Engine(SimpleNamespace):
        async def generate_async(
            self, prompt: str, streaming: bool, sampling_params: Any
        ) -> AsyncIterator[Any]:
            seen.append(sampling_params)
            for end in range(1, len(prompt) + 1) if streaming else [len(prompt)]:
                said = SimpleNamespace(text=prompt[:end].upper(), token_ids=list(prompt[:end]))
                yield SimpleNamespace(outputs=[said])

    seen: list[Any] = []
    tokenizer = SimpleNamespace(pad_token_id=None, eos_token_id=7, decode="".join)
    library("tensorrt_llm.hlapi", LLM=Engine, KvCacheConfig=SimpleNamespace, SamplingParams=SimpleNamespace)
    auto = SimpleNamespace(from_pretrained=lambda place, **kind: tokenizer if place == "there" else None)
    library("transformers", AutoTokenizer=auto)
    settings = {"engine_dir": "engine", "tokenizer_dir": "there", "kv_cache_config": {"free": 0.5}}
    context = Context(Path("/"), {"handler": settings})
    handler = TRTLLMHandler()
    handler.initialize(context)
    assert handler.initialized and handler.trt_llm_engine.kv_cache_config.free == 0.5

    def ask(**body: Any) -> Any:
        return asyncio.run(handler.handle([{"body": body}], context))

    assert ask(prompt="abc", top_k=2) == ["ABC"]
    assert vars(seen[0]) == {"end_id": 7, "pad_id": 7, "top_k": 2}
    assert ask(prompt="ab", streaming=True) == [""]
    assert pieces == ['{"text": "a"}', '{"text": "b"}']
    assert context.metrics.names() == ["HandlerTime"] * 2


class TestDistributed:
    @pytest.mark.clause("TS-A5")
    def test_deepspeed_handler_is_on_the_device_of_its_rank(
        self, library: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        library("deepspeed")
        monkeypatch.setenv("LOCAL_RANK", "3")
        handler = BaseDeepSpeedHandler()
        handler.initialize(Context(Path("/")))
        assert handler.device == 3

    @pytest.mark.clause("TS-Y4")
    def test_deepspeed_is_told_of_configuration_and_weights(self, library: Any, tmp_path: Path) -> None:
        library("deepspeed", init_inference=lambda model, **told: (model, told))
        (tmp_path / "ds.json").write_text("{}")
        (tmp_path / "part.bin").write_bytes(b"")
        config = {"handler": {"model_path": str(tmp_path)}, "deepspeed": {"config": "ds.json"}}
        told = {"config": str(tmp_path / "ds.json"), "base_dir": str(tmp_path), "checkpoint": None}
        assert deepspeed.get_ds_engine("model", Context(tmp_path, config)) == ("model", told)
        config["deepspeed"]["checkpoint"] = "list.json"
        deepspeed.get_ds_engine("model", Context(tmp_path, config))
        listed = {"type": "ds_model", "checkpoints": [str(tmp_path / "part.bin")], "version": 1.0}
        assert json.loads((tmp_path / "list.json").read_text()) == listed
        (tmp_path / "ds.json").unlink()
        with pytest.raises(ValueError, match=r"has no deepspeed config file .*ds\.json"):
            deepspeed.get_ds_engine("model", Context(tmp_path, config))
        del config["deepspeed"]
        with pytest.raises(ValueError, match="m has no deepspeed config in model config yaml file"):
            deepspeed.get_ds_engine("model", Context(tmp_path, config))

    @pytest.mark.clause("TS-A5")
    def test_pippy_needs_devices(self, library: Any) -> None:
        library("pippy")
        if not torch.cuda.device_count():
            with pytest.raises(LoadFailed, match="the PiPPy handler needs GPUs"):
                BasePippyHandler().initialize(Context(Path("/")))

    @pytest.mark.clause("TS-A5")
    def test_pippy_joins_its_group(self, library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        class Options(SimpleNamespace):
            def set_device_map(self, worker: str, devices: dict[int, int]) -> None:
                maps[worker] = devices

        maps: dict[str, dict[int, int]] = {}
        joined: list[Any] = []
        rpc = SimpleNamespace(
            TensorPipeRpcBackendOptions=Options, init_rpc=lambda name, **told: joined.append((name, told))
        )
        library("pippy")
        monkeypatch.setattr(torch.distributed, "rpc", rpc, raising=False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "3")
        handler = BasePippyHandler()
        handler.initialize(Context(Path("/"), {"pippy": {"rpc_timeout": 9, "num_worker_threads": 4}}))
        assert handler.device == 1 and maps == {"worker0": {1: 0}, "worker1": {1: 1}, "worker2": {1: 0}}
        ((name, told),) = joined
        assert (name, told["rank"], told["world_size"]) == ("worker1", 1, 3)
        assert told["rpc_backend_options"].rpc_timeout == 9

    @pytest.mark.clause("TS-Y4")
    def test_pippy_cuts_a_model_into_stages(self, library: Any, tmp_path: Path) -> None:
        told: dict[str, Any] = {}

        def all_compile(model: Any, **options: Any) -> tuple[str, str]:
            told.update(options)
            return "driver", "mode"

        injected: list[Any] = []
        library("pippy", all_compile=all_compile, split_into_equal_size=lambda n: f"into {n}")
        library(
            "pippy.hf",
            PiPPyHFTracer=lambda: "tracer",
            inject_pipeline_forward=lambda *both: injected.append(both),
        )

        class Net(torch.nn.Module):
            def forward(self, ids: Any, mask: Any = None, cache: bool = False) -> Any:
                return ids

        model = Net()
        pippy = {"input_names": ["ids"], "model_type": "HF", "chunks": 4}
        config: dict[str, Any] = {"pippy": pippy, "handler": {"model_path": str(tmp_path)}}
        assert pt_pippy.get_pipeline_driver(model, 2, Context(tmp_path, config)) is model
        assert injected == [(model, "driver")] and not model.training
        assert told["num_chunks"] == 4 and told["split_policy"] == "into 2" and told["tracer"] == "tracer"
        assert told["concrete_args"] == {"mask": None, "cache": False}
        pippy["model_type"] = "other"
        assert pt_pippy.get_pipeline_driver(model, 2, Context(tmp_path, config)) == "driver"
        config["handler"]["index_filename"] = "absent.json"
        with pytest.raises(ValueError, match=r"Index file '.*absent\.json' not found"):
            pt_pippy.get_pipeline_driver(model, 2, Context(tmp_path, config))
        del pippy["input_names"]
        with pytest.raises(ValueError, match=r"Missing 'pippy\.input_names' key in YAML config"):
            pt_pippy.get_pipeline_driver(model, 2, Context(tmp_path, config))


class Pipeline:
    """DALI's: halves pictures of four bytes."""

    def __init__(self, **told: Any) -> None:
        self.told = told

    @classmethod
    def deserialize(cls, **told: Any) -> "Pipeline":
        return cls(**told)

    def run(self, source: list[Any]) -> list[Any]:
        halves = [(each / 2).astype("f4") for each in source]
        return [SimpleNamespace(at=halves.__getitem__)]


@pytest.mark.clause("TS-A5")
def test_dali_prepares_pictures(library: Any, tmp_path: Path) -> None:
    library("nvidia.dali.pipeline", Pipeline=Pipeline)
    context = Context(tmp_path, {"dali": {**DALI["dali"], "pipeline_file": "own.dali"}})
    with pytest.raises(RuntimeError, match="Missing dali pipeline file"):
        get_dali_pipeline(context)
    (tmp_path / "own.dali").write_bytes(b"")
    handler = DALIImageClassifier()
    handler.device = torch.device("cpu")
    handler.pipeline = get_dali_pipeline(context)
    assert handler.pipeline.told["filename"] == str(tmp_path / "own.dali")
    assert handler.pipeline._max_batch_size == 2
    batch = handler.preprocess([{"body": bytes([2, 4, 6, 8])}, {"body": np.array([1, 3, 5, 7])}])
    assert batch.tolist() == [[1, 2, 3, 4], [0.5, 1.5, 2.5, 3.5]]
    handler.set_max_result_classes(1)
    assert handler.postprocess(torch.tensor([[0.0, 100.0]])) == [{"1": 1.0}]
    with pytest.raises(ValueError, match="m has no dali config in model config yaml file"):
        get_dali_pipeline(Context(tmp_path))


@pytest.mark.clause("TS-A5")
def test_texts_of_a_batch_come_token_by_token(library: Any) -> None:
    class Streamer:
        def __init__(self, tokenizer: Any, skip_prompt: bool, timeout: float | None, **decoding: Any) -> None:
            self.words: list[str | None] = []
            self.decode = tokenizer

        def put(self, value: torch.Tensor) -> None:
            self.words.append(self.decode(value.tolist()))

        def end(self) -> None:
            self.words.append(None)

        def __iter__(self) -> Iterator[str]:
            for word in self.words:
                if word is None:
                    return
                yield word

    library("transformers", TextIteratorStreamer=Streamer)
    streamer = TextIteratorStreamerBatch(str, batch_size=2, skip_prompt=True)
    streamer.put(torch.tensor([[1, 2], [3, 4]]))
    streamer.put(torch.tensor([5, 6]))
    streamer.end()
    assert list(streamer) == [
        [{"text": "[[1, 2]]"}, {"text": "[[3, 4]]"}],
        [{"text": "[5]"}, {"text": "[6]"}],
    ]
    with pytest.raises(ValueError, match="batch size is set to 2 but got input tensor of shape"):
        streamer.put(torch.zeros(3, 1))


@pytest.mark.clause("TS-R15")
def test_only_the_first_of_a_group_sends_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(utils, "create_predict_response", lambda *told: made.append(told) or b"piece")
    context: Any = Context(Path("/"))
    utils.send_intermediate_predict_response(["a"], {0: "first"}, "Prediction success", 200, context)
    assert made == [(["a"], {0: "first"}, "Prediction success", 200, context, True)]
    monkeypatch.setenv("LOCAL_RANK", "1")
    utils.send_intermediate_predict_response(["b"], {0: "first"}, "Prediction success", 200, context)
    assert context.cl_socket.sent == [b"piece"]


@pytest.mark.clause("TS-A2")
def test_classes_by_their_names() -> None:
    assert utils.import_class("ts.utils.util.PredictionException") is PredictionException
    assert utils.import_class("util.PredictionException", "ts.utils") is PredictionException
    assert utils.import_class("PredictionException", "ts.utils.util") is PredictionException
    for name, said in (
        ("", "class name"),
        ("Alone", "module name"),
        ("ts.utils.util.No", "class:No not found"),
    ):
        with pytest.raises(ImportError, match=said):
            utils.import_class(name)
