"""Formats of files that Triton's models have in a repository."""

from typing import Final

from salver.dialects.triton.config import pbtxt
from salver.dialects.triton.config.format import TritonConfigFormat
from salver.dialects.triton.model_folders import open_folder
from salver.kernel.repository import Formats

FORMATS: Final = Formats(configs={pbtxt.FILE: TritonConfigFormat()}, open_folder=open_folder)
