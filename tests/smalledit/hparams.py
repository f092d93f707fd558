from dataclasses import dataclass, field

import yaml


@dataclass
class Hparams:
    """Base class, as toolkits have one."""


@dataclass
class SmallHparams(Hparams):
    layer: int = 1
    v_num_grad_steps: int = 6
    lr: float = 2.0
    start: float = 0.0
    contexts: list = field(default_factory=lambda: ["{}", "so {}"])
    layer_module_tmp: str = "model.layers.{}"
    fact_token: str = "subject_last"

    @classmethod
    def from_hparams(cls, path):
        with open(path) as file:
            return cls(**yaml.safe_load(file))


@dataclass
class OtherHparams(Hparams):
    steps: int = 1
