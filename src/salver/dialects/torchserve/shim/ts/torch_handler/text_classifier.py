"""Classification of texts.

One text for each run: further texts of a batch are ignored, as in TorchServe.
"""

from typing import Any

import torch

from ts.handler_utils.bodies import body_of
from ts.handler_utils.libraries import needed
from ts.handler_utils.text_utils import ngrams_iterator
from ts.torch_handler.text_handler import TextHandler
from ts.utils.util import map_class_to_label


class TextClassifier(TextHandler):
    """Classifier of words and word pairs by their indices in the vocabulary."""

    ngrams = 2

    def preprocess(self, data: Any) -> tuple[Any, Any]:
        """Return the indices of the cleaned text's words, and the words.

        Raises:
            KeyError: the vocabulary lacks a word, and an index for unknown ones.
        """
        line = data[0]
        text = body_of(line)
        if isinstance(text, bytes | bytearray):
            text = text.decode("utf-8")
        text = self._remove_html_tags(text).lower()
        text = self._remove_accented_characters(self._expand_contractions(text))
        words = self._tokenize(self._remove_punctuation(text))
        numbers = [self.source_vocab[token] for token in ngrams_iterator(words, self.ngrams)]
        return torch.as_tensor(numbers, device=self.device), words

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the scores of the bag of words."""
        return super().inference(data[0], torch.as_tensor([0], device=self.device))

    def postprocess(self, data: Any) -> Any:
        """Return the probability of each class."""
        return map_class_to_label(torch.softmax(data, dim=1).tolist(), self.mapping)

    def get_insights(self, tensor_data: Any, inputs: Any, target: Any = 0) -> Any:
        """Return the words, and what they add to the score of ``target``."""
        numbers, words = tensor_data
        reference = needed("an explanation", "captum.attr", "captum").TokenReferenceBase()
        attributions = self.layer_gradients().attribute(
            numbers,
            reference.generate_reference(numbers.shape[0], device=self.device).squeeze(0),
            additional_forward_args=torch.tensor([0]).to(self.device),
            return_convergence_delta=False,
            target=target,
        )
        importances = self.summarize_attributions(attributions).tolist()
        return [{"importances": importances, "words": self.get_word_token(words)}]
