"""The top of the package: light at import, whole on demand."""

import subprocess
import sys

import numpy as np
import pytest

import salver


def test_the_names_on_demand_are_the_real_ones() -> None:
    from salver.client import Client
    from salver.configuration import ServeConfig
    from salver.embed import Server

    assert (salver.Server, salver.ServeConfig, salver.Client) == (Server, ServeConfig, Client)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = salver.Nonsense


def test_what_users_catch_has_a_public_name() -> None:
    from salver.words import errors

    assert salver.InvalidInput is errors.InvalidInput
    assert issubclass(salver.Unreachable, salver.SalverError)
    for name in salver._WHERE:
        assert isinstance(getattr(salver, name), type)
        assert name in dir(salver)


def test_nothing_is_loaded_until_asked_for() -> None:
    program = "import sys, salver; print(sorted(m for m in sys.modules if m.startswith(('salver', 'numpy'))))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['salver']"


@pytest.mark.clause("TR-A7")
async def test_a_server_inside_a_program(tmp_path) -> None:
    (tmp_path / "double.py").write_text(
        "class Model:\n"
        "    inputs = {'x': ('FP32', [-1])}\n"
        "    outputs = {'y': ('FP32', [-1])}\n"
        "    def predict(self, inputs):\n"
        "        return {'y': 2 * inputs['x']}\n"
    )
    async with salver.Server(tmp_path / "double.py", port=0) as server, salver.Client(server.url) as client:
        answer = await client.infer("double", {"x": np.array([1, 2], np.float32)})
        assert answer["y"].tolist() == [2.0, 4.0]
