"""A key of config.json that transformers' class reads is read here, too, or cannot change what a model computes.

The test searches the source of the classes, so a key that a new version of transformers adds is found.
"""

import inspect
import re
from pathlib import Path

import pytest
import transformers

from pagoda.models.formats import families
from tests.unit.pagoda.models.formats.test_config_defaults import CLASSES

KEY = re.compile(r"\bconfig\.([a-z]\w*)|getattr\((?:self\.)?config, \"([a-z]\w*)\"")
FORMATS = Path(families.__file__).parents[1]
OURS = set(re.findall(r'"(\w+)"', "\n".join(path.read_text() for path in FORMATS.rglob("*.py"))))
WITHOUT_EFFECT = {
    *("attention_dropout", "resid_pdrop", "residual_dropout", "initializer_range", "router_aux_loss_coef"),  # training
    "router_jitter_noise",  # training
    *("use_cache", "output_router_logits", "pad_token_id", "get_text_config"),  # how a caller uses the class
    *("image_token_id", "mm_tokens_per_image", "vision_config"),  # images
    *("num_experts_per_tok", "time_step_limit"),  # of layers that are refused
}


@pytest.mark.parametrize("name", CLASSES)
def test_keys_that_a_class_reads(name: str) -> None:
    configuration = Path(inspect.getfile(getattr(transformers, f"{name}Config")))
    modeling = configuration.with_name(configuration.name.replace("configuration_", "modeling_"))
    found = {first or second for first, second in KEY.findall(modeling.read_text())}
    assert "num_attention_heads" in found
    assert {key for key in found - OURS - WITHOUT_EFFECT if not key.startswith("mamba_")} == set()
