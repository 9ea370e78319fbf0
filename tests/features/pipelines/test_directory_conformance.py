"""Hugging Face directories against the conformance suite of backends."""

from pathlib import Path

import numpy as np
import pytest
from huggingface_directories import cases, directory

from salver.features.pipelines.backend import HuggingFaceBackend
from salver.testing.backends import BackendConformance, Case

pytest.importorskip("tokenizers")


class TestHuggingFace(BackendConformance):
    backend = HuggingFaceBackend()

    @staticmethod
    def make_case(folder: Path) -> Case:
        (batch,) = [case for case in cases("sentence-embeddings") if case["id"] == "st-mean-norm/batch"]
        texts = np.array([text.encode() for text in batch["input"]], object)
        wanted = {"embeddings": np.array(batch["output"], np.float32)}
        return Case(directory(folder, "st-mean-norm"), {"text": texts}, wanted)
