"""A model each of whose stages does what its configuration says."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The programs are the parameters ``auto``, ``initialize`` and ``execute``."""

    @staticmethod
    def auto_complete_config(config):
        parameters = config.as_dict().get("parameters") or {}
        place = {"config": config, "pb_utils": pb_utils, "json": json}
        exec(parameters.get("auto", {}).get("string_value", ""), place)
        return place.get("result", config)

    def initialize(self, args):
        self.parameters = json.loads(args["model_config"]).get("parameters") or {}
        exec(self._program("initialize"), {"self": self, "args": args, "pb_utils": pb_utils, "json": json})

    def _program(self, stage):
        return self.parameters.get(stage, {}).get("string_value", "")

    def execute(self, requests):
        out = []
        for request in requests:
            place = {"self": self, "request": request, "pb_utils": pb_utils, "np": np, "json": json}
            exec(self._program("execute"), place)
            tensor = pb_utils.Tensor("OUT", np.array([str(place.get("said")).encode()], dtype=np.object_))
            out.append(pb_utils.InferenceResponse([tensor]))
        return out
