"""Graph passes: one file each, in the order of `pipeline.py`."""

from bnncc.passes.base import LayerRecord, Note, SignTensor
from bnncc.passes.pipeline import Outcome, PassRecord, run_passes

__all__ = ["LayerRecord", "Note", "Outcome", "PassRecord", "SignTensor", "run_passes"]
