"""Checkpoints stored in fp8 or mxfp4 are decoded while they are read; others are refused.

Decoding is transformers' own, as in its loading with `dequantize=True`, and exact: what is computed
with are the values that the file means, in the model's dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DECODED = ("fp8", "mxfp4")


def decoder(config: PretrainedConfig) -> Any:
    """What decodes this checkpoint: None where it stores plain numbers.

    Raises:
        ValueError: it stores them in a way that is not decoded.
    """
    stored = vars(config).get("quantization_config")
    if stored is None:
        return None
    fields = stored if isinstance(stored, dict) else stored.to_dict()
    method = str(fields.get("quant_method", ""))
    if method not in DECODED:
        raise ValueError(
            f"model: its weights are stored as {method or 'something unnamed'}; expected plain "
            f"numbers, or {' or '.join(DECODED)}, which are decoded; try the checkpoint that it "
            "was made from, and quant= for bits"
        )
    settings = AutoQuantizationConfig.from_dict({**fields, "dequantize": True})
    settings.dequantize = True
    return AutoHfQuantizer.from_config(settings, pre_quantized=True)
