"""A checkpoint is loaded whole or not at all."""

import pytest
import torch

from kernel.errors import UserError
from kernel.models.captioners.captioner import in_full_precision
from kernel.models.captioners.loading import load_captioner
from tests.models.captioners.conftest import edit_state


@pytest.mark.parametrize("name", ["blip2", "blip"])
def test_a_missing_layer_is_refused(own_copy, cpu, name):
    broken = own_copy(name)
    layer = {"blip2": "language_projection.weight", "blip": "vision_model.post_layernorm.weight"}[name]
    edit_state(broken.model_folder(name) / "model.safetensors", lambda state: state.pop(layer))
    with pytest.raises(UserError, match=f"missing keys {layer}.*random numbers"):
        load_captioner(broken, name, cpu)


def test_a_foreign_layer_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    path = broken.model_folder("blip2") / "model.safetensors"
    edit_state(path, lambda state: state.update({"qformer.extra.weight": torch.zeros(2)}))
    with pytest.raises(UserError, match="unexpected keys qformer.extra.weight"):
        load_captioner(broken, "blip2", cpu)


def test_a_layer_of_another_shape_is_refused(own_copy, cpu):
    broken = own_copy("blip2")
    path = broken.model_folder("blip2") / "model.safetensors"
    edit_state(path, lambda state: state.update({"language_projection.bias": torch.zeros(3)}))
    with pytest.raises(UserError, match="language_projection.bias|cannot load it"):
        load_captioner(broken, "blip2", cpu)


def test_names_of_parts_that_stay_in_float32():
    parts = ("wo", "query_tokens", "qformer")
    assert in_full_precision("language_model.encoder.block.0.layer.1.DenseReluDense.wo.weight", parts)
    assert in_full_precision("qformer.encoder.layer.0.attention.attention.query.bias", parts)
    assert not in_full_precision("language_model.shared.weight", parts)
    assert not in_full_precision("x.wonder.weight", parts)
    assert not in_full_precision("encoder.wo.weight", ())
