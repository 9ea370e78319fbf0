"""Tables in requests: each form gives the same tensors, and an error names the row and the column."""

import csv
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.encoding.bodies import HttpBody, Message
from salver.features.pipelines import columnar
from salver.features.pipelines.table_codec import TableCodec, TableRequest
from salver.features.pipelines.tables import MOST_ROWS
from salver.testing.codecs import CodecConformance
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import NULL, Column, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor


def spec(name: str, datatype: DataType, **about: Any) -> TensorSpec:
    return TensorSpec(name, datatype, (-1,), column=Column(**about))


COLUMNS = (
    spec("age", DataType.INT64, kind="integer"),
    spec("bill", DataType.FP64, takes_null=True),
    spec("plan", DataType.BYTES, kind="text", categories=("free", "pro")),
    spec("city", DataType.BYTES, kind="text", takes_null=True),
    spec("new", DataType.BOOL, kind="boolean"),
    spec("id", DataType.FP64, takes_null=True, is_read=False),
)
LABELS = ("leaves", "stays")
OUTPUTS = (
    TensorSpec("label", DataType.BYTES, (-1,)),
    TensorSpec("probabilities", DataType.FP64, (-1, 2), labels=LABELS),
)
PLAIN = Signature(COLUMNS, OUTPUTS, True)
MATRIX = Signature(
    (TensorSpec("input", DataType.FP32, (-1, 6)),),
    OUTPUTS[:1],
    True,
    others=(Signature(COLUMNS, OUTPUTS[:1], True, name="columns"),),
)
ROW: dict[str, Any] = {"age": 41, "bill": 9.5, "plan": "pro", "city": "Bern", "new": True}
ROWS: list[dict[str, Any]] = [ROW, {"age": 20, "bill": None, "plan": "free", "city": None, "new": False}]
JSON = b"application/json"


def body(sent: Any, kind: bytes = JSON) -> HttpBody:
    if isinstance(sent, str):
        sent = sent.encode()
    if not isinstance(sent, bytes):
        sent = json.dumps(sent).encode()
    return HttpBody("m", "", sent, {b"content-type": kind})


def read(sent: Any, kind: bytes = JSON, signature: Signature = PLAIN) -> dict[str, list[Any]]:
    request = TableCodec().decode(body(sent, kind), signature)
    assert {tensor.name: tensor.datatype for tensor in request.inputs} == {
        each.name: each.datatype for each in COLUMNS
    }
    return {tensor.name: tensor.array.tolist() for tensor in request.inputs if tensor.name != "id"}


def refusal(sent: Any, kind: bytes = JSON) -> str:
    with pytest.raises(InvalidInput) as refused:
        TableCodec().decode(body(sent, kind), PLAIN)
    return str(refused.value)


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [*rows[0]], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


SPLIT = {"columns": [*ROW], "data": [[*row.values()] for row in ROWS]}
FORMS = (
    ({"inputs": ROWS}, JSON),
    ({"inputs": {name: [row[name] for row in ROWS] for name in ROW}}, JSON),
    ({"inputs": {"data": {name: [row[name] for row in ROWS] for name in ROW}}}, JSON),
    ({"instances": ROWS}, b"application/json; charset=utf-8"),
    ({"dataframe_records": ROWS, "params": {}}, b""),
    ({"dataframe_split": SPLIT}, JSON),
    ({"dataframe_split": {**SPLIT, "index": [0, 1]}}, JSON),
    (as_csv(ROWS), b"text/csv"),
    ("\ufeff" + as_csv(ROWS) + "\r\n", b"text/csv; charset=utf-8"),
    (as_csv(ROWS, "\t"), b"text/tab-separated-values"),
)


@pytest.mark.parametrize(("sent", "kind"), FORMS)
def test_each_form_is_the_same_table(sent: Any, kind: bytes) -> None:
    got = read(sent, kind)
    bill = got.pop("bill")
    assert bill[0] == 9.5 and math.isnan(bill[1])
    assert got == {"age": [41, 20], "plan": [b"pro", b"free"], "city": [b"Bern", NULL], "new": [True, False]}


def test_one_row_and_columns_that_the_model_does_not_read() -> None:
    assert read({"inputs": ROW})["age"] == [41]
    assert read({"inputs": {**ROW, "id": "7590-VHVEG"}}) == read({"inputs": [ROW]})
    assert read({"inputs": [ROW, {**ROW, "id": 3}]})["age"] == [41, 41]


def test_a_model_of_a_matrix_gets_its_other_signature() -> None:
    request = TableCodec().decode(body({"inputs": ROWS}), MATRIX)
    assert request.signature == "columns" and len(request.inputs) == len(COLUMNS)
    assert TableCodec().decode(body({"inputs": ROWS}), PLAIN).signature == ""


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"inputs": [ROW, without("plan")]}, "inputs[1] has no column 'plan' (text)"),
        ({"inputs": [without("bill")]}, "Send null where its value is missing"),
        ({"inputs": [ROW, {**ROW, "Plan": 1}]}, "[1] has an unknown column 'Plan'. Did you mean 'plan'?"),
        ({"instances": [{**ROW, "zzz": 1}]}, "[0] has an unknown column 'zzz'. The model takes: age (int"),
        ({"inputs": [ROW, {**ROW, "bill": "much"}]}, "inputs[1]: column 'bill' must be a number, not 'much'"),
        ({"inputs": [{**ROW, "bill": True}]}, "column 'bill' must be a number, not a boolean"),
        ({"inputs": [{**ROW, "bill": [1]}]}, "column 'bill' must be a number, not a list"),
        ({"inputs": [{**ROW, "bill": 10**400}]}, "number is infinity when parsed as double"),
        (b'{"inputs": [{"age":1,"bill":-Infinity,"plan":"pro","city":"","new":true}]}', "'bill' is infinite"),
        ({"inputs": [{**ROW, "age": 1.5}]}, "inputs[0]: column 'age' must be an integer, not a number"),
        ({"inputs": [{**ROW, "age": 1 << 63}]}, "column 'age' must be an integer"),
        ({"inputs": [{**ROW, "age": None}]}, "column 'age' is missing, and the model takes no missing"),
        ({"inputs": [{**ROW, "plan": None}]}, "inputs[0]: column 'plan' is missing"),
        ({"inputs": [{**ROW, "plan": "gold"}]}, "inputs[0]: column 'plan' has no category 'gold'. Send"),
        ({"inputs": [{**ROW, "city": 8}]}, "column 'city' must be a text, not a number. Send a text, or"),
        ({"inputs": [{**ROW, "city": "\ud800"}]}, "failed to parse the request JSON"),
        ({"inputs": [{**ROW, "new": 1}]}, "column 'new' must be true or false, not a number"),
        ({"inputs": []}, "inputs has no rows"),
        ({"inputs": [[1, 2]]}, '[0] must be an object, not a list. Send rows as objects, for example {"inp'),
        ({"inputs": "x"}, "inputs must be an object, not a string"),
        ({"instances": None}, "instances must be an object, not null"),
        ({"inputs": [ROW], "instances": [ROW]}, "the request has both inputs and instances"),
        ({"rows": [ROW]}, "the request has none of inputs, instances"),
        ([ROW], "the request must be a JSON object, not a list"),
        ({"inputs": [ROW], "size": 3}, "size is unknown"),
        ({"inputs": [ROW], "parameters": [1]}, "parameters must be an object, not a list"),
        ({"inputs": [ROW], "parameters": {"top_k": 1}}, "the parameter 'top_k' is unknown"),
        ({"inputs": [ROW], "parameters": {"probabilities": 1}}, "must be true or false, not a number"),
        ({"inputs": {"age": [1], "bill": 2}}, "inputs has no column 'plan'"),
        ({"inputs": {name: [1] * (1 + (name == "new")) for name in ROW}}, "inputs.new has 2 values, and"),
        ({"inputs": {**{name: [1] for name in ROW}, "new": 1}}, "inputs.new must be a list, not a number"),
        ({"dataframe_split": {"columns": ["age"]}}, "dataframe_split lacks columns or data"),
        ({"dataframe_split": {"columns": [*ROW, "age"], "data": [[]]}}, "has the column 'age' twice"),
        ({"dataframe_split": {"columns": [["age"]], "data": [[1]]}}, "has an unknown column \"['age']\""),
        ({"dataframe_split": {**SPLIT, "data": [[1]]}}, "data[0] has 1 values, and there are 5 columns"),
        ({"dataframe_split": {**SPLIT, "data": [4]}}, "dataframe_split.data[0] is a number"),
        (b"age,plan", "failed to parse the request JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(sent: Any, said: str) -> None:
    assert said in refusal(sent)


HEAD = "age,bill,plan,city,new\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the first line has no column 'age'"),
        (HEAD, "the table has no rows"),
        (HEAD + "1,2,pro\n", "row 1 has 3 cells, and the first line names 5 columns"),
        (HEAD + "1,2,pro,Bern,true\n1,2,pro,Bern,true,4\n", "row 2 has 6 cells"),
        (HEAD + "1,x,pro,Bern,true\n", "row 1: column 'bill' must be a number, not 'x'"),
        (HEAD + "1,1_000,pro,Bern,true\n", "row 1: column 'bill' must be a number, not '1_000'"),
        (HEAD + "1,inf,pro,Bern,true\n", "row 1: column 'bill' is infinite"),
        (HEAD + "1,1,pro,Bern,true\n1.5,1,pro,Bern,true\n", "row 2: column 'age' must be an integer, not '1"),
        (HEAD + ",1,pro,Bern,true\n", "row 1: column 'age' is missing"),
        (HEAD + "1,1,gold,Bern,true\n", "row 1: column 'plan' has no category 'gold'"),
        (HEAD + "1,1,pro,Bern,maybe\n", "row 1: column 'new' must be true or false, not 'maybe'"),
        ("age,age,plan,city,new\n1,1,pro,Bern,true\n", "the first line has the column 'age' twice"),
        (",".join(f"c{i}" for i in range(1_000_000)), "the first line has an unknown column 'c0'"),
        ("age," * 500_000, "the first line has an unknown column ''"),
        ("age," * 500_000 + "age", "the first line has the column 'age' twice"),
        (HEAD + "1,1,pro," + "x" * 200_000 + ",true\n", "line 2 is not readable: field larger than"),
        (HEAD + '1,1,pro,"Bern,true\n', "is not readable: unexpected end of data"),
        (HEAD + "1,1,pro,B\udcffn,true\n", "the text is not valid UTF-8"),
        (HEAD + "1,1,pro,Bern,true\n" * (MOST_ROWS + 1), "the table has more than 100000 rows"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_csv_is_said(text: str, said: str) -> None:
    assert said in refusal(text.encode("utf-8", "surrogateescape"), b"text/csv")


def test_dates_are_texts_without_an_offset() -> None:
    signature = Signature((spec("day", DataType.BYTES, kind="date", takes_null=True),), OUTPUTS, True)
    sent = ["2026-01-31", "2026-01-31T08:00:00Z", "2026-01-31 08:00+02:00", None]
    (tensor,) = TableCodec().decode(body({"inputs": {"day": sent}}), signature).inputs
    midnight, eight, six = b"2026-01-31T00:00:00", b"2026-01-31T08:00:00", b"2026-01-31T06:00:00"
    assert tensor.array.tolist() == [midnight, eight, six, NULL]
    for wrong in ("", "31.1.2026", "0001-01-01T00:00+20:00", 4):
        with pytest.raises(InvalidInput, match=r"column 'day' must be a (date|text)"):
            TableCodec().decode(body({"inputs": [{"day": wrong}]}), signature)


def test_many_rows_are_refused_with_what_is_possible() -> None:
    assert "more than 100000 rows" in refusal({"inputs": [{}] * (MOST_ROWS + 1)})
    texts = {name: [ROW[name]] * MOST_ROWS for name in ROW} | {"plan": ["pro"] * MOST_ROWS}
    assert len(read({"inputs": texts})["age"]) == MOST_ROWS
    wide = Signature(tuple(spec(f"t{i}", DataType.BYTES, kind="text") for i in range(4)), OUTPUTS, True)
    with pytest.raises(InvalidInput, match="Send at most 65536 rows at a time"):
        TableCodec().decode(body({"inputs": {f"t{i}": ["x"] * 70_000 for i in range(4)}}), wide)


NUMBER = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**60), 2**60))
ANY_ROW = st.fixed_dictionaries(
    {
        "age": st.integers(-(2**63), 2**63 - 1),
        "bill": NUMBER,
        "plan": st.sampled_from(["free", "pro"]),
        "city": st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]))),
        "new": st.booleans(),
    }
)


@given(st.lists(ANY_ROW, min_size=1, max_size=8), st.permutations([*ROW]))
def test_order_of_columns_and_rows_at_a_time_do_not_matter(rows: list[Any], order: list[str]) -> None:
    whole = read({"inputs": rows})
    turned = {"columns": order, "data": [[row[name] for name in order] for row in rows]}
    np.testing.assert_equal(read({"dataframe_split": turned}), whole)
    single = [read({"inputs": [row]}) for row in rows]
    np.testing.assert_equal({name: [one[name][0] for one in single] for name in whole}, whole)


@given(st.lists(ANY_ROW, min_size=1, max_size=8))
def test_a_csv_is_what_its_rows_are(rows: list[Any]) -> None:
    # An empty text is a missing one, as pandas reads it.
    rows = [{**row, "city": row["city"] or None} for row in rows]
    np.testing.assert_equal(read(as_csv(rows), b"text/csv"), read({"inputs": rows}))


NAMES = st.sampled_from([*ROW, "data", "columns"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@given(ANYTHING, st.sampled_from(["inputs", "instances", "dataframe_split", "parameters"]))
def test_nothing_but_our_own_errors(value: Any, form: str) -> None:
    for sent in (value, {form: value}, {form: [value]}, {"inputs": [ROW], form: value}):
        try:
            TableCodec().decode(body(sent), PLAIN)
        except SalverError as error:
            assert len(str(error)) < 1000


class TestConformance(CodecConformance):
    codec = TableCodec()
    signature = PLAIN
    samples = tuple(body(sent, kind) for sent, kind in FORMS)


class TestAnswers:
    LABEL = Tensor("label", DataType.BYTES, np.array([b"leaves", "stäys".encode()], object))
    SCORES = Tensor("probabilities", DataType.FP64, np.array([[0.75, 0.25], [0.5, 0.5]]))

    def answer(self, sent: Any, *outputs: Tensor) -> Any:
        request = TableCodec().decode(body(sent), PLAIN)
        assert [output.name for output in request.outputs] == [tensor.name for tensor in outputs]
        return json.loads(TableCodec().encode(request, InferResponse("m", "1", outputs)).body)

    def test_predictions(self) -> None:
        assert self.answer({"inputs": ROWS}, self.LABEL) == {"predictions": ["leaves", "stäys"]}

    def test_probabilities_by_label_if_asked_for(self) -> None:
        asked = {"inputs": ROWS, "parameters": {"probabilities": True}}
        assert self.answer(asked, self.LABEL, self.SCORES) == {
            "predictions": ["leaves", "stäys"],
            "probabilities": [{"leaves": 0.75, "stays": 0.25}, {"leaves": 0.5, "stays": 0.5}],
        }

    def test_a_model_without_them_says_so(self) -> None:
        asked = {"inputs": ROWS, "params": {"probabilities": True}}
        with pytest.raises(InvalidInput, match="the model gives no probabilities"):
            TableCodec().decode(body(asked), MATRIX)

    def test_another_version_may_take_no_tables(self) -> None:
        bare = Signature(MATRIX.inputs, OUTPUTS, True)
        with pytest.raises(InvalidInput, match="Malformed request: POST /v1/models/m"):
            TableCodec("m").decode(body({"inputs": ROWS}), bare)


class TestColumnar:
    def frame(self, rows: int = 2) -> Any:
        arrow = pytest.importorskip("pyarrow")
        return arrow.table({name: [ROWS[i % 2][name] for i in range(rows)] for name in ROW})

    def parquet(self, table: Any, **settings: Any) -> bytes:
        import pyarrow.parquet

        out = io.BytesIO()
        pyarrow.parquet.write_table(table, out, **settings)
        return out.getvalue()

    def ipc(self, table: Any, form: str, **settings: Any) -> bytes:
        import pyarrow.ipc

        out = io.BytesIO()
        make = pyarrow.ipc.new_stream if form == "stream" else pyarrow.ipc.new_file
        with make(out, table.schema, **settings) as writer:
            writer.write_table(table)
        return out.getvalue()

    def read(self, data: bytes, form: str) -> TableRequest:
        codec = TableCodec("m", "", form)
        assert codec.weigh(Message(data)) > 1 << 16  # decoded by another process, however small
        return codec.decode(Message(data), PLAIN)

    def test_it_is_the_same_table(self) -> None:
        table = self.frame()
        wanted = TableCodec().decode(body({"inputs": ROWS}), PLAIN)
        bodies = (
            (self.parquet(table, compression="zstd"), "parquet"),
            (self.ipc(table, "stream"), "stream"),
            (self.ipc(table, "file"), "file"),
        )
        for data, form in bodies:
            for one, other in zip(self.read(data, form).inputs, wanted.inputs, strict=True):
                assert one.name == other.name
                np.testing.assert_equal(one.array, other.array)

    @pytest.mark.parametrize("form", ["parquet", "stream", "file"])
    def test_damage_is_said(self, form: str) -> None:
        whole = self.parquet(self.frame()) if form == "parquet" else self.ipc(self.frame(), form)
        for data in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-3], b"ARROW1" + bytes(50)):
            with pytest.raises(InvalidInput):
                self.read(data, form)
        random = np.random.default_rng(7)
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
            try:
                self.read(bytes(damaged), form)
            except SalverError as error:
                assert len(str(error)) < 1000

    def test_many_rows_in_few_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import pyarrow

        rows = 2_000_000
        bomb = pyarrow.table({"age": pyarrow.array(np.zeros(rows, np.int8))})
        data = self.parquet(bomb, compression="zstd")
        assert len(data) < 1 << 18
        with pytest.raises(InvalidInput, match="more than 100000 rows"):
            self.read(data, "parquet")
        monkeypatch.setattr(columnar, "_MOST_BYTES", 1 << 20)
        wide = pyarrow.table({"city": ["x" * (2 << 20)]})
        with pytest.raises(InvalidInput, match="bytes when it is unpacked"):
            self.read(self.parquet(wide, compression="zstd", use_dictionary=False), "parquet")

    def test_columns_and_values_are_named(self) -> None:
        table = self.frame().rename_columns(["years", "bill", "plan", "city", "new"])
        with pytest.raises(InvalidInput, match="the table has an unknown column 'years'"):
            self.read(self.parquet(table), "parquet")
        table = self.frame().set_column(1, "bill", [["1", "2"]])
        with pytest.raises(InvalidInput, match="row 0: column 'bill' must be a number, not '1'"):
            self.read(self.ipc(table, "stream"), "stream")
