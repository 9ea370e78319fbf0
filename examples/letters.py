"""Train a small recurrent network that continues text, and write it out to be served step by step.

    python examples/letters.py LICENSE letters
    salver serve letters
    curl -N http://127.0.0.1:8000/v2/models/letters_onnx/generate_stream \\
        -d '{"text_input": "You may ", "max_tokens": 60, "temperature": 0}'

It reads any text file, learns its bytes by heart for some seconds, and writes the same network twice, for
ONNX Runtime and for PyTorch (torch.export).
"""

import sys
import warnings
from pathlib import Path

import torch
from torch import nn

CONFIG = """[steps]
vocabulary = "bytes"
max_sequences = 16
max_context = 512
"""


class Letters(nn.Module):
    """The next byte of a text: ``tokens [batch, time]`` and ``state [batch, size]`` to scores and state."""

    def __init__(self, size: int = 96) -> None:
        super().__init__()
        self.size = size
        self.embed = nn.Embedding(256, 64)
        self.cell = nn.GRU(64, size, batch_first=True)
        self.head = nn.Linear(size, 256)

    def every(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores after each token."""
        seen, last = self.cell(self.embed(tokens), state.unsqueeze(0))
        return self.head(seen), last.squeeze(0)

    def forward(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores after the last token, and the state there."""
        scores, last = self.every(tokens, state)
        return scores[:, -1], last


def train(text: bytes, steps: int = 800, size: int = 96) -> Letters:
    """The same network each time, from the same text."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network learns faster on one
    model = Letters(size)
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        starts = torch.randint(0, len(data) - 33, (32,))
        pieces = torch.stack([data[start : start + 33] for start in starts])
        scores, _ = model.every(pieces[:, :-1], torch.zeros(32, size))
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), pieces[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    torch.set_num_threads(threads)
    return model.eval()


def write(model: Letters, folder: Path) -> None:
    """A repository with ``letters_onnx``, of any time, and ``letters_torch``, of one token at a time."""
    for name in ("letters_onnx", "letters_torch"):
        (folder / name / "1").mkdir(parents=True, exist_ok=True)
        (folder / name / "salver.toml").write_text(CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, model.size)),
            str(folder / "letters_onnx" / "1" / "model.onnx"),
            input_names=["tokens", "state"],
            output_names=["scores", "state_after"],
            dynamic_axes={"tokens": {0: "batch", 1: "time"}, "state": {0: "batch"}},
            dynamo=False,
        )
        batch = torch.export.Dim("batch", max=1024)
        program = torch.export.export(
            model,
            (torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, model.size)),
            dynamic_shapes={"tokens": {0: batch}, "state": {0: batch}},
        )
        torch.export.save(program, folder / "letters_torch" / "1" / "model.pt2")


if __name__ == "__main__":
    source, target = sys.argv[1:]
    write(train(Path(source).read_bytes()), Path(target))
