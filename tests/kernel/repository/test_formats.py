"""Formats that dialects bring to a repository, and a repository without any."""

from pathlib import Path

import msgspec
import pytest
from model_folders import recognise, write_files

from salver.kernel.repository import Formats, Repository, RepositoryConfig
from salver.kernel.repository.ports import ForeignConfig, UnreadableConfig
from salver.words.artifacts import Batching, LoadOrder, Manifest, ModelConfig
from salver.words.errors import Unsupported


class RowsFormat:
    """A file that holds the most rows of a batch."""

    def parse(self, content: bytes, origin: str, name: str) -> ForeignConfig:
        if not content.strip().isdigit():
            raise UnreadableConfig(f"{origin}: not a number")
        config = ModelConfig(batching=Batching(max_rows=int(content)))
        return ForeignConfig(config, {}, (f"{name} was read",), content, content, {}, False, "")

    def parse_request(self, text: str, name: str) -> ForeignConfig:
        return self.parse(text.encode(), "the request", name)

    def missing_backend(self, backend: str) -> str:
        return "there is no backend 'elsewhere'" if backend == "elsewhere" else ""

    def missing_file(self, path: Path) -> str:
        return f"{path} is missing"


class WordsFormat:
    """Artefacts whose first line is name and version."""

    def identify(self, path: Path, name: str) -> tuple[str, str]:
        _, name, version = path.read_text().split()
        return name, version

    def complete(self, manifest: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, notices=("completed",))


FORMATS = Formats(recognise, configs={"rows.txt": RowsFormat()}, archives={"torch": WordsFormat()})


def scan(root: Path, formats: Formats = FORMATS, **config: str) -> dict[str, Manifest]:
    repository = Repository([root], formats, RepositoryConfig(**config))  # type: ignore[arg-type]
    return {str(manifest.id): manifest for manifest in repository.scan(0.0)}


def test_without_formats_only_salvers_own_configuration_is_read(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/config.pbtxt": "wrong", "a/1/m": "ONNX", "b/salver.toml": "timeout_ms = 7"})
    write_files(tmp_path, {"b/1/m": "ONNX"})
    found = scan(tmp_path, Formats(recognise))
    assert not found["a:1"].problem
    assert found["b:1"].config.timeout_ms == 7


def test_a_configuration_in_a_format_of_a_dialect(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/rows.txt": "7", "a/1/m": "ONNX", "b/rows.txt": "many", "b/1/m": "ONNX"})
    write_files(tmp_path, {"c/rows.txt": "7", "c/salver.toml": "", "c/1/m": "ONNX"})
    found = scan(tmp_path)
    assert found["a:1"].config.batching.max_rows == 7
    assert (found["a:1"].foreign_config, found["a:1"].notices) == (b"7", ("a was read",))
    assert (found["b:1"].is_unreadable, found["b:1"].problem) == (
        True,
        f"{tmp_path}/b/rows.txt: not a number",
    )
    assert found["c:1"].problem == f"{tmp_path}/c has both salver.toml and rows.txt; keep one of them"


def test_a_configuration_that_is_required_and_one_that_is_chosen(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1/m": "ONNX", "b/configs/big.txt": "9", "b/rows.txt": "7", "b/1/m": "ONNX"})
    found = scan(tmp_path, required_config="rows.txt", config_name="big")
    assert found["a:1"].problem == f"{tmp_path}/a/rows.txt is missing"
    assert found["b:1"].config.batching.max_rows == 9


def test_a_backend_that_only_another_server_has(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/salver.toml": 'backend = "elsewhere"', "a/1/m": "ONNX"})
    assert scan(tmp_path)["a:1"].problem == f"{tmp_path}/a/salver.toml: there is no backend 'elsewhere'"


def test_the_configuration_of_a_load_request(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/1/m": "ONNX"})
    for formats, rows in ((FORMATS, 5), (Formats(recognise), None)):
        repository = Repository([tmp_path], formats)
        repository.overrides["a"] = repository.bring("a", LoadOrder("5"))
        (found,) = repository.scan(0.0)
        if rows is None:
            assert found.problem == "no configuration format of requests is known here"
        else:
            assert found.config.batching.max_rows == rows


def test_archives_name_their_model_and_may_lie_beside_other_versions(tmp_path: Path) -> None:
    write_files(tmp_path, {"one": "TORCH m 1.0", "two": "TORCH m 2.0"})
    found = scan(tmp_path)
    assert {id: manifest.problem for id, manifest in found.items()} == {"m:1.0": "", "m:2.0": ""}
    assert found["m:1.0"].notices == ("completed",)
    assert found["m:1.0"].config.versions.all


def test_a_folder_that_a_request_names_needs_a_dialect(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="cannot be loaded from a folder"):
        Repository([], FORMATS).bring("m", LoadOrder(folder=str(tmp_path)))
