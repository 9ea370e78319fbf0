"""Classification of pictures that NVIDIA DALI preprocesses."""

from ts.torch_handler.dali_handler import DALIHandler
from ts.torch_handler.image_classifier import ImageClassifier


class DALIImageClassifier(DALIHandler):
    """Classifier with the answers of the image classifier."""

    topk = ImageClassifier.topk
    set_max_result_classes = ImageClassifier.set_max_result_classes
    get_max_result_classes = ImageClassifier.get_max_result_classes
    postprocess = ImageClassifier.postprocess
