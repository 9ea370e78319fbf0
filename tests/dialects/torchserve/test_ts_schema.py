"""Our tables against TorchServe's own files."""

import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from torchserve_stubs import INFERENCE, MANAGEMENT, OPEN_INFERENCE, PROTOS, pool

from salver.dialects.torchserve.grpc_codec import CLASSES
from salver.dialects.triton import grpc_schema

_NAMES = sorted(made.DESCRIPTOR.full_name for made in CLASSES.values())


def _fields(descriptor: Any, package: str) -> dict[str, tuple[Any, ...]]:
    return {
        f.name: (
            f.number,
            f.type,
            f.is_repeated,
            f.message_type and f.message_type.full_name.removeprefix(package),
            f.containing_oneof and f.containing_oneof.name,
        )
        for f in descriptor.fields
    }


@pytest.mark.clause("TS-G2")
@pytest.mark.parametrize("name", _NAMES)
def test_fields_are_torchserves(name: str) -> None:
    package, _, short = name.rpartition(".")
    theirs = pool().FindMessageTypeByName(name)
    assert _fields(CLASSES[short].DESCRIPTOR, package) == _fields(theirs, package)


@pytest.mark.clause("TS-G2")
@pytest.mark.parametrize(
    ("file", "package"), [("inference.proto", INFERENCE), ("management.proto", MANAGEMENT)]
)
def test_the_messages_are_whole(file: str, package: str) -> None:
    theirs = pool().FindFileByName(file).message_types_by_name
    assert set(theirs) == {n for n in CLASSES if CLASSES[n].DESCRIPTOR.full_name == f"{package}.{n}"}


@pytest.mark.clause("TS-G4")
def test_the_messages_of_its_open_inference_service_are_tritons() -> None:
    ours = grpc_schema.build_all()
    file = pool().FindFileByName("open_inference_grpc.proto")
    for name, theirs in file.message_types_by_name.items():
        more = _fields(ours[name].DESCRIPTOR, "inference")
        assert _fields(theirs, OPEN_INFERENCE).items() <= more.items(), name


def test_what_the_tests_read_is_made_of_the_files() -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    made = subprocess.run(
        [
            sys.executable,
            "-m",
            protoc.__name__,
            f"-I{PROTOS}",
            "--descriptor_set_out=/dev/stdout",
            "management.proto",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    whole = descriptor_pb2.FileDescriptorSet.FromString((PROTOS / "torchserve.binpb").read_bytes())
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(made).file
    assert file in whole.file
