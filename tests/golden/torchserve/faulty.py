import os

from ts.torch_handler.base_handler import BaseHandler


class Faulty(BaseHandler):
    def initialize(self, context):
        self.initialized = True
        self.context = context

    def stage(self, name):
        if self.ask == name:
            raise ValueError("fault in " + name)

    def preprocess(self, data):
        self.stage("preprocess")
        return data

    def inference(self, data):
        self.stage("inference")
        return data

    def postprocess(self, data):
        self.stage("postprocess")
        return ["fine"] * len(data)

    def handle(self, data, context):
        body = data[0].get("body")
        self.ask = bytes(body).decode() if isinstance(body, (bytes, bytearray)) else body
        if self.ask == "too-many":
            return ["a"] * (len(data) + 1)
        if self.ask == "too-few":
            return []
        if self.ask == "not-a-list":
            return "text"
        if self.ask == "none":
            return None
        if self.ask == "tuple":
            return ("a",)
        if self.ask == "memory":
            raise MemoryError()
        if self.ask == "cuda":
            raise RuntimeError("CUDA is unhappy")
        if self.ask == "keyerror":
            return [data[0]["absent"]]
        if self.ask == "exit":
            os._exit(3)
        return self.postprocess(self.inference(self.preprocess(data)))
