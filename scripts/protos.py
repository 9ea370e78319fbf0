"""Compile the .proto files of each package into ``messages.binpb`` beside them.

Salver reads those descriptor sets at run time; grpcio-tools, which compiles them, is needed by developers
alone.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

ROOT = Path(__file__).parent.parent
FOLDERS = sorted({path.parent for path in (ROOT / "src").rglob("*.proto")})
INCLUDES = Path(grpc_tools.__file__).parent / "_proto"


def compiled(folder: Path) -> bytes:
    """Return the descriptor set of a folder's files, with what they import."""
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / "messages.binpb"
        names = [path.name for path in sorted(folder.glob("*.proto"))]
        options = [f"-I{folder}", f"-I{INCLUDES}", "--include_imports", f"--descriptor_set_out={made}"]
        # A process of its own: protoc in this one would meet other packages' protobuf libraries.
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *names], check=True)
        found = FileDescriptorSet.FromString(made.read_bytes())
    for file in found.file:
        for message in file.message_type:
            forget_json_names(message)
    return found.SerializeToString(deterministic=True)


def forget_json_names(message: DescriptorProto) -> None:
    """Remove the names of fields in JSON that follow from their own: a sixth of the compressed bytes."""
    for field in message.field:
        first, *others = field.name.split("_")
        if field.json_name == first + "".join(part[:1].upper() + part[1:] for part in others):
            field.ClearField("json_name")
    for nested in message.nested_type:
        forget_json_names(nested)


if __name__ == "__main__":
    for folder in FOLDERS:
        (folder / "messages.binpb").write_bytes(compiled(folder))
        print(folder.relative_to(ROOT))
