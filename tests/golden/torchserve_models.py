"""The archives that TorchServe's recorded cases ask, packed by the unmodified archivers.

Of programs in ``torchserve/``. ``made()`` gives the folder with ``models`` and ``workflows``, made once a
machine in a process of its own, which has PyTorch; weights come from closed formulas. Run as a program it
writes them below a folder.
"""

import concurrent.futures
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "support"))
from archivers import run_archiver

_SOURCE = Path(__file__).with_name("torchserve")
_ONE = {"minWorkers": 1, "maxWorkers": 1}
#: By file: what differs from an archive of that name, version 1.0, with the handler of that name.
ARCHIVES: dict[str, dict[str, Any]] = {
    "noop": {},
    "kinds": {},
    "codes": {},
    "broken_init": {},
    "two_classes": {},
    "faulty": {},
    "stream": {},
    "meters": {},
    "plain_function": {},
    "inspect": {"handler": "inspect_handler.py"},
    "inspect_v2": {"name": "inspect", "version": "2.0", "handler": "inspect_two.py"},
    "inspect_v3": {"name": "inspect", "version": "3.0", "handler": "inspect_two.py"},
    "slow": {"config": {**_ONE, "responseTimeout": 2}},
    "impatient": {
        "handler": "slow.py",
        "config": {**_ONE, "clientTimeoutInMills": 400, "responseTimeout": 20},
    },
    "context_dump": {
        "config": {
            **_ONE,
            "batchSize": 2,
            "maxBatchDelay": 20,
            "handler": {"colour": "green", "size": 3},
            "free": {"form": [1, 2]},
        }
    },
    "batcher": {"config": {**_ONE, "batchSize": 4, "maxBatchDelay": 1500}},
    "batcher_plain": {"handler": "batcher.py"},
    "entry": {"handler": "entry:run"},
    "tabular": {"serialized-file": "tabular.pt"},
    "tabular_eager": {
        "handler": "tabular.py",
        "serialized-file": "tabular_eager.pt",
        "model-file": "tabular_net.py",
    },
    "pictures": {
        "handler": "image_classifier",
        "serialized-file": "pictures.pt",
        "extra-files": "index_to_name.json",
    },
    "words": {"extra-files": "vocab.json"},
    "enveloped": {},
    "total": {
        "config": {
            **_ONE,
            "batchSize": 3,
            "maxBatchDelay": 5,
            "sequenceBatching": True,
            "maxNumSequence": 3,
            "sequenceMaxIdleMSec": 1500,
            "maxSequenceJobQueueSize": 5,
        }
    },
    "countdown": {"config": {**_ONE, "batchSize": 2, "maxBatchDelay": 5, "continuousBatching": True}},
    "ticket": {"handler": "slow.py", "config": {**_ONE, "useJobTicket": True, "jobQueueSize": 10}},
    "narrow": {"handler": "slow.py", "config": {**_ONE, "jobQueueSize": 1}},
    "asleep": {"handler": "noop.py"},
    "every_setting": {
        "handler": "noop.py",
        "version": "7",
        "config": {
            "minWorkers": 1,
            "maxWorkers": 2,
            "batchSize": 3,
            "maxBatchDelay": 7,
            "responseTimeout": 31,
            "startupTimeout": 41,
            "maxRetryTimeoutInSec": 60,
            "clientTimeoutInMills": 0,
            "jobQueueSize": 9,
        },
    },
    "packed_tgz": {"handler": "noop.py", "archive-format": "tgz"},
    "packed_folder": {"handler": "noop.py", "archive-format": "no-archive"},
    "packed_store": {"handler": "noop.py", "archive-format": "zip-store"},
}
#: Workflows, and the programs of their nodes.
FLOWS = {
    "flow_sequence": "flow_sequence",
    "flow_parallel": "flow_parallel",
    "flow_failing": "flow_failing",
    "flow_cycle": "flow_failing",
    "flow_lost": "flow_failing",
}


@functools.cache
def made() -> Path:
    """Return the read-only folder of archives."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode())
    for path in sorted(p for p in _SOURCE.rglob("*") if p.suffix in (".py", ".yaml")):
        digest.update(path.read_bytes())
    root = Path(tempfile.gettempdir()) / f"salver-torchserve-{os.getuid()}"
    whole = root / digest.hexdigest()[:16]
    if not whole.is_dir():
        root.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as work:
            new = Path(work) / "new"
            done = subprocess.run([sys.executable, __file__, str(new)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            try:
                new.rename(whole)
            except OSError:  # another process has been faster
                assert whole.is_dir()
    return whole


def copied(folder: Path) -> Path:
    """Return a copy for a server that may write into its stores."""
    shutil.copytree(made(), folder, dirs_exist_ok=True)
    return folder


# What follows runs in a process of its own.


def _weights(module: Any) -> Any:
    """Every parameter from a fixed formula."""
    import torch

    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            steps = torch.arange(parameter.numel(), dtype=torch.float32)
            parameter.copy_((torch.sin(steps * 0.7 + number) * 0.5).reshape(parameter.shape))
    return module.eval()


def _networks(source: Path) -> None:
    import torch

    sys.path.insert(0, str(source))
    from tabular_net import TabularNet

    net = _weights(TabularNet())
    torch.save(net.state_dict(), source / "tabular_eager.pt")
    torch.jit.trace(net, torch.zeros(1, 4)).save(str(source / "tabular.pt"))
    layers = [torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    eyes = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4, 6))
    torch.jit.trace(_weights(eyes), torch.zeros(1, 3, 224, 224)).save(str(source / "pictures.pt"))
    names = ["ant", "bee", "cat", "dog", "eel", "fox"]
    (source / "index_to_name.json").write_text(json.dumps({str(i): name for i, name in enumerate(names)}))
    (source / "vocab.json").write_text(json.dumps(["good", "bad", "salver"]))


def _pack(file: str, what: Mapping[str, Any], source: Path, store: Path) -> None:
    """Pack one archive in a folder of its own, since the archiver names it after the model."""
    with tempfile.TemporaryDirectory(dir=store.parent) as out:
        flags = {
            "model-name": what.get("name", file),
            "version": what.get("version", "1.0"),
            "handler": what.get("handler", f"{file}.py"),
            "export-path": out,
        }
        flags |= {key: value for key, value in what.items() if "-" in key}
        if "config" in what:
            (source / f"{file}.yaml").write_text(json.dumps(what["config"], indent=1))
            flags["config-file"] = str(_named_config(source, file))
        options = (word for flag, value in flags.items() for word in (f"--{flag}", value))
        run_archiver("torch-model-archiver", *options, "--force", work=source)
        (packed,) = Path(out).iterdir()
        name = packed.name.replace(flags["model-name"], file, 1)
        packed.rename(store / name)


def _named_config(source: Path, file: str) -> Path:
    """``model-config.yaml``, as its name stands in the archive, in a folder of its own."""
    folder = source / f"{file}-config"
    folder.mkdir()
    return (source / f"{file}.yaml").rename(folder / "model-config.yaml")


def _write(out: Path) -> None:
    source, store, flows = out / "source", out / "models", out / "workflows"
    shutil.copytree(_SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
    store.mkdir()
    flows.mkdir()
    two = (source / "inspect_handler.py").read_text().replace('"one"', '"two"')
    (source / "inspect_two.py").write_text(two)
    _networks(source)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(lambda each: _pack(each[0], each[1], source, store), ARCHIVES.items()))
    for name, program in FLOWS.items():
        words = ["--workflow-name", name, "--spec-file", f"{name}.yaml", "--handler", f"{name}.py"]
        if program != name:
            shutil.copy(source / "flows" / f"{program}.py", source / "flows" / f"{name}.py")
        words += ["--export-path", str(flows), "--force"]
        run_archiver("torch-workflow-archiver", *words, work=source / "flows")
    shutil.rmtree(source)
    (store / "not_an_archive.mar").write_bytes(b"this is no zip file\n")
    (store / "readme.txt").write_text("not a model\n")
    shutil.copy(store / "noop.mar", out / "outside.mar")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
