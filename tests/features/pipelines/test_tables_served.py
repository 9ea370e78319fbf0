"""Models of tables on a real server: every form and protocol answers as the framework on the data frame."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import numpy as np
import pandas as pd
import pytest
import tritonclient.grpc as triton
import yaml
from real_tables import (
    NUMBERS,
    TEXTS,
    UNREAD,
    categorical,
    patients,
    records,
    write_lightgbm,
    write_pipeline,
    write_xgboost,
)
from sklearn.linear_model import LinearRegression

from salver.testing.process import ServerProcess

CSV = {"content-type": "text/csv"}
PARQUET = {"content-type": "application/vnd.apache.parquet"}
ARROW = {"content-type": "application/vnd.apache.arrow.stream"}


class World:
    """A server, and what its models are to answer for the data frame."""

    def __init__(self, folder: Path) -> None:
        self.frame = patients()
        self.rows = self.frame[[UNREAD, *NUMBERS, *TEXTS]]
        self.read = self.frame[[*NUMBERS, *TEXTS]]
        own = write_pipeline(self.frame, folder / "sick")
        boosted = write_xgboost(self.frame, folder / "xgb")
        light = write_lightgbm(self.frame, folder / "lgb")
        self.labels = own.predict(self.rows).tolist()
        self.probabilities = own.predict_proba(self.rows)
        self.scores = {"xgb": boosted(categorical(self.frame)), "lgb": light.predict(categorical(self.frame))}
        self.linear = _mlflow(self.frame, folder / "mlflow")
        # "sick" runs in a host process, which imports scikit-learn; the server's own has it for LightGBM.
        (folder / "mlflow" / "salver.toml").write_text('[instances]\nrunner = "thread"\n')

    def serve(self, server: ServerProcess) -> "World":
        self.server = server
        self.client = httpx.Client(base_url=server.url, timeout=60)
        return self

    def ask(self, model: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.client.post(f"/v1/models/{model}", content=content, headers=headers or {})
        return answer.status_code, answer.json()


def _mlflow(frame: Any, folder: Path) -> Any:
    import skops.io

    folder.mkdir(parents=True)
    rows = pd.DataFrame({"age": frame.age, "s1": frame.s1, "young": frame.age < 40})
    own = LinearRegression().fit(rows, frame.fast == "yes")
    skops.io.dump(own, folder / "model.skops")
    kinds = {"age": "long", "s1": "double", "young": "boolean"}
    columns = json.dumps([{"name": name, "type": kind} for name, kind in kinds.items()])
    said = {
        "flavors": {"sklearn": {"pickled_model": "model.skops"}},
        "signature": {"inputs": columns, "outputs": None},
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(said))
    return rows, own.predict(rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("tables")
    made = World(folder)
    with ServerProcess([folder], folder.with_suffix(".log")) as running:
        yield made.serve(running.wait_ready())


def test_a_pipeline_answers_as_it_does_itself(world: World) -> None:
    asked = {"inputs": records(world.rows), "parameters": {"probabilities": True}}
    status, told = world.ask("sick", asked)
    assert (status, told["predictions"]) == (200, world.labels)
    np.testing.assert_allclose(
        [[row["no"], row["yes"]] for row in told["probabilities"]], world.probabilities, atol=1e-12
    )


@pytest.mark.parametrize("model", ["sick", "xgb", "lgb"])
def test_every_form_has_the_same_answer(world: World, model: str) -> None:
    rows = world.read[:50]
    wanted = world.labels[:50] if model == "sick" else world.scores[model][:50].tolist()
    split = rows.astype(object).where(rows.notna(), None).to_dict("split")
    arrow = pytest.importorskip("pyarrow")
    stream = io.BytesIO()
    with arrow.ipc.new_stream(stream, arrow.Schema.from_pandas(rows, preserve_index=False)) as writer:
        writer.write_table(arrow.Table.from_pandas(rows, preserve_index=False))
    asked: list[tuple[Any, dict[str, str]]] = [
        ({"inputs": records(rows)}, {}),
        ({"instances": records(rows)}, {}),
        ({"dataframe_records": records(rows)}, {}),
        ({"dataframe_split": split}, {}),
        (rows.to_csv(index=False).encode(), CSV),
        (rows[rows.columns[::-1]].to_csv(index=False).encode(), CSV),
        (rows.to_parquet(index=False), PARQUET),
        (stream.getvalue(), ARROW),
    ]
    for body, headers in asked:
        status, told = world.ask(model, body, headers)
        assert status == 200, told
        if model == "sick":
            assert told == {"predictions": wanted}
        else:
            np.testing.assert_allclose(told["predictions"], wanted, rtol=1e-7)


def test_a_signature_of_mlflow_is_held_to(world: World) -> None:
    rows, wanted = world.linear
    status, told = world.ask("mlflow", {"dataframe_records": records(rows[:9])})
    assert status == 200, told
    np.testing.assert_allclose(told["predictions"], wanted[:9], rtol=1e-9)
    for change, said in (
        ({"age": 1.5}, "inputs[0]: column 'age' must be an integer, not a number"),
        ({"s1": None}, "inputs[0]: column 's1' is missing, and the model takes no missing values there"),
        ({"young": "yes"}, "inputs[0]: column 'young' must be true or false, not 'yes'"),
    ):
        status, told = world.ask("mlflow", {"inputs": [{**records(rows[:1])[0], **change}]})
        assert status == 400 and said in told["error"]


def tensors(rows: Any) -> list[triton.InferInput]:
    made = []
    for name in rows.columns:
        is_text = name in TEXTS
        values = rows[name].to_numpy(object if is_text else "f8")
        if is_text:
            values = np.array([value.encode() for value in values], object)
        made.append(triton.InferInput(name, [len(rows)], "BYTES" if is_text else "FP64"))
        made[-1].set_data_from_numpy(values)
    return made


@pytest.mark.parametrize("model", ["xgb", "lgb"])
def test_a_tensor_for_each_column(world: World, model: str) -> None:
    rows = world.read.dropna(subset=TEXTS)[:20]
    wanted = world.scores[model][rows.index]
    with triton.InferenceServerClient(world.server.url.removeprefix("http://")) as client:
        told = client.infer(model, tensors(rows)).as_numpy("output")
    np.testing.assert_allclose(told, wanted, rtol=1e-7)
    complete = rows.dropna()
    entries = [
        {
            "name": name,
            "shape": [len(complete)],
            "datatype": "BYTES" if name in TEXTS else "FP64",
            "data": complete[name].tolist(),
        }
        for name in complete.columns
    ]
    answer = world.client.post(f"/v2/models/{model}/infer", json={"inputs": entries}).json()
    np.testing.assert_allclose(answer["outputs"][0]["data"], world.scores[model][complete.index], rtol=1e-7)
    entries[-1]["data"] = ["divers"] * len(complete)
    answer = world.client.post(f"/v2/models/{model}/infer", json={"inputs": entries})
    assert answer.status_code == 400 and "row 0: column 'sex' has no category" in answer.json()["error"]


def test_the_signature_of_columns_for_clients_of_tensorflow_serving(world: World) -> None:
    rows = world.read.dropna()[:5]
    asked = {"signature_name": "columns", "instances": records(rows)}
    answer = world.client.post("/v1/models/lgb:predict", json=asked).json()
    np.testing.assert_allclose(answer["predictions"], world.scores["lgb"][rows.index], rtol=1e-9)


def test_a_matrix_is_taken_as_before(world: World) -> None:
    codes = categorical(world.frame)[:7]
    for name in TEXTS:
        codes[name] = codes[name].cat.codes.replace(-1, np.nan)
    data = codes.to_numpy("f4")
    tensor = triton.InferInput("input", list(data.shape), "FP32")
    tensor.set_data_from_numpy(data)
    with triton.InferenceServerClient(world.server.url.removeprefix("http://")) as client:
        told = client.infer("xgb", [tensor]).as_numpy("output")
    np.testing.assert_allclose(told, world.scores["xgb"][:7], rtol=1e-6)


def test_many_callers_at_once_get_their_own_answers(world: World) -> None:
    found: dict[int, tuple[int, Any]] = {}
    rows = records(world.read)

    def ask(index: int) -> None:
        row = dict(rows[index])
        if index % 7 == 3:
            row["sex"] = "divers"
        found[index] = world.ask("sick", {"inputs": [row]})

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, (status, told) in found.items():
        if index % 7 == 3:
            assert status == 400 and "column 'sex' has no category 'divers'" in told["error"]
        else:
            assert (status, told) == (200, {"predictions": [world.labels[index]]})


def test_hostile_tables_are_refused_and_the_server_goes_on(world: World) -> None:
    import pyarrow
    import pyarrow.parquet

    bomb = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"age": np.zeros(1_000_000, "i1")}), bomb, compression="zstd")
    head = ",".join(world.read.columns) + "\n"
    asked: list[tuple[Any, dict[str, str], str]] = [
        (bomb.getvalue(), PARQUET, "more than 100000 rows"),
        (bomb.getvalue()[:-9], PARQUET, "no parquet that can be read"),
        (b"age," * 500_000, CSV, "unknown column ''"),
        (head.encode() + b"1,1,1,normal,male\n" * 200_000, CSV, "more than 100000 rows"),
        (head.encode() + b'1,1,1,"' + b"x" * 1_000_000, CSV, "line 2 is not readable"),
        (b'{"inputs": [{"age": NaN, "bp": -Infinity', {}, "failed to parse"),
        ({"inputs": [{}] * 150_000}, {}, "more than 100000 rows"),
    ]
    for body, headers, said in asked:
        status, told = world.ask("sick", body, headers)
        assert status == 400 and said in told["error"], told
    assert world.ask("sick", {"inputs": records(world.read[:1])})[0] == 200


def test_a_body_that_lies_of_its_size_costs_its_own_request(world: World) -> None:
    import pyarrow

    rows = 50_001
    table = pyarrow.table({"age": np.zeros(rows)})
    out = io.BytesIO()
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_stream(out, table.schema, options=options) as writer:
        writer.write_table(table)
    honest, lie = (8 * rows).to_bytes(8, "little"), (1 << 42).to_bytes(8, "little")
    assert out.getvalue().count(honest) >= 1
    status, told = world.ask("sick", out.getvalue().replace(honest, lie), ARROW)
    assert status in (400, 413), told
    assert world.ask("sick", world.read[:2].to_parquet(index=False), PARQUET)[0] == 200


def test_a_large_table_is_answered_whole(world: World) -> None:
    many = pd.concat([world.read] * 40)
    status, told = world.ask("lgb", many.to_csv(index=False).encode(), CSV)
    assert status == 200 and len(told["predictions"]) == len(many)
    np.testing.assert_allclose(told["predictions"], np.tile(world.scores["lgb"], 40), rtol=1e-9)


def test_the_page_of_the_api_shows_a_request_that_is_answered(world: World) -> None:
    page = world.client.get("/openapi.json").json()
    for model in ("sick", "xgb", "lgb", "mlflow"):
        content = page["paths"][f"/v1/models/{model}"]["post"]["requestBody"]["content"]
        assert {"application/json", "text/csv", "application/vnd.apache.parquet"} <= content.keys()
        example = content["application/json"]["example"]
        assert world.ask(model, example)[0] == 200
        check = jsonschema_rs.validator_for(content["application/json"]["schema"])
        check.validate(example)
    schema = page["paths"]["/v1/models/sick"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    check = jsonschema_rs.validator_for(schema)
    check.validate({"inputs": records(world.rows[:20])})
    assert not check.is_valid({"inputs": [{**records(world.read[:1])[0], "sex": "divers"}]})
    assert not check.is_valid({"inputs": [{"age": 4}]})


def test_a_tensor_model_beside_them_has_no_such_path(world: World) -> None:
    status, _ = world.ask("nobody", {"inputs": []})
    assert status == 404
