"""Labels for frames: engines, worker processes and a durable cache."""

from msmlff.labeling.engine import Engine, LabelResult, Labels, SCFError, with_labels
from msmlff.labeling.labeler import Labeler
from msmlff.labeling.xtb import XTBEngine

__all__ = ["Engine", "LabelResult", "Labeler", "Labels", "SCFError", "XTBEngine", "with_labels"]
