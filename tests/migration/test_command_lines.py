"""Command lines of other servers, as they stand in scripts, Dockerfiles, Compose and Kubernetes files."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.migration.command_lines import Launch, filled, of_dockerfile, of_shell, of_yaml

TFS = "tensorflow/serving:2.16.1"
TRITON = "nvcr.io/nvidia/tritonserver:24.01-py3"


def brief(launches: tuple[Launch, ...]) -> list[tuple[str, str]]:
    return [(launch.server, " ".join(launch.words)) for launch in launches]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("torchserve --start --ncs --models a=a.mar", [("torchserve", "--start --ncs --models a=a.mar")]),
        ("/opt/bin/tritonserver --id x && sleep 1", [("triton", "--id x")]),
        ("exec tritonserver --id 'a b' >log 2>&1 &", [("triton", "--id a b")]),
        (
            "A=1 tensorflow_model_server \\\n  --port=1 \\\n  --model_name=$A",
            [("tensorflow-serving", "--port=1 --model_name=1")],
        ),
        ('bash -c "cd /m; tritonserver --model-repository=."', [("triton", "--model-repository=.")]),
        ("python3 /opt/openai_frontend/openai/main.py --tokenizer t", [("triton", "--tokenizer t")]),
        ("ExecStart=/usr/bin/torchserve --start", [("torchserve", "--start")]),
        (
            "tritonserver --id a | tee log; torchserve --start",
            [("triton", "--id a"), ("torchserve", "--start")],
        ),
        ("pip install torchserve torch-model-archiver", []),
        ("# tritonserver --model-repository=/m", []),
        ("pkill tritonserver", []),
        ("docker build -t torchserve .", []),
        ("tritonserver --id 'unbalanced", []),
        ("", []),
    ],
)
def test_in_shell_text(text: str, found: list[tuple[str, str]]) -> None:
    assert brief(of_shell(text)) == found


def test_docker_run_says_what_lies_where() -> None:
    text = (
        f"docker run --rm -v $PWD/models:/models:ro --mount type=bind,source=/c,target=/conf \\\n"
        f"  -e MODEL_NAME=half {TFS} --enable_batching"
    )
    (launch,) = of_shell(text)
    assert launch.words == ("--model_name=half", "--model_base_path=/models/half", "--enable_batching")
    assert launch.mounts == {"/models": "./models", "/conf": "/c"}
    assert launch.line == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'FROM {TRITON}\nCMD ["tritonserver", "--model-repository=/m"]', ("--model-repository=/m",)),
        (f"FROM {TRITON}\nENV R=/m\nCMD tritonserver --model-repository=${{R}}", ("--model-repository=/m",)),
        (f'FROM {TFS}\nCMD ["--model_config_file=/c"]', ("--model_config_file=/c",)),
        (f"FROM {TFS}\nENV MODEL_NAME=a", ("--model_name=a", "--model_base_path=/models/a")),
        (
            'FROM x\nENTRYPOINT ["torchserve"]\nCMD ["--start", "--foreground"]',
            ("--start", "--foreground"),
        ),
        (
            "FROM pytorch/torchserve:latest",
            ("--start", "--foreground", "--ts-config", "/home/model-server/config.properties"),
        ),
    ],
)
def test_in_a_dockerfile(text: str, words: tuple[str, ...]) -> None:
    (launch,) = of_dockerfile(text)
    assert launch.words == words


def test_a_dockerfile_that_starts_nothing_of_these() -> None:
    assert of_dockerfile(f"FROM {TRITON}\nRUN pip install x") == ()
    assert of_dockerfile("FROM python:3.12\nCMD python app.py") == ()


def test_what_a_dockerfile_copies() -> None:
    text = "FROM pytorch/torchserve\nCOPY a.mar b.mar /store/\nCOPY conf/c.properties /etc/c\n"
    text += "COPY --from=x /y /z\n"
    (launch,) = of_dockerfile(text)
    assert launch.mounts == {"/store/a.mar": "a.mar", "/store/b.mar": "b.mar", "/etc/c": "conf/c.properties"}


COMPOSE: dict[str, Any] = {
    "services": {
        "tf": {
            "image": TFS,
            "command": "--model_config_file=/models/m.config --rest_api_port=${PORT}",
            "environment": ["PORT=8501"],
            "volumes": ["./models:/models", {"type": "bind", "source": "x", "target": "/x"}],
        },
        "triton": {"image": TRITON, "entrypoint": "tritonserver", "command": ["--model-repository", "/m"]},
        "other": {"image": "redis", "command": "redis-server"},
    }
}
KUBERNETES: dict[str, Any] = {
    "kind": "Deployment",
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        "image": "pytorch/torchserve:0.12.0",
                        "args": ["torchserve", "--start", "--model-store", "$(STORE)"],
                        "env": [{"name": "STORE", "value": "/store"}],
                        "volumeMounts": [{"name": "s", "mountPath": "/store"}],
                    },
                    {"image": TRITON, "command": ["/bin/sh", "-c"], "args": ["cd /x && tritonserver --id k"]},
                ],
                "volumes": [{"name": "s", "hostPath": {"path": "/srv/store"}}],
            }
        }
    },
}


def test_in_compose_and_kubernetes() -> None:
    tf, triton = of_yaml([COMPOSE], f"a\nimage: {TFS}\n")
    assert tf.words == ("--model_config_file=/models/m.config", "--rest_api_port=8501")
    assert tf.mounts == {"/models": "./models", "/x": "x"}
    assert (tf.line, triton.words) == (2, ("--model-repository", "/m"))
    torchserve, other = of_yaml([None, KUBERNETES])
    assert torchserve.words == ("--start", "--model-store", "/store")
    assert torchserve.mounts == {"/store": "/srv/store"}
    assert other.words == ("--id", "k")


def test_yaml_that_is_within_itself_or_deep_ends() -> None:
    loop: dict[str, Any] = {"image": TFS}
    loop["again"] = [loop]
    assert len(of_yaml([loop])) == 1
    deep: Any = {"image": TFS}
    for _ in range(100):
        deep = {"x": deep}
    assert of_yaml([deep]) == ()
    shared = [{"image": TFS}]
    for _ in range(30):  # 2**30 containers, were each looked at where it stands
        shared = [shared, shared]  # type: ignore[list-item]
    assert len(of_yaml([shared])) == 1


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    for word in ("tritonserver", f"docker run {TFS}"):
        of_shell(f"{word} {text}")
        of_dockerfile(f"FROM {TFS}\nCMD {text}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["image", "command", "args", "env", "volumes", "containers", "volumeMounts"]),
                inner,
            )
        ),
    )
)
def test_any_document_is_read(document: Any) -> None:
    of_yaml([document])


@pytest.mark.parametrize(
    ("word", "text"),
    [("${A}/$B", "1/$B"), ("${C:-d}", "d"), ("$(A)", "1"), ("$PWD/x", "./x"), ("$(pwd)/x", "./x")],
)
def test_variables_that_are_known(word: str, text: str) -> None:
    assert filled(word, {"A": "1"}) == text
