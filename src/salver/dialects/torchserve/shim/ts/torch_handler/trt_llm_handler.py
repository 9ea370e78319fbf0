"""Handler of TensorRT-LLM, which is imported when the model is loaded."""

import json
import time
from typing import Any, Final

from ts.handler_utils.bodies import only_body
from ts.handler_utils.libraries import needed
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler

_BY: Final = "the TensorRT-LLM handler"


class TRTLLMHandler(BaseHandler):
    """Handler of one request per run: ``prompt``, optionally ``streaming``, and sampling parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.trt_llm_engine: Any = None
        self.tokenizer: Any = None
        self.model_dir: Any = None
        self._sampling: Any = None

    def initialize(self, ctx: Any) -> None:
        """Start the engine in ``handler.engine_dir``.

        Raises:
            LoadFailed: TensorRT-LLM or transformers is not installed.
        """
        library = needed(_BY, "tensorrt_llm.hlapi", "tensorrt_llm")
        tokenizers = needed(_BY, "transformers")
        self.model_dir = ctx.system_properties.get("model_dir")
        settings = ctx.model_yaml_config["handler"]
        self.tokenizer = tokenizers.AutoTokenizer.from_pretrained(
            settings.get("tokenizer_dir"),
            legacy=False,
            padding_side="left",
            truncation_side="left",
            trust_remote_code=True,
            use_fast=True,
        )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token_id = self.tokenizer.eos_token_id
        cache = library.KvCacheConfig(**settings.get("kv_cache_config", {}))
        self.trt_llm_engine = library.LLM(
            model=settings.get("engine_dir"), tokenizer=self.tokenizer, kv_cache_config=cache
        )
        self._sampling = library.SamplingParams
        self.initialized = True

    async def handle(self, data: Any, context: Any) -> Any:
        """Run the request through its steps."""
        begun = time.time()
        prepared = await self.preprocess(data)
        output = await self.postprocess(await self.inference(prepared, context))
        took_ms = round((time.time() - begun) * 1000, 2)
        context.metrics.add_time("HandlerTime", took_ms, None, "ms")
        return output

    async def preprocess(self, requests: Any) -> Any:
        """Return the body, as text or as parsed JSON.

        Raises:
            ValueError: there are several requests.
        """
        return only_body(requests)

    async def inference(self, data: Any, context: Any) -> list[Any]:
        """Return the text; when streaming, send each token's text as a piece and return an empty one."""
        ends = {"end_id": self.tokenizer.eos_token_id, "pad_id": self.tokenizer.pad_token_id}
        asked = {key: value for key, value in data.items() if key not in ("prompt", "streaming")}
        is_streaming = data.get("streaming", False)
        outputs = self.trt_llm_engine.generate_async(
            data.get("prompt"), streaming=is_streaming, sampling_params=self._sampling(**(ends | asked))
        )
        async for output in outputs:
            (said, *_) = output.outputs
            if not is_streaming:
                return [said.text]
            piece = json.dumps({"text": self.tokenizer.decode([said.token_ids[-1]])})
            send_intermediate_predict_response([piece], context.request_ids, "Result", 200, context)
        return [""]

    async def postprocess(self, outputs: Any) -> Any:
        """Return the outputs unchanged."""
        return outputs
