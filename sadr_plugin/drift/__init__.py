"""Study attention drift: maps, the correlation with lost answers, and a causal test.

Import everything that a program needs from here:

    from sadr_plugin.drift import CausalEvaluator, MapReader, Variant, correlations, ranked
"""

from ._causal import CausalEvaluator, Variant, arm_names, restored, transferred
from ._correlation import Coefficient, Correlation, correlations
from ._maps import AttentionMap, Head, MapReader, ranked
from ._other import OtherModel
from ._transplant import Transplant

__all__ = [
    "AttentionMap",
    "CausalEvaluator",
    "Coefficient",
    "Correlation",
    "Head",
    "MapReader",
    "OtherModel",
    "Transplant",
    "Variant",
    "arm_names",
    "correlations",
    "ranked",
    "restored",
    "transferred",
]
