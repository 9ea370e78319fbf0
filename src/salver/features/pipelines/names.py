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
)
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

#: Bodies of requests, as examples for each task.
EXAMPLES: Final[Mapping[str, str]] = {
    "text-classification": '{"inputs": "I love you"}',
    "token-classification": '{"inputs": "My name is Wolfgang and I live in Berlin."}',
    "sentence-embeddings": '{"inputs": ["How do I reset my password?", "I forgot my login"]}',
    "feature-extraction": '{"inputs": "I love you"}',
    "text-ranking": '{"inputs": {"query": "capital of France", "texts": ["Paris is large", "I love you"]}}',
    "zero-shot-classification": (
        '{"inputs": "I want my money back", "parameters": {"candidate_labels": ["refund", "faq"]}}'
    ),
    "fill-mask": '{"inputs": "Paris is the [MASK] of France."}',
    "question-answering": '{"inputs": {"question": "Where do I live?", "context": "I live in Berlin."}}',
}
