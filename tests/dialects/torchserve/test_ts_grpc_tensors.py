"""Handlers asked by tensors over gRPC: by TorchServe's own Open Inference service, and by Triton's."""

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb
from torchserve_stubs import OPEN_INFERENCE, open_inference
from ts_grpc_rig import failure, rig

from salver.words import handlers


def _infer(model: str, *inputs: tuple[str, str, list[int], dict[str, Any]], **fields: Any) -> Any:
    made = open_inference("ModelInferRequest", model_name=model, **fields)
    for name, datatype, shape, contents in inputs:
        made.inputs.add(name=name, datatype=datatype, shape=shape, contents=contents)
    return made


class TestOpenInference:
    """TorchServe's own GRPCInferenceService (TS-G4)."""

    @pytest.mark.clause("TS-G4")
    async def test_handlers_get_json_and_their_tensors_come_back(self) -> None:
        sent = _infer(
            "m",
            ("a", "INT64", [3], {"int64_contents": [1, 2, 3]}),
            ("b", "FP32", [1, 2], {"fp32_contents": [0.1, 0.5]}),
            ("c", "BYTES", [1], {"bytes_contents": [b"hi"]}),
            ("d", "UINT8", [1], {"uint_contents": [7]}),
            id="g1",
        )
        async with rig(speaks_oip=True) as it:
            reply = await it.open_inference.ModelInfer(sent)
            assert (reply.model_name, reply.model_version, reply.id) == ("m", "1.0", "g1")
            assert [(each.name, each.datatype, list(each.shape)) for each in reply.outputs] == [
                ("a", "INT64", [3]),
                ("b", "FP32", [1, 2]),
                ("c", "BYTES", [1]),
                ("d", "UINT8", [1]),
            ]
            a, b, c, d = (each.contents for each in reply.outputs)
            assert list(a.int64_contents) == [2, 4, 6]
            assert list(b.fp32_contents) == pytest.approx([0.2, 1.0])
            assert list(c.bytes_contents) == [b'"aGk="']  # as TorchServe's
            assert list(d.uint_contents) == [14]
            (part,) = handlers.form_of(it.played.seen[0]).parts
            assert (part.name, part.content_type) == ("body", "application/json")
            assert json.loads(part.data.tobytes())["inputs"][1]["data"] == [0.1, 0.5]

    @pytest.mark.clause("TS-G4")
    async def test_raw_contents(self) -> None:
        sent = _infer(
            "m",
            ("a", "INT32", [2], {}),
            ("b", "FP16", [1], {}),
            raw_input_contents=[b"\1\0\0\0\2\0\0\0", b"\0<"],
        )
        async with rig(speaks_oip=True) as it:
            reply = await it.open_inference.ModelInfer(sent)
            assert list(reply.outputs[0].contents.int_contents) == [2, 4]
            assert reply.id == "made"

    @pytest.mark.clause("TS-G4")
    @pytest.mark.parametrize(
        ("sent", "code", "details"),
        [
            (
                _infer("nobody"),
                "INTERNAL",
                "Model not found: nobody\norg.pytorch.serve.archive.model.ModelNotFound",
            ),
            (
                _infer("m", model_version="7"),
                "INTERNAL",
                "Model version: 7 does not exist for model: m\norg.pytorch.serve.archive.model.ModelVersion",
            ),
            (_infer(""), "INTERNAL", "Parameter model_name is required.\nBadRequestException.()"),
            (_infer("m", ("odd", "INT64", [0], {})), "INTERNAL", "the handler's answer is not of the Open"),
            (
                _infer(
                    "m", ("a", "INT32", [2], {}), ("b", "FP16", [1], {}), raw_input_contents=[b"12345678"]
                ),
                "INTERNAL",
                "raw_input_contents has no entry for input 'b'\nBadRequestException.()",
            ),
        ],
    )
    async def test_asking_in_vain(self, sent: Any, code: str, details: str) -> None:
        async with rig(speaks_oip=True) as it:
            got = await failure(it.open_inference.ModelInfer(sent))
            assert got[0] == code
            assert got[1].startswith(details)

    @pytest.mark.clause("TS-G4")
    async def test_what_it_tells(self) -> None:
        async with rig(speaks_oip=True) as it:
            ask = it.open_inference
            assert (await ask.ServerLive(open_inference("ServerLiveRequest"))).live
            assert (await ask.ServerReady(open_inference("ServerReadyRequest"))).ready
            ready = await ask.ModelReady(open_inference("ModelReadyRequest", name="m", version="1.0"))
            assert not ready.ready  # it has no worker, and one is wanted
            told = await ask.ModelMetadata(open_inference("ModelMetadataRequest", name="m"))
            assert told == open_inference("ModelMetadataResponse", name="m", versions=["1.0", "1.0"])
            for method, request in [
                (ask.ModelReady, open_inference("ModelReadyRequest", name="nobody")),
                (ask.ModelMetadata, open_inference("ModelMetadataRequest", name="nobody")),
            ]:
                assert await failure(method(request)) == (
                    "NOT_FOUND",
                    "Model not found: nobody\norg.pytorch.serve.archive.model.ModelNotFoundException",
                )
            assert await failure(ask.ModelReady(open_inference("ModelReadyRequest"))) == (
                "INTERNAL",
                "Parameter name is required.\nBadRequestException.()",
            )
            got = await failure(ask.ServerMetadata(open_inference("ServerMetadataRequest")))
            assert got == (
                "UNIMPLEMENTED",
                f"Method {OPEN_INFERENCE}.GRPCInferenceService/ServerMetadata is unimplemented",
            )

    async def test_models_of_tensors_are_asked_by_it_as_well(self) -> None:
        async with rig(speaks_oip=True) as it:
            ask = it.open_inference
            sent = _infer("tensors", ("a", "INT64", [2], {"int64_contents": [1, 2]}), id="t")
            reply = await ask.ModelInfer(sent)
            assert (reply.id, reply.raw_output_contents[0][:1]) == ("t", b"\1")
            for name, is_ready in (("tensors", True), ("loads", False)):
                assert (
                    await ask.ModelReady(open_inference("ModelReadyRequest", name=name))
                ).ready is is_ready
            told = await ask.ModelMetadata(open_inference("ModelMetadataRequest", name="tensors"))
            assert (list(told.versions), told.inputs[0].name) == (["1"], "a")

    async def test_handlers_are_asked_by_tritons_service_as_well(self) -> None:
        async with rig() as it:
            ask = it.channels[0].unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )
            made = pb.ModelInferRequest(model_name="m", id="t")
            made.inputs.add(name="a", datatype="INT64", shape=[2], contents={"int64_contents": [1, 2]})
            reply = await ask(made)
            assert (reply.id, reply.model_name, reply.outputs[0].name) == ("t", "m", "a")
            assert np.frombuffer(reply.raw_output_contents[0], "<i8").tolist() == [2, 4]
            made.inputs[0].name = "odd"
            reply = await ask(made)
            assert (reply.outputs[0].name, reply.outputs[0].datatype) == ("body", "UINT8")
            assert reply.raw_output_contents == [b"no tensors"]
            stream = it.channels[0].stream_stream(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )(iter([made]))
            assert (await stream.read()).infer_response.raw_output_contents == [b"no tensors"]
