"""Names of tasks: which the classes of models have, and which of them Salver runs on raw inputs.

Pure.
"""

from collections.abc import Mapping
from typing import Final

#: Tasks that are served, by their names in transformers; ``sentence-embeddings`` is sentence-transformers'.
SUPPORTED: Final = (
    "text-classification",
    "token-classification",
    "sentence-embeddings",
    "feature-extraction",
    "text-ranking",
    "zero-shot-classification",
    "fill-mask",
    "question-answering",
    "image-classification",
    "object-detection",
    "automatic-speech-recognition",
    "summarization",
    "translation",
    "text2text-generation",
)
#: Those of them that take images.
OF_IMAGES: Final = ("image-classification", "object-detection")
#: Those that take sounds.
OF_SOUNDS: Final = ("automatic-speech-recognition",)
#: Those that take files.
OF_FILES: Final = (*OF_IMAGES, *OF_SOUNDS)
#: Those that make texts from texts.
OF_SEQUENCES: Final = ("summarization", "translation", "text2text-generation")
#: Ends of class names with their tasks; the first that fits counts.
SUFFIXES: Final = (
    ("ForSequenceClassification", "text-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForMaskedLM", "fill-mask"),
    ("ForImageClassification", "image-classification"),
    ("ForObjectDetection", "object-detection"),
    ("ForCTC", "automatic-speech-recognition"),
    ("ForSpeechSeq2Seq", "automatic-speech-recognition"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("ForConditionalGeneration", "text2text-generation"),
    ("MTModel", "text2text-generation"),
    ("EncoderDecoderModel", "text2text-generation"),
    ("Model", "feature-extraction"),
)
#: What to do about tasks that are not served, where there is more to say.
FIXES: Final[Mapping[str, str]] = {
    "text-generation": "Write it as a model that answers token by token (steps.vocabulary).",
    "sparse-embeddings": "Serve a dense encoder of sentence-transformers.",
}
