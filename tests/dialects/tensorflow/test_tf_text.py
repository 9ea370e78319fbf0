"""Errors in configuration files of TensorFlow Serving, with their place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.tensorflow.tf_text import parse, unpacked
from salver.words.errors import InvalidInput

BEGINS = "Error parsing text-format tensorflow.serving.ModelServerConfig: "


@pytest.mark.clause("TF-C1")
def test_a_list_of_models() -> None:
    text = b"""
    # as in the guides
    model_config_list: {
      config: { name: "a", base_path: "/a", model_platform: "tensorflow",
                model_version_policy { specific { versions: [1, 2] } }
                version_labels { key: 'stable' value: 1 } },
    }"""
    config = parse(text, "ModelServerConfig", "f").model_config_list.config[0]
    assert (config.name, config.base_path, dict(config.version_labels)) == ("a", "/a", {"stable": 1})
    assert list(config.model_version_policy.specific.versions) == [1, 2]


@pytest.mark.clause("TF-L6")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            b"model_config_list { config { nme: 'x' } }",
            '1:30: Message type "tensorflow.serving.ModelConfig" has',
        ),
        (b"\n model_config_list {", "2:"),
        (b"model_config_list { config { version_labels { key: 'a' value: 'x' } } }", "1:63: Couldn't parse"),
        (b"\xff", "byte 0 of f is not UTF-8"),
        (b"custom_model_config { [type.googleapis.com/x.Y] { a: 1 } }", "Type x.Y not found"),
    ],
)
def test_what_is_wrong_is_told_in_the_words_that_operators_know(text: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text, "ModelServerConfig", "f")
    assert str(caught.value).startswith(BEGINS)
    assert said in str(caught.value)


def test_the_nearest_field_is_named() -> None:
    with pytest.raises(InvalidInput, match="Did you mean `base_path`"):
        parse(b"model_config_list { config { basepath: 'x' } }", "ModelServerConfig", "f")
    with pytest.raises(InvalidInput, match="Known here: model_config_list, custom_model_config"):
        parse(b"zzzzzzzz { }", "ModelServerConfig", "f")


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(text: bytes) -> None:
    for kind in ("ModelServerConfig", "BatchingParameters", "SSLConfig"):
        try:
            parse(text, kind, "f")
        except InvalidInput as error:
            assert str(error).startswith("Error parsing text-format tensorflow.serving.")


@pytest.mark.clause("TF-C8")
def test_a_platforms_configuration_is_packed_by_its_type() -> None:
    text = b"""platform_configs { key: "tensorflow" value { source_adapter_config {
        [type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {
            legacy_config { saved_model_tags: "serve" enable_model_warmup: true } } } } }"""
    found = parse(text, "PlatformConfigMap", "f").platform_configs["tensorflow"].source_adapter_config
    assert unpacked(found).legacy_config.saved_model_tags == ["serve"]
