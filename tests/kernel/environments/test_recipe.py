"""What an environment is made of, and what identifies it."""

from pathlib import Path

import pytest

from salver.kernel.environments.recipe import OWN_PYTHON, recipe_of
from salver.words.artifacts import Environment, Manifest, ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId

PINNED = "numpy==2.3.5 \\\n    --hash=sha256:00\n"
MLFLOW = (
    'python: "3.12.4"\nbuild_dependencies: [pip==24.0]\ndependencies:\n- -r requirements.txt\n- extra==1\n'
)


def manifest(home: Path, path: str, python: str = "") -> Manifest:
    config = ModelConfig(environment=Environment(path, python))
    return Manifest(ModelId("m", "1"), home / "1", "python", "python", config, home=home)


def files(folder: Path, **content: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in content.items():
        (folder / name.replace("_txt", ".txt").replace("_yaml", ".yaml")).write_text(text)
    return folder


def test_equal_requirements_of_one_python_are_one_environment(tmp_path: Path) -> None:
    one, two = (files(tmp_path / name, requirements_txt=PINNED) for name in ("one", "two"))
    other = files(tmp_path / "other", requirements_txt=PINNED + "six==1.17.0\n")
    first = recipe_of(manifest(one, "requirements.txt")).digest()
    assert recipe_of(manifest(two, "requirements.txt", OWN_PYTHON)).digest() == first
    assert recipe_of(manifest(two, "requirements.txt", "3.99")).digest() != first
    assert recipe_of(manifest(other, "requirements.txt")).digest() != first


def test_mlflow_names_python_and_packages(tmp_path: Path) -> None:
    home = files(tmp_path, python_env_yaml=MLFLOW, requirements_txt=PINNED)
    recipe = recipe_of(manifest(home, "python_env.yaml"))
    assert recipe.python == "3.12"
    assert recipe.files == {"requirements.txt": f"{PINNED}\nextra==1".encode()}
    assert recipe_of(manifest(home, "python_env.yaml", "3.13")).python == "3.13"


def test_folders_and_archives_are_known_by_their_names(tmp_path: Path) -> None:
    home = files(tmp_path / "m")
    (home / "env").mkdir()
    (home / "environment.tar.gz").write_bytes(b"a")
    assert recipe_of(manifest(home, "env")).kind == "folder"
    assert recipe_of(manifest(tmp_path, str(home / "env"))).path == home / "env"
    before = recipe_of(manifest(home, "environment.tar.gz"))
    digest = before.digest()
    (home / "environment.tar.gz").write_bytes(b"b")
    assert (before.kind, before.digest() == digest) == ("archive", False)


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("none.txt", None, "there is no .*none.txt"),
        ("conda.yaml", "", "no environment can be made of 'conda.yaml'"),
        ("requirements.txt", "six\n-r more.txt\n", "line 2: '-r more.txt' names a file of this machine"),
        ("requirements.txt", "./six.whl", "line 1"),
        ("requirements.txt", "six @ file:///six.whl", "line 1"),
        ("requirements.txt", "-e .", "line 1"),
        ("python_env.yaml", "dependencies: six", "has no list of dependencies"),
        ("python_env.yaml", "dependencies: ['-c more.txt']", "line 1"),
        ("python_env.yaml", "{", "is not valid YAML"),
        ("uv.lock", "", "pyproject.toml cannot be read"),
    ],
)
def test_what_no_environment_can_be_made_of(
    path: str, content: str | None, told: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / path).write_text(content)
    with pytest.raises(LoadFailed, match=told):
        recipe_of(manifest(tmp_path, path))
