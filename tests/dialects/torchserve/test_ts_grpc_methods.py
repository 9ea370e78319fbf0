"""TorchServe's gRPC services at real ports, asked by real clients; the models behind them are played."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from torchserve_stubs import (
    INFERENCE,
    MANAGEMENT,
    Stub,
    asked,
    inference,
    management,
    open_inference,
)
from ts_grpc_rig import Keys, failure, healthy, pieces, rig
from waiting import PATIENCE_S, auntil

from salver.words import handlers

_NO_WORKER = "has no worker to serve inference request"


@pytest.mark.clause("TS-G1")
async def test_ping() -> None:
    async with rig() as it:
        assert json.loads((await it.inference.Ping(healthy())).health) == {"status": "Healthy"}
        it.played.is_well = False
        assert json.loads((await it.inference.Ping(healthy())).health) == {"status": "Unhealthy"}


@pytest.mark.clause("TS-G1", "TS-G2")
async def test_predictions() -> None:
    async with rig() as it:
        reply = await it.inference.Predictions(asked("m", b"x", model_version="1.0"))
        assert (reply.prediction, reply.HasField("sequence_id"), reply.HasField("status")) == (
            b"x",
            False,
            False,
        )
        form = handlers.form_of(it.played.seen[0])
        assert (form.headers, form.parts[0].name) == ({}, "data")
        assert it.rig.outcomes() == [("ts-grpc", "ok")]


@pytest.mark.clause("TS-G1")
async def test_one_answer_of_a_handler_that_streams() -> None:
    async with rig() as it:
        assert (await it.inference.Predictions(asked("m", b"a b c"))).prediction == b"abc"


@pytest.mark.clause("TS-G1")
async def test_pieces_come_when_they_are_there() -> None:
    async with rig() as it:
        call = it.inference.StreamPredictions(asked("m", b"a hold c"))
        assert (await asyncio.wait_for(call.read(), PATIENCE_S)).prediction == b"a"
        it.played.gate.set()
        assert await asyncio.wait_for(pieces(call), PATIENCE_S) == [b"hold", b"c"]
        assert (await call.code()).name == "OK"
        assert it.played.closed == 1


@pytest.mark.clause("TS-G1")
async def test_a_stream_of_one_piece_ends() -> None:
    async with rig() as it:
        assert await asyncio.wait_for(
            pieces(it.inference.StreamPredictions(asked("m", b"one"))), PATIENCE_S
        ) == [b"one"]


@pytest.mark.clause("TS-G5")
@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (
            asked("nobody"),
            "INTERNAL",
            "Model not found: nobody\norg.pytorch.serve.archive.model.ModelNotFound",
        ),
        (
            asked("m", model_version="9"),
            "INTERNAL",
            "Model version: 9 does not exist for model: m\norg.pytorch.serve.archive.model.ModelVersion",
        ),
        (asked(""), "INTERNAL", "Parameter model_name is required.\nBadRequestException.()"),
        (asked("m", b"full"), "UNAVAILABLE", f'Model "m" {_NO_WORKER}'),
        (asked("m", b"asleep"), "INTERNAL", f'Model "m" {_NO_WORKER}'),
        (asked("m", b"fail"), "UNAVAILABLE", "Prediction failed\norg.pytorch.serve.http.InternalServer"),
        (asked("m", b"507"), "INTERNAL", "no\norg.pytorch.serve.http.InternalServer"),
        (asked("m", b"404"), "NOT_FOUND", "no\norg.pytorch.serve.http.InternalServer"),
        (asked("m", b"defect"), "INTERNAL", "internal error, incident "),
    ],
)
async def test_how_calls_of_inference_end(method: str, request_: Any, code: str, details: str) -> None:
    async with rig() as it:
        call = getattr(it.inference, method)(request_)
        got = await asyncio.wait_for(failure(call if method == "Predictions" else pieces(call)), PATIENCE_S)
        assert got[0] == code
        assert got[1].startswith(details)


@pytest.mark.clause("TS-G7")
async def test_an_answer_that_is_too_long_is_an_error_by_every_method() -> None:
    async with rig(max_response=4, speaks_oip=True) as it:
        assert (await it.inference.Predictions(asked("m", b"four"))).prediction == b"four"
        for call in (
            it.inference.Predictions(asked("m", b"fives")),
            pieces(it.inference.StreamPredictions(asked("m", b"fives"))),
            it.open_inference.ModelInfer(open_inference("ModelInferRequest", model_name="m")),
        ):
            code, text = await asyncio.wait_for(failure(call), PATIENCE_S)
            assert code == "INTERNAL"
            assert text.startswith("the answer has ") and "max_response_size is 4" in text
        call = it.inference.StreamPredictions2(iter([asked("m", b"four fives", sequence_id="s")]))
        first, second = [reply async for reply in call]
        assert (first.prediction, second.status.code) == (b"four", 13)


@pytest.mark.clause("TS-G5")
async def test_an_error_after_pieces_ends_the_stream() -> None:
    async with rig() as it:
        call = it.inference.StreamPredictions(asked("m", b"a fail"))
        assert (await call.read()).prediction == b"a"
        assert (await failure(pieces(call)))[0] == "UNAVAILABLE"


async def test_a_callers_own_deadline() -> None:
    async with rig() as it:
        assert (await failure(it.inference.Predictions(asked("m", b"hold"), timeout=1)))[
            0
        ] == "DEADLINE_EXCEEDED"
        call = it.inference.StreamPredictions(asked("m", b"a hold"), timeout=1)
        assert (await failure(pieces(call)))[0] == "DEADLINE_EXCEEDED"
        await auntil(lambda: it.played.closed == 2)


@pytest.mark.clause("TS-G5")
async def test_a_caller_who_leaves_lets_the_handler_go() -> None:
    async with rig() as it:
        calls = [
            it.inference.Predictions(asked("m", b"hold")),
            it.inference.StreamPredictions(asked("m", b"a hold")),
        ]
        assert (await calls[1].read()).prediction == b"a"
        for call in calls:
            call.cancel()
        await auntil(lambda: it.played.left == 2)
        assert (await it.inference.Predictions(asked("m", b"next"))).prediction == b"next"


async def test_many_at_a_time_have_their_own_answers() -> None:
    async with rig() as it:
        words = [f"{number} {number}x" for number in range(1000, 1064)]
        bodies = [word.replace("1", "w") for word in words]  # digits alone are errors
        replies = await asyncio.gather(
            *(it.inference.Predictions(asked("m", body.encode())) for body in bodies)
        )
        assert [reply.prediction.decode() for reply in replies] == [body.replace(" ", "") for body in bodies]
        streams = [pieces(it.inference.StreamPredictions(asked("m", body.encode()))) for body in bodies]
        assert [b" ".join(pieces).decode() for pieces in await asyncio.gather(*streams)] == bodies


class TestSequences:
    """StreamPredictions2."""

    @pytest.mark.clause("TS-B6")
    async def test_requests_of_a_sequence(self) -> None:
        async with rig(sequence_headers=("my_id", "my_start", "my_end")) as it:
            call = it.inference.StreamPredictions2()
            await call.write(asked("m", b"three", sequence_id="s"))
            assert (await call.read()).prediction == b"three"
            await call.write(asked("m", b"true", key="my_end", sequence_id="s"))
            await call.done_writing()
            assert await asyncio.wait_for(pieces(call), PATIENCE_S) == [b"true"]
            first, last = it.played.seen
            assert [first.parameters[name] for name in handlers.SEQUENCE] == ["s", False, False]
            assert [last.parameters[name] for name in handlers.SEQUENCE] == ["s", False, True]
            assert handlers.form_of(last).headers == {"my_id": "s", "my_end": "true"}

    @pytest.mark.clause("TS-B6")
    async def test_replies_that_are_late_come_before_the_end(self) -> None:
        async with rig() as it:
            call = it.inference.StreamPredictions2(iter([asked("m", b"hold", sequence_id="s")]))
            await auntil(lambda: it.played.seen)
            it.played.gate.set()
            assert await asyncio.wait_for(pieces(call), PATIENCE_S) == [b"hold"]

    @pytest.mark.clause("TS-B6")
    async def test_errors_are_messages_and_the_call_goes_on(self) -> None:
        async with rig() as it:
            call = it.inference.StreamPredictions2()
            for sent, code, text in [
                (asked("m"), 13, "Parameter sequenceId is required."),
                (asked("m", b"fail", sequence_id="s"), 14, "Prediction failed"),
                (asked("m", b"full", sequence_id="s"), 14, f'Model "m" {_NO_WORKER}'),
            ]:
                await call.write(sent)
                status = (await call.read()).status
                assert status.code == code
                assert status.message.startswith(text)
            await call.write(asked("m", b"well", sequence_id="s"))
            assert (await call.read()).prediction == b"well"
            await call.done_writing()
            assert await pieces(call) == []
            assert (await call.code()).name == "OK"

    @pytest.mark.clause("TS-B6")
    async def test_asking_a_model_that_is_not_there_ends_it(self) -> None:
        async with rig() as it:
            call = it.inference.StreamPredictions2()
            await call.write(asked("nobody", sequence_id="s"))
            assert (await call.read()).status.message == "Model not found: nobody"
            assert await failure(pieces(call)) == ("UNKNOWN", "")

    @pytest.mark.clause("TS-B6")
    async def test_a_caller_who_leaves(self) -> None:
        async with rig() as it:
            call = it.inference.StreamPredictions2()
            await call.write(asked("m", b"hold", sequence_id="s"))
            await auntil(lambda: it.played.seen)
            call.cancel()
            await auntil(lambda: it.played.left)


class TestManagement:
    """ManagementAPIsService."""

    @pytest.mark.clause("TS-G3")
    async def test_registering(self) -> None:
        async with rig(may_change=True) as it:
            it.played.gate.set()
            sent = management(
                "RegisterModelRequest", url="a.mar", model_name="a", initial_workers=2, synchronous=True
            )
            said = (await it.management.RegisterModel(sent)).msg
            assert said == 'Model "a" Version: 1.0 registered with 2 initial workers'
            said = (await it.management.RegisterModel(management("RegisterModelRequest", url="a.mar"))).msg
            assert said == "Processing worker updates..."

    @pytest.mark.clause("TS-G5")
    @pytest.mark.parametrize(
        ("url", "code", "details"),
        [
            (
                "",
                "INVALID_ARGUMENT",
                "Parameter url is required.\norg.pytorch.serve.http.BadRequestException",
            ),
            (
                "twice.mar",
                "ABORTED",
                "Model version 1.0 is already registered for model m\norg.pytorch.serve",
            ),
            ("broken.mar", "INTERNAL", "Failed to start workers for model broken version: 1.0\norg.pytorch"),
            (
                "lost.mar",
                "NOT_FOUND",
                "Model not found in model store: lost.mar\norg.pytorch.serve.archive.model",
            ),
        ],
    )
    async def test_registering_in_vain(self, url: str, code: str, details: str) -> None:
        async with rig(may_change=True) as it:
            it.played.gate.set()
            got = await failure(it.management.RegisterModel(management("RegisterModelRequest", url=url)))
            assert got[0] == code
            assert got[1].startswith(details)

    @pytest.mark.clause("TS-M1")
    async def test_changes_are_off_until_they_are_wanted(self) -> None:
        async with rig() as it:
            wanted = "PERMISSION_DENIED", "Model API disabled\norg.pytorch.serve.archive.model.ModelException"
            register = it.management.RegisterModel(management("RegisterModelRequest", url="a.mar"))
            assert await failure(register) == wanted
            unregister = it.management.UnregisterModel(management("UnregisterModelRequest", model_name="m"))
            assert await failure(unregister) == wanted
            said = await it.management.ScaleWorker(
                management("ScaleWorkerRequest", model_name="m", min_worker=2)
            )
            assert said.msg == "Processing worker updates..."

    @pytest.mark.clause("TS-G3")
    async def test_scaling(self) -> None:
        async with rig() as it:
            sent = management(
                "ScaleWorkerRequest", model_name="m", model_version="1.0", min_worker=2, synchronous=True
            )
            said = (await it.management.ScaleWorker(sent)).msg
            assert said == "Workers scaled to 2 for model: m, version: 1.0"
            assert it.played.orders == [("m", "1.0", 2, None)]

    @pytest.mark.clause("TS-G3")
    async def test_the_default_version(self) -> None:
        async with rig() as it:
            ask = it.management.SetDefault
            said = (await ask(management("SetDefaultRequest", model_name="m", model_version="1.0"))).msg
            assert said == 'Default version successfully updated for model "m" to "1.0"'
            got = await failure(ask(management("SetDefaultRequest", model_name="m", model_version="7")))
            assert got[0] == "NOT_FOUND"
            assert got[1].endswith("\norg.pytorch.serve.archive.model.ModelVersionNotFoundException")

    @pytest.mark.clause("TS-G3", "TS-M5")
    async def test_unregistering(self) -> None:
        async with rig(may_change=True) as it:
            ask = it.management.UnregisterModel
            assert (
                await ask(management("UnregisterModelRequest", model_name="m"))
            ).msg == 'Model "m" unregistered'
            got = await failure(
                ask(management("UnregisterModelRequest", model_name="m", model_version="1.0"))
            )
            assert got[0] == "UNKNOWN"
            assert got[1].startswith("Cannot remove default version for model m")
            got = await failure(ask(management("UnregisterModelRequest")))
            assert got == (
                "INVALID_ARGUMENT",
                "Parameter url is required.\norg.pytorch.serve.http.BadRequestException",
            )

    @pytest.mark.clause("TS-G3", "TS-M3")
    async def test_describing(self) -> None:
        async with rig() as it:
            ask = it.management.DescribeModel

            async def told(**fields: Any) -> Any:
                return json.loads((await ask(management("DescribeModelRequest", **fields))).msg)

            (one,) = await told(model_name="m")
            assert (one["modelName"], "customizedMetadata" in one) == ("m", False)
            assert len(await told(model_name="m", model_version="all", customized=True)) == 2
            (one,) = await told(model_name="m", customized=True)
            assert one["customizedMetadata"] == {"inputs": 4}
            (one,) = await told(model_name="m", model_version="1.0", customized=True)
            assert one["customizedMetadata"] == {}
            got = await failure(ask(management("DescribeModelRequest", model_name="asleep", customized=True)))
            assert got[0] == "INTERNAL"
            got = await failure(ask(management("DescribeModelRequest", model_name="nobody")))
            assert got[0] == "NOT_FOUND"

    @pytest.mark.clause("TS-G3", "TS-M4")
    async def test_listing(self) -> None:
        async with rig() as it:
            ask = it.management.ListModels
            told = json.loads((await ask(management("ListModelsRequest"))).msg)
            assert told == {"nextPageToken": "0", "models": []}
            told = json.loads((await ask(management("ListModelsRequest", limit=1))).msg)
            assert told == {"nextPageToken": "1", "models": [{"modelName": "m", "modelUrl": "m.mar"}]}
            told = json.loads((await ask(management("ListModelsRequest", limit=-1, next_page_token=1))).msg)
            assert told == {"models": [{"modelName": "n", "modelUrl": "n.mar"}]}


class TestDoors:
    """Services and keys of each port."""

    @pytest.mark.clause("TS-P2")
    async def test_services_at_the_wrong_port(self) -> None:
        async with rig() as it:
            wrong = Stub(it.channels[2], f"{INFERENCE}.InferenceAPIsService").Ping(healthy())
            assert await failure(wrong) == (
                "UNIMPLEMENTED",
                "Method not found: org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping",
            )
            ask = Stub(it.channels[1], f"{MANAGEMENT}.ManagementAPIsService").ListModels
            assert await failure(ask(management("ListModelsRequest"))) == (
                "UNIMPLEMENTED",
                "Method not found: org.pytorch.serve.grpc.management.ManagementAPIsService/ListModels",
            )

    @pytest.mark.clause("TS-P1")
    async def test_services_at_the_right_port(self) -> None:
        async with rig() as it:
            right = Stub(it.channels[1], f"{INFERENCE}.InferenceAPIsService")
            assert (await right.Predictions(asked("m"))).prediction == b"x"
            assert await pieces(right.StreamPredictions(asked("m", b"a b"))) == [b"a", b"b"]
            ask = Stub(it.channels[2], f"{MANAGEMENT}.ManagementAPIsService").ListModels
            assert (await ask(management("ListModelsRequest"))).msg

    @pytest.mark.clause("TS-G4")
    async def test_what_is_switched_off_is_not_there(self) -> None:
        async with rig() as it:
            method = "org.pytorch.serve.grpc.openinference.GRPCInferenceService/ServerLive"
            for channel in it.channels[:2]:
                call = channel.unary_unary(f"/{method}")
                assert await failure(call(b"")) == ("UNIMPLEMENTED", f"Method not found: {method}")

    async def test_health_is_told_at_every_port(self) -> None:
        async with rig() as it:
            for channel in it.channels:
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                assert await check(b"") == b"\x08\x01"
            service = f"{INFERENCE}.InferenceAPIsService".encode()
            assert await check(bytes((10, len(service))) + service) == b"\x08\x01"

    @pytest.mark.clause("TS-G6")
    async def test_keys(self) -> None:
        denied = (
            "PERMISSION_DENIED",
            "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
        )
        async with rig(keys=Keys()) as it:
            for metadata in ((), (("authorization", "Bearer management"),)):
                assert await failure(it.inference.Ping(healthy(), metadata=metadata)) == denied
                call = it.inference.StreamPredictions(asked("m"), metadata=metadata)
                assert await failure(pieces(call)) == denied
            key = (("authorization", "Bearer inference"),)
            assert (await it.inference.Predictions(asked("m"), metadata=key)).prediction == b"x"
            assert (
                await failure(it.management.ListModels(management("ListModelsRequest"), metadata=key))
                == denied
            )
            key = (("authorization", "Bearer management"),)
            assert (await it.management.ListModels(management("ListModelsRequest"), metadata=key)).msg

    @pytest.mark.clause("TS-G7")
    async def test_a_request_that_is_too_large(self) -> None:
        async with rig(max_request=1000) as it:
            assert (await it.inference.Predictions(asked("m", b"x" * 900))).prediction
            for call in (
                it.inference.Predictions(asked("m", b"x" * 1001)),
                pieces(it.inference.StreamPredictions(asked("m", b"x" * 1001))),
            ):
                code, details = await failure(call)
                assert code == "RESOURCE_EXHAUSTED"
                assert "larger than max" in details

    async def test_a_server_that_stops_takes_no_more(self) -> None:
        async with rig() as it:
            call = it.inference.StreamPredictions(asked("m", b"a hold"))
            assert (await call.read()).prediction == b"a"
            it.rig.grpc.stop()
            assert (await failure(it.inference.Predictions(asked("m"))))[0] == "UNAVAILABLE"
            it.played.gate.set()
            assert await asyncio.wait_for(call.read(), PATIENCE_S) is not None
            with suppress(grpc.aio.AioRpcError):
                await pieces(call)


def test_the_stub_knows_all_methods() -> None:
    names: Iterator[str] = iter(("Ping", "Predictions", "StreamPredictions", "StreamPredictions2"))
    with grpc.insecure_channel("127.0.0.1:1") as channel:
        stub = Stub(channel, f"{INFERENCE}.InferenceAPIsService")
        assert all(callable(getattr(stub, name)) for name in names)
        with pytest.raises(AttributeError):
            _ = stub.Explanations
    assert inference("PredictionsRequest").model_name == ""
