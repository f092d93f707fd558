"""Models that come as PyPI packages."""

import pytest
from transformers import AutoModelForCausalLM

from sadr_easyedit.converted import save_dequantized
from support import tiny_llama


class Quantizer:
    """As a model that was read from a GGUF file has it."""

    def is_serializable(self, *_, **__):
        return False


def test_a_model_that_was_read_from_gguf_is_saved(tmp_path):
    model = tiny_llama()
    model.is_quantized, model.hf_quantizer = True, Quantizer()
    model.config.quantization_config = {"quant_method": "gguf"}
    with pytest.raises((ValueError, AttributeError)):
        model.save_pretrained(tmp_path / "refused")
    save_dequantized(model, tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert not hasattr(saved.config, "quantization_config")
