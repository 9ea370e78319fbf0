"""config.properties, the command line and the environment of TorchServe (TS-C1 to TS-C12)."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from salver.dialects.torchserve.property_keys import IGNORED, KEYS, USED
from salver.dialects.torchserve.settings import Address, Settings, Source, find, read
from salver.words.errors import InvalidInput

FILE = "config.properties"


def settings(
    values: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    return Settings(Source(values or {}, FILE), flags, environment)


@pytest.mark.clause("TS-C1")
def test_addresses_and_their_defaults() -> None:
    found = settings()
    assert found.address("inference_address") == Address("127.0.0.1", 8080)
    assert found.address("management_address") == Address("127.0.0.1", 8081)
    assert found.address("metrics_address") == Address("127.0.0.1", 8082)
    assert (found.number("grpc_inference_port"), found.number("grpc_management_port")) == (7070, 7071)
    assert found.text("grpc_inference_address") == "127.0.0.1"


@pytest.mark.clause("TS-C1", "TS-P1")
@pytest.mark.parametrize(
    "key, value, address",
    [
        ("inference_address", "http://0.0.0.0:9000", Address("0.0.0.0", 9000)),
        ("inference_address", "https://host", Address("host", 443, True)),
        ("inference_address", "HTTP://host", Address("host", 80)),
        ("management_address", "https://host", Address("host", 8444, True)),
        ("metrics_address", "http://host", Address("host", 8082)),
        ("metrics_address", "unix:/tmp/m.sock", Address("", 0, path="/tmp/m.sock")),
    ],
)
def test_forms_of_addresses(key: str, value: str, address: Address) -> None:
    assert settings({key: value}).address(key) == address


@pytest.mark.clause("TS-C1")
@pytest.mark.parametrize(
    "value", ["127.0.0.1:80", "http://:80", "http://a:99999", "http://a:0", "ftp://a", "unix:x"]
)
def test_wrong_addresses_are_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"config.properties: inference_address="):
        settings({"inference_address": value})


@pytest.mark.clause("TS-C2")
@pytest.mark.parametrize(
    "key, value, why",
    [
        ("job_queue_size", "many", "not a whole number"),
        ("job_queue_size", "0", "not between 1"),
        ("default_response_timeout", "-1", "not between"),
        ("grpc_inference_port", "70000", "not between 1 and 65535"),
        ("enable_model_api", "yes", "neither true nor false"),
        ("token_expiration_min", "-1", "not a number"),
        ("models", "[1]", "not a JSON object"),
        ("models", "{", "not JSON"),
        ("models", "[" * 100_000, "not JSON"),
        ("blacklist_env_vars", "(", "not a regular expression"),
        ("allowed_urls", "a.*,(", "not a regular expression"),
        ("metrics_mode", "loud", "none of log"),
        ("service_envelope", "xml", "none of body"),
    ],
)
def test_to_ts_c11_wrong_values_name_file_and_key(key: str, value: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^config.properties: {key}=.*{why}"):
        settings({key: value})


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_default_is_possible(key: str) -> None:
    default = KEYS[key].default
    if default or KEYS[key].kind != "number":
        settings({key: default})


@pytest.mark.clause("TS-C8", "TS-C9")
def test_keys_without_effect_have_one_line_each() -> None:
    values = {name: key.default or "1" for name, key in IGNORED.items()}
    assert settings(values).notices == [
        f"{FILE}: {name} is accepted and has no effect here: {key.about}" for name, key in IGNORED.items()
    ]
    assert settings({name: key.default for name, key in USED.items()}).notices == []
    assert {"ipex_enable", "ipex_gpu_enable", "cpu_launcher_enable", "cpu_launcher_args", "vmargs"} <= set(
        IGNORED
    )


def test_an_unknown_key_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=f"{FILE}: unknown key job_queue_sise") as caught:
        settings({"job_queue_sise": "1"})
    assert caught.value.fix == "Did you mean job_queue_size?"
    with pytest.raises(InvalidInput) as caught:
        settings({"zzzzzz": "1"})
    assert "torchserve.md" in caught.value.fix


def test_the_page_has_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "from-torchserve.md").read_text()
    assert [name for name in KEYS if f"`{name}`" not in page] == []


@pytest.mark.clause("TS-C12")
def test_the_environment_goes_before_the_command_line_and_that_before_the_file() -> None:
    values = {"model_store": "a", "job_queue_size": "1"}
    flags = {"model_store": "b"}
    environment = {"TS_MODEL_STORE": "c", "TS_JOB_QUEUE_SIZE": "3"}
    found = settings(values, flags, environment)
    assert (found.text("model_store"), found.number("job_queue_size")) == ("b", 1)
    found = settings(values | {"enable_envvars_config": "TRUE"}, flags, environment)
    assert (found.text("model_store"), found.number("job_queue_size")) == ("c", 3)
    assert found.origin("model_store") == "the environment (TS_MODEL_STORE)"


@pytest.mark.clause("TS-C12")
def test_some_keys_have_no_variable() -> None:
    on = {"enable_envvars_config": "true"}
    variables = {"TS_METRIC_TIME_INTERVAL": "5", "TS_MODELS": "{", "TS_IO_RATIO": "x"}
    assert settings(on, None, variables).number("metric_time_interval") == 60


@pytest.mark.clause("TS-C12")
def test_a_wrong_value_of_the_environment_names_the_variable() -> None:
    with pytest.raises(InvalidInput, match=r"the environment \(TS_JOB_QUEUE_SIZE\): job_queue_size='x'"):
        settings({"enable_envvars_config": "true"}, None, {"TS_JOB_QUEUE_SIZE": "x"})


@pytest.mark.clause("TS-C2")
def test_allowed_urls_of_the_environment_need_leave() -> None:
    on = {"enable_envvars_config": "true", "allowed_urls": "file://.*"}
    environment = {"TS_ALLOWED_URLS": "https://x/.*"}
    assert settings(on, None, environment).text("allowed_urls") == "file://.*"
    assert (
        settings(on | {"use_env_allowed_urls": "true"}, None, environment).text("allowed_urls")
        == "https://x/.*"
    )


@pytest.mark.clause("TS-C5")
def test_the_life_of_tokens_has_two_variables() -> None:
    on = {"enable_envvars_config": "true"}
    assert settings(on, None, {"TS_TOKEN_EXPIRATION_MIN": "5"}).float("token_expiration_min") == 5
    both = {"TS_TOKEN_EXPIRATION_MIN": "5", "TS_TOKEN_EXPIRATION_TIME_MIN": "7"}
    assert settings(on, None, both).float("token_expiration_min") == 7
    assert settings({"token_expiration_min": "0.5"}).float("token_expiration_min") == 0.5


@pytest.mark.clause("TS-C11")
@pytest.mark.parametrize("value, is_on", [("oip", True), ("true", True), ("no", False)])
def test_open_inference_by_the_environment_alone(value: str, is_on: bool) -> None:
    assert (
        settings({}, None, {"TS_OPEN_INFERENCE_PROTOCOL": value}).is_on("ts_open_inference_protocol") is is_on
    )


@pytest.mark.clause("TS-C12")
def test_placeholders_are_variables() -> None:
    environment = {"HERE": "/models", "PORT": "1"}
    found = settings({"model_store": "$$HERE$$/a$$PORT$$", "load_models": "$x$"}, None, environment)
    assert (found.text("model_store"), found.text("load_models")) == ("/models/a1", "$x$")
    with pytest.raises(InvalidInput, match="model_store: Invalid Environment Variable HERE"):
        settings({"model_store": "$$HERE$$"})


@pytest.mark.clause("TS-C12")
def test_where_a_configuration_comes_from(tmp_path: Path) -> None:
    usual, named, other, last = (tmp_path / name for name in (FILE, "named", "other", "last.cfg"))
    assert find("", {}, None, tmp_path) == Source({})
    for path in (usual, named, other, last):
        path.write_text(f"model_store={path.name}")
    assert find("", {}, None, tmp_path).values == {"model_store": FILE}
    assert find("", {}, last, tmp_path) == Source({"model_store": "last.cfg"}, str(last), True)
    assert find(str(named), {}, last, tmp_path).values == {"model_store": "named"}
    assert find(str(named), {"TS_CONFIG_FILE": str(other)}, last, tmp_path).values == {"model_store": "other"}
    with pytest.raises(InvalidInput, match="--ts-config file not found"):
        find(str(tmp_path / "none"), {}, None, tmp_path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read(str(tmp_path))


@pytest.mark.clause("TS-B10")
def test_a_snapshot_says_nothing_of_what_wrote_it() -> None:
    values = {"version": "0.12.0", "tsConfigFile": "x", "python": "p", "vmargs": "-X"}
    assert Settings(Source(values, "s.cfg", True)).notices == [
        "s.cfg: vmargs is accepted and has no effect here: Salver does not use Java"
    ]


def test_booleans_and_numbers_may_have_blanks_behind_them() -> None:
    found = settings({"enable_model_api": "True \t", "job_queue_size": "7 "})
    assert found.is_on("enable_model_api")
    assert found.number("job_queue_size") == 7


@pytest.mark.clause("TS-G8")
def test_connections_have_no_age() -> None:
    keys = [
        f"grpc_{port}_max_connection_age{more}_ms"
        for port in ("inference", "management")
        for more in ("", "_grace")
    ]
    told = Settings(Source(dict.fromkeys(keys, "1000"), "f")).notices
    assert [line.partition(" is accepted")[0] for line in told] == [f"f: {key}" for key in keys]
