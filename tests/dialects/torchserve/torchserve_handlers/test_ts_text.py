"""Handlers of texts: cleaning, classification and explanation, compared with the network itself."""

import json
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from handler_runs import archive, ask, opened, unpack
from hypothesis import given
from hypothesis import strategies as st
from ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.torch_handler.text_classifier import TextClassifier

CORPUS = {
    "sport": [
        "the team won the match",
        "she scored a late goal",
        "a runner broke the record",
        "they lost the final",
    ],
    "money": [
        "shares fell on the market",
        "the bank raised its rates",
        "profits rose again",
        "they sold the company",
    ],
}
NETWORK = """
import torch

class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(SIZE, 8)
        self.fc = torch.nn.Linear(8, 2)

    def forward(self, text, offsets):
        return self.fc(self.embedding(text, offsets))
"""


def vocabulary() -> dict[str, int]:
    numbers = {"<unk>": 0}
    for text in [text for texts in CORPUS.values() for text in texts]:
        for token in ngrams_iterator(text.split(), 2):
            numbers.setdefault(token, len(numbers))
    return numbers


def network(size: int) -> Any:
    names: dict[str, Any] = {}
    exec(NETWORK.replace("SIZE", str(size)), names)
    torch.manual_seed(0)
    return names["Words"]()


def trained(vocab: dict[str, int]) -> Any:
    """Return a network that separates the two kinds of text in the corpus."""
    model = network(len(vocab))
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    for _ in range(60):
        for kind, texts in enumerate(CORPUS.values()):
            for text in texts:
                numbers = torch.tensor([vocab[token] for token in ngrams_iterator(text.split(), 2)])
                loss = torch.nn.functional.cross_entropy(
                    model(numbers, torch.tensor([0])), torch.tensor([kind])
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


VOCAB = vocabulary()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("words")
    (place / "words_net.py").write_text(NETWORK.replace("SIZE", str(len(VOCAB))))
    torch.save(trained(VOCAB).state_dict(), place / "words.pt")
    torch.save(VOCAB, place / "source_vocab.pt")
    labels = place / "index_to_name.json"
    labels.write_text(json.dumps({str(number): kind for number, kind in enumerate(CORPUS)}))
    mar = archive(
        place,
        "words",
        "text_classifier",
        serialized_file=place / "words.pt",
        model_file=place / "words_net.py",
        extra_files=[place / "source_vocab.pt", labels],
    )
    return unpack(mar)


def numbers_of(text: str) -> torch.Tensor:
    return torch.tensor([VOCAB[token] for token in ngrams_iterator(text.split(), 2)])


@pytest.mark.clause("TS-A5", "TS-A8")
@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in CORPUS.items() for text in texts])
def test_text_classifier_answers_as_the_network_by_hand(folder: Path, kind: str, text: str) -> None:
    handler, context = opened(folder)
    by_hand = network(len(VOCAB))
    by_hand.load_state_dict(torch.load(folder / "words.pt"))
    with torch.inference_mode():
        (chances,) = by_hand(numbers_of(text), torch.tensor([0])).softmax(1).tolist()
    (answer,) = ask(handler, context, text.encode())
    assert answer == dict(zip(CORPUS, chances, strict=True))
    assert max(answer, key=answer.__getitem__) == kind
    assert ask(handler, context, f"<p>{text.title()}!</p>") == [answer]
    assert handler.handle([{"data": bytearray(text.encode())}], context) == [answer]


@pytest.mark.clause("TS-A5")
def test_of_a_batch_only_the_first_text_is_classified(folder: Path) -> None:
    handler, context = opened(folder)
    first = CORPUS["sport"][0]
    assert ask(handler, context, first, "shares fell on the market") == ask(handler, context, first)


@pytest.mark.clause("TS-A8")
def test_a_word_without_a_number_fails_the_request(folder: Path) -> None:
    handler, context = opened(folder)
    with pytest.raises(KeyError, match="zebra"):
        ask(handler, context, "zebra")


@pytest.mark.clause("TS-A8")
def test_the_vocabulary_must_be_there(folder: Path) -> None:
    (folder / "source_vocab.pt").rename(folder / "away.pt")
    try:
        with pytest.raises(RuntimeError, match="Missing the source_vocab file"):
            opened(folder)
    finally:
        (folder / "away.pt").rename(folder / "source_vocab.pt")


@pytest.mark.clause("TS-A11")
def test_each_part_of_the_embedding_has_its_share_of_the_score(folder: Path) -> None:
    from captum.attr import LayerIntegratedGradients

    handler, context = opened(folder)
    text = "profits rose again"
    context.headers = {"explain": "True"}
    (answer,) = handler.handle([{"body": text, "target": 1}], context)
    assert answer["words"] == text.split()
    by_hand = network(len(VOCAB))
    by_hand.load_state_dict(torch.load(folder / "words.pt"))
    numbers = numbers_of(text)
    shares = LayerIntegratedGradients(by_hand, by_hand.embedding).attribute(
        numbers, torch.zeros_like(numbers), additional_forward_args=torch.tensor([0]), target=1
    )
    shares = shares.softmax(1)
    assert torch.equal(torch.tensor(answer["importances"]), shares / shares.sum(-1).norm())


@pytest.mark.clause("TS-A5")
@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("You can't do THAT", "you cannot do that"),
        ("he'll've gone", "he willve gone"),
        ("She'd've come; y'all're late", "she wouldve come you allre late"),
        ("<b>Caf\u00e9</b>&amp;bar", "cafebar"),
        ("o'clock, won't've (been)?", "of the clock will notve been"),
        ("rock 'n' roll's", "rock n rolls"),
        ("  many\n blanks\t", "many blanks"),
    ],
)
def test_a_text_is_cleaned_before_it_is_numbered(text: str, clean: str) -> None:
    """As TorchServe did, which expands the shorter of two contractions that begin alike."""
    handler = TextClassifier()
    handler.device = torch.device("cpu")
    handler.ngrams = 1
    handler.source_vocab = type("Any", (dict,), {"__missing__": lambda self, key: 0})()
    assert handler.preprocess([{"body": text}])[1] == clean.split()


@pytest.mark.clause("TS-A5")
@given(st.text(alphabet=string.ascii_letters + "' .", max_size=40))
def test_an_expanded_text_has_no_apostrophe_left(text: str) -> None:
    expanded = TextClassifier()._expand_contractions(text)
    assert "'" not in expanded
    if "'" not in text:
        assert expanded == text


@pytest.mark.clause("TS-A5")
def test_contractions_keep_the_case_of_their_first_letter() -> None:
    handler = TextClassifier()
    assert len(CONTRACTION_MAP) == 123
    assert handler._expand_contractions("Don't I'd WE'RE Ain't") == "Do not I would We are As not"


@pytest.mark.clause("TS-A5")
@given(st.lists(st.text("abc", min_size=1), max_size=6), st.integers(1, 4))
def test_groups_of_neighbours(words: list[str], most: int) -> None:
    expected = [" ".join(words[i : i + n]) for n in range(1, most + 1) for i in range(len(words) - n + 1)]
    assert list(ngrams_iterator(words, most)) == expected


@pytest.mark.clause("TS-A5")
def test_tokenizers_by_their_names() -> None:
    basic, blanks = get_tokenizer("basic_english"), get_tokenizer(None)
    assert basic is not None and blanks is not None
    assert basic('He said: "No, no."; (it\'s<br />ok)') == [
        *("he", "said", "no", ",", "no", ".", "(", "it", "'", "s", "ok", ")")
    ]
    assert blanks("A b") == ["A", "b"]
    assert get_tokenizer("spacy") is None
    with pytest.raises(ValueError, match="English"):
        get_tokenizer("basic_english", "de")
