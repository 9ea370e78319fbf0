"""Handler of vLLM that answers OpenAI's requests at the extra path of a prediction.

``…/predictions/m/1.0/v1/completions`` and the like (TS-R4). vLLM is imported when the model is loaded.
"""

import asyncio
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from salver.words.errors import LoadFailed
from ts.handler_utils.bodies import only_body
from ts.handler_utils.libraries import needed, part_of
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException

logger = logging.getLogger(__name__)

_BY: Final = "the vLLM handler"
_OPENAI: Final = "vllm.entrypoints.openai"
_LAST_EVENT: Final = "data: [DONE]\n\n"


class VLLMHandler(BaseHandler):
    """Handler of one request per run; several run at a time with ``asyncCommunication``."""

    def __init__(self) -> None:
        super().__init__()
        self.vllm_engine: Any = None
        self.model_name: str | None = None
        self.model_dir: Any = None
        self.lora_ids: dict[str, int] = {}
        self.adapters: dict[str, str] | None = None
        self.chat_completion_service: Any = None
        self.completion_service: Any = None
        self.raw_request: Any = None
        self._kinds: dict[str, tuple[Any, Any]] = {}
        self._error: Any = None

    def initialize(self, ctx: Any) -> None:
        """Start vLLM's engine with ``handler.vllm_engine_config``.

        Raises:
            LoadFailed: vLLM is not installed, or no model is named.
        """
        vllm = needed(_BY, "vllm")
        settings = ctx.model_yaml_config.get("handler", {})
        self.model_dir = ctx.system_properties.get("model_dir")
        arguments = self._get_vllm_engine_config(settings)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        self.vllm_engine = vllm.AsyncLLMEngine.from_engine_args(arguments)
        self.adapters = settings.get("adapters", {})
        self._open_services(arguments, settings.get("chat_template"))
        self.raw_request = SimpleNamespace(
            headers={}, is_disconnected=_is_disconnected, state=SimpleNamespace()
        )
        self.initialized = True

    def _open_services(self, arguments: Any, chat_template: str | None) -> None:
        (lora,) = part_of(needed(_BY, f"{_OPENAI}.serving_engine"), _BY, "LoRAModulePath")
        (completions,) = part_of(needed(_BY, f"{_OPENAI}.serving_completion"), _BY, "OpenAIServingCompletion")
        (chats,) = part_of(needed(_BY, f"{_OPENAI}.serving_chat"), _BY, "OpenAIServingChat")
        protocol = needed(_BY, f"{_OPENAI}.protocol")
        names = arguments.served_model_name or [arguments.model]
        config = asyncio.get_event_loop().run_until_complete(self.vllm_engine.get_model_config())
        around = {
            "lora_modules": [lora(name, path) for name, path in (self.adapters or {}).items()],
            "prompt_adapters": None,
            "request_logger": None,
        }
        self.completion_service = completions(self.vllm_engine, config, names, **around)
        self.chat_completion_service = chats(
            self.vllm_engine, config, names, "assistant", chat_template=chat_template, **around
        )
        self._error = protocol.ErrorResponse
        self._kinds = {
            "v1/completions": (protocol.CompletionRequest, self.completion_service.create_completion),
            "v1/chat/completions": (
                protocol.ChatCompletionRequest,
                self.chat_completion_service.create_chat_completion,
            ),
        }

    async def handle(self, data: Any, context: Any) -> Any:
        """Run the request through its steps."""
        begun = time.time()
        prepared = await self.preprocess(data, context)
        output = await self.postprocess(await self.inference(prepared, context))
        took_ms = round((time.time() - begun) * 1000, 2)
        context.metrics.add_time("HandlerTime", took_ms, None, "ms")
        return output

    async def preprocess(self, requests: Any, context: Any) -> list[Any]:
        """Return the body, as text or as parsed JSON."""
        return [only_body(requests)]

    async def inference(self, input_batch: Any, context: Any) -> list[Any]:
        """Return vLLM's answer; events of a stream except the last are sent as pieces."""
        path = context.get_request_header(0, "url_path")
        if path == "v1/models":
            return [(await self.chat_completion_service.show_available_models()).model_dump()]
        if path not in self._kinds:
            raise PredictionException(f"Unknown API endpoint: {path}", 404)
        kind, ask = self._kinds[path]
        request = kind.model_validate(input_batch[0])
        answer = await ask(request, self.raw_request)
        if isinstance(answer, self._error) or not request.stream:
            return [answer.model_dump()]
        event = _LAST_EVENT
        async for event in answer:
            if event != _LAST_EVENT:
                send_intermediate_predict_response([event], context.request_ids, "Result", 200, context)
        return [event]

    async def postprocess(self, inference_outputs: Any) -> Any:
        """Return the outputs unchanged."""
        return inference_outputs

    def _get_vllm_engine_config(self, handler_config: dict[str, Any]) -> Any:
        settings = handler_config.get("vllm_engine_config", {})
        model = settings.get("model") or handler_config.get("model_path")
        if not model:
            raise LoadFailed(
                "the vLLM handler has no model",
                field="handler.vllm_engine_config.model",
                fix="Set it there, or as handler.model_path.",
            )
        if not settings.get("model"):
            inside = Path(self.model_dir) / model
            model = inside.as_posix() if inside.exists() else model
        arguments = needed(_BY, "vllm").AsyncEngineArgs(model=model)
        self._set_attr_value(arguments, settings)
        return arguments

    def _set_attr_value(self, obj: Any, config: dict[str, Any]) -> None:
        known = vars(obj)
        for key, value in config.items():
            if key in known:
                setattr(obj, key, value)


async def _is_disconnected() -> bool:
    return False
