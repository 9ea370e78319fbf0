"""Compile the .proto files of each package into ``messages.binpb`` beside them.

Salver reads those descriptor sets at run time; grpcio-tools, which compiles them, is needed by developers
alone.
"""

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
FOLDERS = sorted({path.parent for path in (ROOT / "src").rglob("*.proto")})
INCLUDES = Path(protoc.__file__).parent / "_proto"


def compiled(folder: Path) -> bytes:
    """Return the descriptor set of a folder's files, with what they import."""
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / "messages.binpb"
        names = [path.name for path in sorted(folder.glob("*.proto"))]
        options = [f"-I{folder}", f"-I{INCLUDES}", "--include_imports", f"--descriptor_set_out={made}"]
        if protoc.main(["protoc", *options, *names]):
            sys.exit(f"{folder}: protoc failed")
        return made.read_bytes()


if __name__ == "__main__":
    for folder in FOLDERS:
        (folder / "messages.binpb").write_bytes(compiled(folder))
        print(folder.relative_to(ROOT))
