"""Measuring edits as the paper does: records, scores, arms, and what they add up to.

All names that a program needs are here::

    from sadr_plugin.evaluation import Arm, EvaluationRun, LocalEngine, load, summarise, table
"""

from ._data import BUILTIN, Data, load
from ._editor import Editor, counted_steps, fingerprint
from ._formats import schema
from ._metrics import SHORT, TASKS, ngram_entropy
from ._plot import draw
from ._records import Question, Record, sample
from ._results import UNEDITED, Arm, Result, read_results
from ._run import EvaluationRun
from ._scoring import Answer, Scorer, answer_probability
from ._significance import Estimate, estimate, holm, sign_test
from ._summary import ArmSummary, summarise
from ._tables import markdown, table, tex, write
from .engines import Engine
from .engines._local import LocalEngine
from .engines._ray import RayEngine

__all__ = [
    "BUILTIN",
    "SHORT",
    "TASKS",
    "UNEDITED",
    "Answer",
    "Arm",
    "ArmSummary",
    "Data",
    "Editor",
    "Engine",
    "Estimate",
    "EvaluationRun",
    "LocalEngine",
    "Question",
    "RayEngine",
    "Record",
    "Result",
    "Scorer",
    "answer_probability",
    "counted_steps",
    "draw",
    "estimate",
    "fingerprint",
    "holm",
    "load",
    "markdown",
    "ngram_entropy",
    "read_results",
    "sample",
    "schema",
    "sign_test",
    "summarise",
    "table",
    "tex",
    "write",
]
