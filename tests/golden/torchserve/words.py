import json
from pathlib import Path

from ts.torch_handler.base_handler import BaseHandler


class Words(BaseHandler):
    def initialize(self, context):
        self.context = context
        here = context.system_properties["model_dir"]
        with Path(here, "vocab.json").open() as f:
            self.vocab = json.load(f)
        self.initialized = True

    def preprocess(self, data):
        texts = [row.get("data") or row.get("body") for row in data]
        return [bytes(t).decode() if isinstance(t, (bytes, bytearray)) else t for t in texts]

    def inference(self, data):
        return [[t.lower().split().count(w) for w in self.vocab] for t in data]

    def postprocess(self, data):
        return [dict(zip(self.vocab, counts, strict=True)) for counts in data]
