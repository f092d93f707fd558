"""Finds settings for a model and an editor on some records, and tests them on other records.

All names that a program needs are here::

    from sadr_plugin.tuning import Runs, Search, Setup, Space, TrialEvaluator, check_up, judge
"""

from ._checkup import Finding, check_up
from ._known import Known, known, split
from ._objectives import Objectives, objectives, questions
from ._runs import Runs
from ._search import Search, Tried, expect_optuna
from ._space import Space
from ._targets import Baselines, margin
from ._trials import PLAIN, Setup, TrialEvaluator, TrialTask
from ._tuner import Options, Tuner, Tuning
from ._verdict import CONTROL, TUNED, Verdict, judge

__all__ = [
    "CONTROL",
    "PLAIN",
    "TUNED",
    "Baselines",
    "Finding",
    "Known",
    "Objectives",
    "Options",
    "Runs",
    "Search",
    "Setup",
    "Space",
    "TrialEvaluator",
    "TrialTask",
    "Tried",
    "Tuner",
    "Tuning",
    "Verdict",
    "check_up",
    "expect_optuna",
    "judge",
    "known",
    "margin",
    "objectives",
    "questions",
    "split",
]
