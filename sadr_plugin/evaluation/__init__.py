"""Evaluate edits as the paper does: records, scores, arms and summaries.

Import everything that a program needs from here:

    from sadr_plugin.evaluation import Arm, EvaluationRun, LocalEngine, SingleEvaluator, load
"""

from ..editor import Dimension, Editor, Question, Record, sample
from ._data import BUILTIN, Data, load
from ._edits import counted_steps, edited
from ._files import read_checkpoints, read_results
from ._formats import schema
from ._loading import attention_for_edits, load_model
from ._metrics import SHORT, TASKS, ngram_entropy
from ._random import generators_kept
from ._results import UNEDITED, Arm, Checkpoint, Result
from ._run import EvaluationRun
from ._scoring import Answer, Scorer, answer_probability
from ._sequence import SequenceEvaluator
from ._sequence_run import SequenceRun, checkpoints
from ._sequence_summary import SequenceSummary, summarise_sequence
from ._sequence_tables import sequence_table, write_sequence
from ._significance import Estimate, difference, estimate, holm, sign_test
from ._single import SingleEvaluator
from ._summary import ArmSummary, summarise
from ._tables import markdown, table, tex, write
from ._weights import UneditedWeights
from .engines import Engine, Evaluator, Item
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
    "Checkpoint",
    "Data",
    "Dimension",
    "Editor",
    "Engine",
    "Estimate",
    "EvaluationRun",
    "Evaluator",
    "Item",
    "LocalEngine",
    "Question",
    "RayEngine",
    "Record",
    "Result",
    "Scorer",
    "SequenceEvaluator",
    "SequenceRun",
    "SequenceSummary",
    "SingleEvaluator",
    "UneditedWeights",
    "answer_probability",
    "attention_for_edits",
    "checkpoints",
    "counted_steps",
    "difference",
    "edited",
    "estimate",
    "generators_kept",
    "holm",
    "load",
    "load_model",
    "markdown",
    "ngram_entropy",
    "read_checkpoints",
    "read_results",
    "sample",
    "schema",
    "sequence_table",
    "sign_test",
    "summarise",
    "summarise_sequence",
    "table",
    "tex",
    "write",
    "write_sequence",
]
