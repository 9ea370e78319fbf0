"""tritonserver's flags about the repository, with a server process (TR-F2, TR-L7, TR-S12)."""

import hashlib
from pathlib import Path

import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from triton_repository import ask, index
from tritonclient.utils import InferenceServerException
from zoo import write_constant

from salver.testing.process import TritonProcess

WHOLE = """backend: "onnxruntime" max_batch_size: {rows}
input {{ name: "x" data_type: TYPE_FP32 dims: 16 }} output {{ name: "y" data_type: TYPE_FP32 dims: 1 }}
"""


@pytest.mark.clause("TR-L7", "TR-S12")
def test_two_repositories_share_a_name_and_one_is_checked(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for root, version in ((one, 1), (two, 2)):
        write_constant(root, version)
        (root / "constant" / "config.pbtxt").write_text(WHOLE.format(rows=4))
    (two / "constant" / "configs").mkdir()
    (two / "constant" / "configs" / "big.pbtxt").write_text(WHOLE.format(rows=32))
    write_constant(one, 7)
    (one / "constant" / "7").rename(one / "seven")
    (one / "sealed").mkdir()
    (one / "seven").rename(one / "sealed" / "1")
    digest = hashlib.md5((one / "sealed" / "1" / "model.onnx").read_bytes()).hexdigest()
    agent = (
        'model_repository_agents {{ agents {{ name: "checksum" parameters {{ key: "{}" value: "{}" }} }} }}'
    )
    sealed = one / "sealed" / "config.pbtxt"
    sealed.write_text(WHOLE.format(rows=4) + agent.format("MD5:1/model.onnx", digest))
    flags = ["--model-namespacing=true", "--model-config-name=big", "--model-control-mode=explicit"]
    flags += ["--load-model=*", "--disable-auto-complete-config"]
    with TritonProcess([one, two], tmp_path / "log", flags) as server:
        server.wait_ready()
        with (
            http_client.InferenceServerClient(server.address) as http,
            grpc_client.InferenceServerClient(f"{server.host}:{server.ports['grpc']}") as grpc,
        ):
            names = {name for name, _ in index(http, http_client)}
            assert names == {"one::constant", "two::constant", "sealed"}
            for client, triton in ((grpc, grpc_client), (http, http_client)):
                assert [ask(client, triton, f"{root}::constant") for root in ("one", "two")] == [1, 2]
                with pytest.raises(
                    InferenceServerException, match="There are 2 identifiers of model 'constant'"
                ):
                    ask(client, triton, "constant")
            assert http.get_model_config("two::constant")["max_batch_size"] == 32
            assert ask(grpc, grpc_client, "sealed") == 7
            sealed.write_text(WHOLE.format(rows=4) + agent.format("MD5:1/model.onnx", "0" * 32))
            with pytest.raises(InferenceServerException, match="Mismatched MD5 hash"):
                grpc.load_model("sealed")
            assert ask(grpc, grpc_client, "sealed") == 7, "what was loaded stays"
            (one / "sealed" / "config.pbtxt").write_text("max_batch_size: 4")
            with pytest.raises(InferenceServerException, match="must specify 'platform' or 'backend'"):
                grpc.load_model("sealed")


@pytest.mark.clause("TR-F2")
def test_a_load_is_tried_again_before_the_server_gives_up(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "late" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(
        "from pathlib import Path\n\n\nclass TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        "        tries = Path(__file__).with_name('tries')\n"
        "        tries.write_text(tries.read_text() + 'x' if tries.exists() else 'x')\n"
        "        if len(tries.read_text()) < 2:\n            raise RuntimeError('not yet')\n\n"
        "    def execute(self, requests):\n        return []\n"
    )
    io = "".join(
        f'{side} {{ name: "{side}" data_type: TYPE_FP32 dims: 1 }}\n' for side in ("input", "output")
    )
    (folder.parent / "config.pbtxt").write_text(f'backend: "python"\n{io}')
    with TritonProcess([tmp_path / "models"], tmp_path / "log", ["--model-load-retry-count=2"]) as server:
        server.wait_ready()
    assert (folder / "tries").read_text() == "xx"
    (folder / "tries").unlink()
    with TritonProcess([tmp_path / "models"], tmp_path / "log") as server:
        assert server.wait() == 1
