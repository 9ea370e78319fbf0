"""Growing answer of one sequence: scores to token, token to text, and the end of the answer.

Pure.
"""

import msgspec

from salver.kernel.engine.generation import Prompt
from salver.kernel.engine.sampling import draw
from salver.kernel.engine.transcript import Transcript, Vocabulary
from salver.words.errors import SalverError
from salver.words.messages import Timing
from salver.words.tensor import Array


class Piece(msgspec.Struct, frozen=True):
    """Part of an answer.

    Attributes:
        text: New text; may be empty.
        finish: For the last piece, the reason: ``length``, ``eos_token`` or ``stop_sequence``; else empty.
        error: Error that ended the answer; the piece is then the last one.
    """

    text: str = ""
    finish: str = ""
    error: SalverError | None = None
    timing: Timing = Timing()

    @property
    def is_last(self) -> bool:
        """Return whether this is the last piece."""
        return bool(self.finish) or self.error is not None


class Answer:
    """Tokens and text of one sequence.

    Args:
        end_token: Token that ends the answer; -1 = none.
        arrived: Time of arrival.
        owner: Whose prompt it is.

    Attributes:
        tokens: Tokens of the prompt and of the answer.
        joined: Time at which its first step was planned; 0 = not yet.
    """

    __slots__ = ("_end_token", "_given", "_prompt", "_transcript", "arrived", "joined", "owner", "tokens")

    def __init__(
        self, prompt: Prompt, vocabulary: Vocabulary, end_token: int, arrived: float, owner: str = ""
    ) -> None:
        self._prompt = prompt
        self._transcript = Transcript(vocabulary, prompt.stops)
        self._end_token = end_token
        self._given = 0
        self.tokens = list(prompt.tokens)
        self.arrived = arrived
        self.owner = owner
        self.joined = 0.0

    @property
    def counts(self) -> tuple[int, int]:
        """Return the number of tokens of the prompt and of the answer so far."""
        return len(self._prompt.tokens), self._given

    def go_on(self, scores: Array, likeliest: int, now: float) -> Piece:
        """Draw the next token.

        Args:
            scores: Finite or -inf.
            likeliest: Token with the highest score.

        >>> import numpy as np
        >>> from salver.kernel.engine.sampling import Sampling
        >>> from salver.kernel.engine.transcript import ByteVocabulary
        >>> prompt = Prompt([97], 2, Sampling(temperature=0), (), False)
        >>> answer = Answer(prompt, ByteVocabulary(), -1, 0.0)
        >>> pieces = [answer.go_on(np.eye(256)[token], token, 1.0) for token in (98, 99)]
        >>> [(piece.text, piece.finish) for piece in pieces]
        [('b', ''), ('c', 'length')]
        """
        sampling = self._prompt.sampling
        token = likeliest
        if sampling.temperature:
            token = draw(scores, sampling, self._given)
        self._given += 1
        self.tokens.append(token)
        text, finish = "", "eos_token"
        if token != self._end_token:
            text = self._transcript.add(token)
            finish = ""
            if self._given == self._prompt.most:
                finish = "length"
        if finish:
            text += self._transcript.rest()
        if self._transcript.is_stopped:
            finish = "stop_sequence"
        if not finish:
            return Piece(text)
        wait, work = self.joined - self.arrived, now - self.joined
        return Piece(text, finish, timing=Timing(wait, 0.0, work, 1, arrived=self.arrived, ended=now))
