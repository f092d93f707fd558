import math

import pytest
import yaml

from sadr_plugin import SadrConfig
from sadr_plugin.errors import ConfigError


def test_what_an_hparams_file_may_say():
    assert SadrConfig.parse(None) is None
    assert SadrConfig.parse(False) is None
    assert SadrConfig.parse(True) == SadrConfig()
    assert SadrConfig.parse({}) == SadrConfig()
    parsed = SadrConfig.parse(
        yaml.safe_load("{gamma: 4e-2, divergence: js, select_heads: false, num_grad_steps: 7}")
    )
    assert parsed == SadrConfig(
        gamma=0.04, divergence="js", select_heads=False, num_grad_steps=7, layers=None
    )


@pytest.mark.parametrize(
    ("layers", "indices"),
    [("10-13", (10, 11, 12, 13)), ("7-7", (7,)), ([3, 5], (3, 5)), (4, (4,)), (None, None)],
)
def test_layers(layers, indices):
    assert SadrConfig(layers=layers).layers == indices


def test_gamma_falls_back_to_the_editors():
    assert SadrConfig().weight(0.08) == 0.08
    assert SadrConfig(gamma=0).weight(0.08) == 0


def test_the_settings_of_a_term():
    config = SadrConfig(terms={"mine": {"weight": 2}, "wrong": 3, "misspelt": {"weigth": 2}})
    assert config.term_settings("mine", "weight", "prompts") == {"weight": 2}
    assert config.term_settings("yours", "weight") is None
    for name, message in (
        ("wrong", r"sadr\.terms\.wrong: expected a mapping of weight, prompts, got 3"),
        ("misspelt", r"sadr\.terms\.misspelt\.weigth: unknown key; known are weight, prompts"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.term_settings(name, "weight", "prompts")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"keep": {"wieght": 1}}, "sadr.keep.wieght: unknown key; known are weight, openings"),
        ({"gama": 1}, "sadr.gama: unknown key; known are gamma"),
        ({"gamma": -1}, "sadr.gamma"),
        ({"gamma": math.nan}, "sadr.gamma"),
        ({"gamma": ".inf"}, "sadr.gamma"),
        ({"gamma": True}, "sadr.gamma: expected a number"),
        ({"gamma": "much"}, "sadr.gamma: expected a number"),
        ({"divergence": "KLD"}, "sadr.divergence"),
        ({"select_heads": "yes"}, "sadr.select_heads"),
        ({"layers": "10-"}, "sadr.layers"),
        ({"layers": "list(range(3))"}, "sadr.layers"),
        ({"layers": "9-3"}, "ends before it begins"),
        ({"layers": []}, "sadr.layers: expected at least one layer"),
        ({"layers": [1, -2]}, r"sadr.layers\[1\]"),
        ({"layers": [1.5]}, r"sadr.layers\[0\]"),
        ({"num_grad_steps": 0}, "sadr.num_grad_steps"),
        ({"num_grad_steps": "ten"}, "sadr.num_grad_steps"),
        ({"stop_at": 0}, "sadr.stop_at"),
        ({"stop_at": 1.5}, "sadr.stop_at"),
        ({"stop_at": True}, "sadr.stop_at: expected a number"),
        ("true", "sadr: expected true, false or a mapping"),
        (0.04, "sadr: expected true, false or a mapping"),
        ([], "sadr: expected true, false or a mapping"),
    ],
)
def test_bad_values_are_refused_by_name(value, named):
    with pytest.raises(ConfigError, match=named):
        SadrConfig.parse(value)
