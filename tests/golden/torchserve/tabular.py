import torch
from ts.torch_handler.base_handler import BaseHandler


class Tabular(BaseHandler):
    def preprocess(self, data):
        rows = []
        for row in data:
            body = row.get("data") if row.get("data") is not None else row.get("body")
            rows.append(body["x"] if isinstance(body, dict) else body)
        return torch.tensor(rows, dtype=torch.float32)

    def postprocess(self, data):
        return [[round(v, 4) for v in row] for row in data.tolist()]

    def explain_handle(self, data_preprocess, raw_data):
        return [{"explained": len(raw_data), "shape": list(data_preprocess.shape)}]

    def describe_handle(self):
        return {"inputs": 4, "outputs": 3, "about": "tabular"}
