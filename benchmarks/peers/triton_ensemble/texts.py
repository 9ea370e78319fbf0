"""A model of Triton's Python backend: texts to the ids of a network."""

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()

    def execute(self, requests: list[Any]) -> list[Any]:
        replies = []
        for request in requests:
            raw = pb_utils.get_input_tensor_by_name(request, "raw").as_numpy()
            encoded = self.tokenizer.encode_batch([row[0].decode() for row in raw])
            tensors = [
                pb_utils.Tensor("input_ids", np.array([each.ids for each in encoded], np.int64)),
                pb_utils.Tensor(
                    "attention_mask", np.array([each.attention_mask for each in encoded], np.int64)
                ),
                pb_utils.Tensor("token_type_ids", np.array([each.type_ids for each in encoded], np.int64)),
            ]
            replies.append(pb_utils.InferenceResponse(tensors))
        return replies
