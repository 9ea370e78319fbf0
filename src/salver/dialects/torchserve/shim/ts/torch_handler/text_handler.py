"""Base class of handlers of texts."""

import re
import string
import unicodedata
from abc import ABC
from pathlib import Path
from typing import Any, Final

import torch

from ts.handler_utils.libraries import needed
from ts.handler_utils.text_utils import get_tokenizer
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.utils.util import CLEANUP_REGEX

CONTRACTIONS_PATTERN: Final = re.compile(f"({'|'.join(CONTRACTION_MAP)})", re.IGNORECASE | re.DOTALL)
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


class TextHandler(BaseHandler, ABC):
    """Handler of texts, with a vocabulary in ``source_vocab.pt``."""

    def __init__(self) -> None:
        super().__init__()
        self.source_vocab: Any = None
        self.tokenizer: Any = get_tokenizer("basic_english")
        self.input_text: Any = None
        self.lig: Any = None
        self.initialized = None

    def initialize(self, context: Any) -> None:
        """Load the model and its vocabulary."""
        super().initialize(context)
        self.initialized = False
        named = self.manifest["model"].get("sourceVocab")
        self.source_vocab = torch.load(named or self.get_source_vocab_path(context))
        self.initialized = True

    def get_source_vocab_path(self, ctx: Any) -> str:
        """Return the path of the vocabulary.

        Raises:
            RuntimeError: there is none.
        """
        path = Path(ctx.system_properties.get("model_dir")) / "source_vocab.pt"
        if not path.is_file():
            raise RuntimeError(
                "Missing the source_vocab file. Refer default handler documentation for details on using "
                "text_handler."
            )
        return str(path)

    def layer_gradients(self) -> Any:
        """Return Captum's integrated gradients of the layer ``embedding``, created at the first use."""
        if self.lig is None:
            captum = needed("an explanation", "captum.attr", "captum")
            self.lig = captum.LayerIntegratedGradients(self.model, self.model.embedding)
        return self.lig

    def _expand_contractions(self, text: str) -> str:
        def expanded(found: re.Match[str]) -> str:
            short = found.group(0)
            whole = CONTRACTION_MAP.get(short) or CONTRACTION_MAP[short.lower()]
            return short[0] + whole[1:]

        return CONTRACTIONS_PATTERN.sub(expanded, text).replace("'", "")

    def _remove_accented_characters(self, text: str) -> str:
        return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()

    def _remove_html_tags(self, text: str) -> str:
        return CLEANUP_REGEX.sub("", text)

    def _remove_punctuation(self, text: str) -> str:
        return text.translate(_PUNCTUATION)

    #: TorchServe's spelling, which handlers call.
    _remove_puncutation = _remove_punctuation

    def _tokenize(self, text: str) -> Any:
        return self.tokenizer(text)

    def get_word_token(self, input_tokens: Any) -> list[str]:
        """Return words without the mark of byte-pair tokenizers for a blank."""
        return [token.replace("Ġ", "") for token in input_tokens]

    def summarize_attributions(self, attributions: Any) -> Any:
        """Return shares of the embedding's parts, divided by the norm of their sums."""
        dim = 0 if attributions.ndim in (0, 1, 3) else 1
        shares = torch.softmax(attributions, dim)
        return shares / torch.norm(shares.sum(dim=-1))
