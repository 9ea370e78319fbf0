"""Write the folder of SmolLM2 135M for ``salver serve``, with its vocabulary and chat template.

    python examples/smollm2/prepare.py models/smollm2

The server splits texts into the longest tokens of the vocabulary, not quite as in the model's training.
"""

import json
import shutil
import sys
from pathlib import Path

from model import CONTEXT, Gguf, weights_file

CONFIG = f"""[steps]
vocabulary = "vocabulary.json"
end_token = 2
max_sequences = 4
max_context = {CONTEXT}
prefix_block = 32

[chat]
template = "chat.jinja"
"""


def spelt(tokens: list[str]) -> list[str]:
    """Return the texts of GPT-2's tokens, which write each byte as a character; others get a stand-in."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    bytes_of = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
    texts, seen = [], set()
    for number, token in enumerate(tokens):
        try:
            text = bytes(bytes_of[character] for character in token).decode()
        except (KeyError, UnicodeDecodeError):
            text = f"\N{REPLACEMENT CHARACTER}{number}"
        if text in seen:
            text = f"\N{REPLACEMENT CHARACTER}{number}"
        seen.add(text)
        texts.append(text)
    return texts


def main(folder: Path) -> None:
    facts = Gguf(weights_file()).facts
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "salver.toml").write_text(CONFIG)
    (folder / "chat.jinja").write_text(facts["tokenizer.chat_template"])
    vocabulary = json.dumps(spelt(facts["tokenizer.ggml.tokens"]), ensure_ascii=False)
    (folder / "1" / "vocabulary.json").write_text(vocabulary)
    shutil.copy(Path(__file__).with_name("model.py"), folder / "1" / "model.py")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
