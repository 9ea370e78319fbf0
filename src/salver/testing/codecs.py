"""Conformance suite of codecs.

Define a codec, a signature and sample bodies; pytest does the rest. Holds for any
:class:`~salver.kernel.serving.ports.Codec`::

    class TestMyCodec(CodecConformance):
        codec = MyCodec()
        signature = ...
        samples = (HttpBody("m", "", b"..."),)
"""

import json
import random
from collections.abc import Callable, Iterator

import numpy as np

from salver.encoding.bodies import HttpBody, HttpReply
from salver.kernel.serving.ports import Codec
from salver.words.errors import Code, InvalidInput, SalverError, TooLarge, Unsupported
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import DataType, Tensor

#: Errors allowed for a caller's bytes.
REFUSALS = (InvalidInput, TooLarge, Unsupported)
_INSERTS = (b"[", b"{", b'"', b"-", b"1e999", b"null", b"\xff", b"9" * 30)


def every_error() -> Iterator[SalverError]:
    """Return one error of each code, with a message that needs every kind of quoting."""
    for code in Code:
        error = SalverError('no "quote" \\ or ü \ud800 breaks it', field="inputs[0]", fix="Do else.")
        error.code = code
        yield error


def mutations(body: bytes, seed: int = 0, count: int = 200) -> Iterator[bytes]:
    """Return random damage: bytes changed, dropped, doubled; the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(body)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(damaged) + 1)
            kind = chance.randrange(4)
            if kind == 0:
                damaged[at : at + 1] = bytes((chance.randrange(256),))
            elif kind == 1:
                del damaged[at : at + chance.randint(1, 8)]
            elif kind == 2:
                damaged[at:at] = damaged[at : at + chance.randint(1, 16)]
            else:
                damaged[at:at] = chance.choice(_INSERTS)
        yield bytes(damaged)


def survives(decode: Callable[[bytes], InferRequest], body: bytes) -> bool:
    """Return True if the bytes decode to a complete request, False if they are rejected."""
    try:
        request = decode(body)
    except REFUSALS as error:
        assert str(error), "a refusal says why"
        return False
    for tensor in request.inputs:
        assert tensor.array.dtype == tensor.datatype.dtype, tensor
        assert tensor.array.flags.c_contiguous, tensor
        if tensor.datatype is DataType.BYTES:
            assert all(type(value) is bytes for value in tensor.array.ravel()), tensor
    return True


class CodecConformance:
    """Suite with three attributes to define.

    Attributes:
        codec: The codec under test.
        signature: Signature of the samples; its outputs are passed to ``encode``.
        samples: Valid requests, at least one.
    """

    codec: Codec[HttpBody, HttpReply]
    signature: Signature
    samples: tuple[HttpBody, ...]

    def _answer(self, request: InferRequest, rows: int = 2) -> InferResponse:
        outputs = []
        for spec in self.signature.outputs:
            shape = tuple(rows if dim < 0 else dim for dim in spec.shape)
            if spec.datatype is DataType.BYTES:
                array = np.full(shape, b"text", dtype=object)
            else:
                array = np.ones(shape, spec.datatype.dtype)
            outputs.append(Tensor(spec.name, spec.datatype, array))
        return InferResponse(request.model, "1", tuple(outputs), request.id)

    def _decode_with(self, sample: HttpBody) -> Callable[[bytes], InferRequest]:
        return lambda body: self.codec.decode(
            HttpBody(sample.model, sample.version, body, sample.headers), self.signature
        )

    def test_has_a_protocol_label(self) -> None:
        """The label is a short name without blanks, as for a metric's label."""
        assert self.codec.protocol and self.codec.protocol == self.codec.protocol.strip()

    def test_samples_decode(self) -> None:
        """Each sample is a request to its model, with the signature's datatypes."""
        datatypes = {spec.name: spec.datatype for spec in self.signature.inputs}
        assert self.samples
        for sample in self.samples:
            assert survives(self._decode_with(sample), sample.body), sample.body
            request = self.codec.decode(sample, self.signature)
            assert (request.model, request.version) == (sample.model, sample.version)
            assert request.inputs
            for tensor in request.inputs:
                assert datatypes[tensor.name] is tensor.datatype

    def test_decoding_twice_is_the_same(self) -> None:
        """A codec keeps no state between requests."""
        for sample in self.samples:
            first, second = (self.codec.decode(sample, self.signature) for _ in range(2))
            for one, other in zip(first.inputs, second.inputs, strict=True):
                assert one.name == other.name
                np.testing.assert_array_equal(one.array, other.array)

    def test_every_truncation_is_refused_or_whole(self) -> None:
        """A prefix of a valid body decodes or is rejected."""
        for sample in self.samples:
            decode = self._decode_with(sample)
            for end in range(len(sample.body)):
                survives(decode, sample.body[:end])

    def test_every_mutation_is_refused_or_whole(self) -> None:
        """Random damage decodes or is rejected."""
        for sample in self.samples:
            decode = self._decode_with(sample)
            for damaged in mutations(sample.body):
                survives(decode, damaged)

    def test_answers_encode(self) -> None:
        """The reply to each sample is a success."""
        for sample in self.samples:
            request = self.codec.decode(sample, self.signature)
            reply = self.codec.encode(request, self._answer(request))
            assert reply.status == 200
            assert reply.body
            assert any(name == b"content-type" for name, _ in reply.headers)

    def test_every_fault_has_a_face(self) -> None:
        """``fault`` is total, and an error's text reaches the caller."""
        for error in every_error():
            reply = self.codec.fault(error)
            assert 400 <= reply.status < 600, error.code
            assert "Do else." in json.dumps(json.loads(reply.body), ensure_ascii=False)
