"""Answers as Triton's vLLM backend does, tensor by tensor, and says its prompt again, a word a token."""

import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

INPUTS = (
    ("text_input", "TYPE_STRING", False),
    ("stream", "TYPE_BOOL", True),
    ("sampling_parameters", "TYPE_STRING", True),
    ("exclude_input_in_output", "TYPE_BOOL", True),
    ("return_finish_reason", "TYPE_BOOL", True),
    ("return_cumulative_logprob", "TYPE_BOOL", True),
    ("return_logprobs", "TYPE_BOOL", True),
    ("return_num_input_tokens", "TYPE_BOOL", True),
    ("return_num_output_tokens", "TYPE_BOOL", True),
)
OUTPUTS = (
    ("text_output", "TYPE_STRING", -1),
    ("finish_reason", "TYPE_STRING", -1),
    ("logprobs", "TYPE_STRING", -1),
    ("num_input_tokens", "TYPE_UINT32", 1),
    ("num_output_tokens", "TYPE_UINT32", -1),
)


class TritonPythonModel:
    @classmethod
    def auto_complete_config(cls, config):
        for name, datatype, optional in INPUTS:
            config.add_input({"name": name, "data_type": datatype, "dims": [1], "optional": optional})
        for name, datatype, extent in OUTPUTS:
            config.add_output({"name": name, "data_type": datatype, "dims": [extent]})
        config.set_model_transaction_policy({"decoupled": True})
        config.set_max_batch_size(0)
        return config

    def execute(self, requests):
        for request in requests:
            self.answer(request, request.get_response_sender())

    def answer(self, request, sender):
        def given(name, default=None):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return default if tensor is None else tensor.as_numpy()[0]

        prompt = given("text_input").decode()
        sampling = json.loads(given("sampling_parameters", b"{}"))
        is_stream = bool(given("stream", False))
        if is_stream and not given("exclude_input_in_output", True):
            raise ValueError("When streaming, `exclude_input_in_output` = False is not allowed.")
        if prompt == "#sampling":
            prompt = json.dumps(sampling)
            words = [prompt]
        else:
            words = [word + " " for word in prompt.split()][: sampling.get("max_tokens", 16)]
        reason = "length" if len(words) == sampling.get("max_tokens", 16) else "stop"
        pieces = [[word] for word in words] if is_stream else [words]
        for at, piece in enumerate(pieces):
            if "#slow" in prompt:
                time.sleep(0.05)
            if sender.is_cancelled():
                Path(prompt.split()[-1]).write_text(f"stopped at {at}")
                break
            if piece and piece[-1] == "#fail ":
                error = pb_utils.TritonError("the parrot flew away")
                sender.send(
                    pb_utils.InferenceResponse(error=error), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                )
                return
            is_last = at == len(pieces) - 1
            told = {"text_output": "".join(piece).encode()}
            if given("return_finish_reason", False):
                told["finish_reason"] = (reason if is_last else "None").encode()
            if given("return_logprobs", False):
                places = [
                    {str(len(word)): {"logprob": -0.25, "rank": 1, "decoded_token": word}} for word in piece
                ]
                told["logprobs"] = json.dumps(places).encode()
            tensors = [pb_utils.Tensor(n, np.array([v], dtype=object)) for n, v in told.items()]
            if given("return_num_input_tokens", False):
                tensors.append(
                    pb_utils.Tensor("num_input_tokens", np.array([len(prompt.split())], np.uint32))
                )
            if given("return_num_output_tokens", False):
                tensors.append(pb_utils.Tensor("num_output_tokens", np.array([len(piece)], np.uint32)))
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
            sender.send(pb_utils.InferenceResponse(tensors), flags)
        else:
            if not pieces:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
