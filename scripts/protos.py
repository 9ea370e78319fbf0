"""Compile the .proto files of each package into ``messages.binpb`` beside them.

Salver reads those descriptor sets at run time; grpcio-tools, which compiles them, is needed by developers
alone.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools

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
        return made.read_bytes()


if __name__ == "__main__":
    for folder in FOLDERS:
        (folder / "messages.binpb").write_bytes(compiled(folder))
        print(folder.relative_to(ROOT))
