"""Decodes checkpoints stored in fp8 or mxfp4 while they are read; refuses other formats.

Decoding is that of transformers with `dequantize=True`, and exact: the weights are the values that
the file represents, in the model's dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DECODED = ("fp8", "mxfp4")


def decoder(config: PretrainedConfig) -> Any:
    """The decoder of this checkpoint; None if it stores plain numbers.

    Raises:
        ValueError: the storage format is not supported.
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
