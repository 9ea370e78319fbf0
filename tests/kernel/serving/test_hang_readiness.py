"""A model whose run hangs on a thread takes the server out of rotation until the run ends."""

import threading
from pathlib import Path

import numpy as np
import pytest
from waiting import until

import salver
from salver.words.errors import NotReady

SOURCE = """
import pathlib, time

class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def predict(self, inputs):
        while (inputs["x"] < 0).any() and not pathlib.Path(GATE).exists():
            time.sleep(0.01)
        return {"y": inputs["x"] * 2}
"""


def test_a_server_is_ready_again_when_the_run_that_hung_has_ended(tmp_path: Path) -> None:
    folder, gate = tmp_path / "models" / "m", tmp_path / "open"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(f"GATE = {str(gate)!r}\n{SOURCE}")
    (folder / "salver.toml").write_text('[instances]\nrunner = "thread"\nrun_timeout_s = 0.3\n')
    x = np.ones((1, 1), "f4")
    with salver.Server(tmp_path / "models") as server:
        model = server.model("m")
        assert server.is_ready()
        assert model.infer({"x": x})["y"].numpy()[0, 0] == 2
        caught: list[Exception] = []

        def hang() -> None:
            try:
                model.infer({"x": -x})
            except NotReady as error:
                caught.append(error)

        thread = threading.Thread(target=hang)
        thread.start()
        until(lambda: not server.is_ready())
        thread.join()
        assert "does not end" in str(caught[0])
        with pytest.raises(NotReady):
            model.infer({"x": x})
        gate.touch()
        until(server.is_ready)
        assert model.infer({"x": x})["y"].numpy()[0, 0] == 2
