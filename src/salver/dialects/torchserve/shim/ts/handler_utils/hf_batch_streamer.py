"""Streaming of a batch from Hugging Face's ``generate``."""

from collections.abc import Iterator
from typing import Any

from ts.handler_utils.libraries import needed


class TextIteratorStreamerBatch:
    """Streamer for ``generate``, to be iterated in another thread.

    Each item is a list with ``{"text": …}`` for each sequence; iteration ends with the first sequence that
    ends.
    """

    def __init__(
        self,
        tokenizer: Any,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        streamer = needed("TextIteratorStreamerBatch", "transformers").TextIteratorStreamer
        self.batch_size = batch_size
        self.streamers = [
            streamer(tokenizer, skip_prompt, timeout, **decode_kwargs) for _ in range(batch_size)
        ]
        self.streamer_iterators = [iter(each) for each in self.streamers]

    def put(self, value: Any) -> None:
        """Add tokens ``[batch, …]``, a row for each sequence.

        Raises:
            ValueError: the number of rows is wrong.
        """
        if value.shape[0] != self.batch_size:
            raise ValueError(
                f"TextIteratorStreamerBatch batch size is set to {self.batch_size} but got input tensor of "
                f"shape {value.shape}"
            )
        for row, streamer in enumerate(self.streamers):
            streamer.put(value[row : row + 1])

    def end(self) -> None:
        """End all sequences."""
        for streamer in self.streamers:
            streamer.end()

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        return self

    def __next__(self) -> list[dict[str, str]]:
        texts = [next(each, None) for each in self.streamer_iterators]
        said = [{"text": text} for text in texts if text is not None]
        if len(said) < len(texts):
            raise StopIteration
        return said
