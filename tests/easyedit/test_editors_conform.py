"""The conformance kit on EasyEdit's own editors, with a model small enough for all of it."""

import pytest
import torch

import sadr_plugin
from easyedit.conftest import MAIN_BRANCH
from easyedit.test_editors import EDIT_POINTS, hparams_of, load
from sadr_plugin.testing import EditorConformance
from support import spaced_tokenizer, tiny_llama, word_tokenizer


class Kit(EditorConformance):
    def setup_method(self):
        load(self.point.function)
        super().setup_method()

    def new_model(self):
        return tiny_llama()

    def hparams(self, **flag):
        return hparams_of(
            self.point,
            layers=[1],
            v_lr=2.0,
            clamp_norm_factor=100,
            v_loss_layer=3,
            lm_head_module="lm_head",  # of this model's own weights
            **flag,
        )

    def run(self, model, hparams, tokenizer=None):
        from sadr_plugin.devices import cuda_or_cpu

        request = {"prompt": "the {} is in", "subject": "tower", "target_new": " rome"}
        contexts = ["{}", "so then {}"]
        arguments = [model, tokenizer or word_tokenizer(), request, hparams, 1]
        if self.point.editor in ("ROME", "R-ROME"):
            arguments += [torch.ones(64), contexts]
        else:
            arguments += [[contexts]]
        with cuda_or_cpu():  # in whichever thread this is
            return load(self.point.function)(*arguments)

    def test_stop_at_where_the_targets_first_space_is_a_token(self):
        """As with Llama 2 and Mistral v1: alone the target has a token more than in the prompt."""
        tokenizer = spaced_tokenizer()
        assert tokenizer.convert_ids_to_tokens(tokenizer(" rome")["input_ids"]) == ["▁", "▁rome"]
        with sadr_plugin.reports() as found:
            hparams = self.hparams(sadr={"gamma": 0, "stop_at": 1.0})
            self.run(self.new_model(), hparams, tokenizer)
        reached = [step.target for step in found[0].steps]
        assert 0 < reached[0] < max(reached) <= 1


for _point in EDIT_POINTS:
    if _point.editor != "EAMET":  # the same loop with more arguments; see test_editors.py
        for _reuse in (True, False):
            _function = _point.function.rpartition(":")[2] + ("" if _reuse else "_in_full")
            _name = f"Test{_point.editor.replace('-', '')}_{_function}"
            _class = type(_name, (Kit,), {"point": _point, "reuse": _reuse})
            _class = pytest.mark.skipif(
                not MAIN_BRANCH and _point.editor not in ("ROME", "MEMIT"),
                reason=f"EasyEdit's PyPI release has no {_point.editor}",
            )(_class)
            globals()[_name] = _class
