"""Unmodified asyncio variants of tritonclient, over both protocols."""

import asyncio

import numpy as np
import pytest
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException
from zoo import EXAMPLES, mlp_answer

from salver.testing.process import ServerProcess

BOTH = pytest.mark.parametrize("triton", [http_aio, grpc_aio], ids=["http", "grpc"])


@pytest.mark.clause("TR-A8")
@BOTH
async def test_health_and_metadata(server: ServerProcess, triton) -> None:  # type: ignore[no-untyped-def]
    async with triton.InferenceServerClient(server.address) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("mlp")
        assert not await client.is_model_ready("nobody")
        metadata = await client.get_model_metadata("mlp")
        name = metadata["name"] if isinstance(metadata, dict) else metadata.name
        assert name == "mlp"


@pytest.mark.clause("TR-A8")
@BOTH
async def test_many_at_once_each_get_their_own_answer(server: ServerProcess, triton) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(5)
    async with triton.InferenceServerClient(server.address) as client:

        async def one(rows: int) -> None:
            values = random.standard_normal((rows, 16)).astype(np.float32)
            given = triton.InferInput("x", [rows, 16], "FP32")
            given.set_data_from_numpy(values)
            found = (await client.infer("mlp", [given])).as_numpy("y")
            np.testing.assert_allclose(found, mlp_answer(values), rtol=1e-5, atol=1e-6)

        await asyncio.gather(*(one(1 + i % 9) for i in range(200)))


@BOTH
@pytest.mark.parametrize("datatype", ["BYTES", "FP16", "BF16", "UINT64"])
async def test_datatypes(server: ServerProcess, triton, datatype: str) -> None:  # type: ignore[no-untyped-def]
    values = EXAMPLES[datatype]
    async with triton.InferenceServerClient(server.address) as client:
        given = triton.InferInput("x", list(values.shape), datatype)
        given.set_data_from_numpy(values)
        found = (await client.infer(f"identity_{datatype.lower()}", [given])).as_numpy("y")
        np.testing.assert_array_equal(found, values)


@BOTH
async def test_an_error(server: ServerProcess, triton) -> None:  # type: ignore[no-untyped-def]
    async with triton.InferenceServerClient(server.address) as client:
        given = triton.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(np.zeros((1, 16), np.float32))
        with pytest.raises(InferenceServerException, match="unknown model: 'nobody' is not found"):
            await client.infer("nobody", [given])
