"""Doubles of servables and codecs that declare by the attributes that they have."""

from salver.kernel.serving.capabilities import Capabilities
from salver.words.messages import InferResponse


class Declaring:
    """A servable whose capabilities are its attributes of their names, as they are when it is asked.

    It is a codec, too, whose answers are short, since many doubles are both.
    """

    @property
    def capabilities(self) -> Capabilities:
        found = {name: getattr(self, name) for name in Capabilities.__struct_fields__ if hasattr(self, name)}
        return Capabilities(**found)

    def takes_long(self, response: InferResponse) -> bool:
        return False
