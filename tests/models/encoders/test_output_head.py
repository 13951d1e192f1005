import numpy as np
import pytest
import torch

from kernel.models.encoders.output_head import OutputHead
from kernel.models.vectors import unit_rows


def layers(*sizes: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    rng = np.random.default_rng(0)
    return tuple(
        (rng.normal(size=(out, into)).astype(np.float32), rng.normal(size=out).astype(np.float32))
        for into, out in zip(sizes, sizes[1:], strict=False)
    )


@pytest.mark.parametrize("sizes", [(7, 384), (7, 16, 384)])
def test_it_computes_what_torchs_layers_do(sizes):
    head = OutputHead(layers(*sizes))
    rows = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    model = torch.nn.Sequential()
    for index, (weights, bias) in enumerate(head.layers):
        linear = torch.nn.Linear(*reversed(weights.shape))
        linear.load_state_dict({"weight": torch.from_numpy(weights), "bias": torch.from_numpy(bias)})
        model.extend([torch.nn.ReLU()] * bool(index) + [linear])
    expected = unit_rows(model(torch.from_numpy(rows)).detach().numpy())
    np.testing.assert_allclose(head.apply(rows), expected, atol=1e-6)


def test_it_comes_back_from_its_tensors():
    head = OutputHead(layers(7, 16, 384))
    again = OutputHead.of(head.tensors())
    assert [own.tolist() for layer in again.layers for own in layer] == [
        own.tolist() for layer in head.layers for own in layer
    ]


@pytest.mark.parametrize("sizes", [(7, 16), (7,)])
def test_layers_that_do_not_end_in_minilms_space_are_refused(sizes):
    with pytest.raises(ValueError, match="expected ones that fit, the last to 384"):
        OutputHead(layers(*sizes))


def test_layers_that_do_not_fit_each_other_are_refused():
    (first, _), (_, last) = layers(7, 16, 384), layers(7, 17, 384)
    with pytest.raises(ValueError, match="expected ones that fit"):
        OutputHead((first, last))
    with pytest.raises(ValueError, match="bias does not fit"):
        OutputHead(((last[0], last[1][:5]),))
