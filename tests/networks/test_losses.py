"""Each loss is about 0 for a perfect prediction, grows with the error, and gives finite gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nuclei.networks.losses import LOSSES, bce, combined_loss, dice, focal, jaccard, lovasz, mse

torch.set_num_threads(1)  # tiny arrays gain nothing from more
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
FEW = settings(max_examples=25)
TRUTHS = hnp.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 3), st.just(4), st.just(5)))


def as_tensor(mask):
    return torch.from_numpy(np.asarray(mask, np.float32))


def sure_logits(truth, confidence=30.0):
    return confidence * (2 * truth - 1)


@EVERY_LOSS
@FEW
@given(TRUTHS)
def test_perfect_predictions_cost_nothing_and_wrong_ones_do(loss, mask):
    truth = as_tensor(mask)
    perfect, wrong = loss(sure_logits(truth), truth), loss(-sure_logits(truth), truth)
    assert perfect.shape == wrong.shape == (truth.shape[1],)
    assert (perfect.abs() < 1e-4).all()
    assert (wrong > 0.5).all()


@EVERY_LOSS
@FEW
@given(TRUTHS, st.integers(0, 19))
def test_each_further_wrong_pixel_costs_more(loss, mask, n_wrong):
    truth = as_tensor(mask)
    sign = torch.where(torch.arange(20).reshape(4, 5) < n_wrong, -1.0, 1.0)
    one_more = torch.where(torch.arange(20).reshape(4, 5) <= n_wrong, -1.0, 1.0)
    assert (loss(sure_logits(truth, 4) * one_more, truth) >= loss(sure_logits(truth, 4) * sign, truth) - 1e-6).all()


@EVERY_LOSS
def test_channels_are_judged_apart(loss):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    truth = (torch.rand(2, 3, 6, 6, generator=generator) < 0.4).float()
    together = loss(logits, truth)
    alone = torch.cat([loss(logits[:, [c]], truth[:, [c]]) for c in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert together.unique().numel() == 3


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_gradients_are_finite_in_every_precision(loss, dtype, share, scale):
    generator = torch.Generator().manual_seed(5)
    logits = (scale * torch.randn(2, 2, 32, 32, generator=generator)).to(dtype).requires_grad_()
    truth = (torch.rand(2, 2, 32, 32, generator=generator) < share).to(torch.float16)
    name = next(name for name, function in LOSSES.items() if function is loss)
    value = combined_loss(logits, truth, {name: 1.0}, torch.ones(2))
    value.backward()
    assert torch.equal(value, combined_loss(logits.float(), truth.float(), {name: 1.0}, torch.ones(2)))
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", [bce, dice, jaccard, mse, focal])
@FEW
@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_a_soft_target_is_matched_by_its_own_probability(loss, target, probability):
    truth = torch.full((1, 1, 4, 4), target)
    at_target = loss(torch.logit(truth), truth)
    elsewhere = loss(torch.logit(torch.full_like(truth, probability)), truth)
    assert at_target <= elsewhere + 1e-6


def test_values_equal_their_formulas():
    probability, truth = torch.tensor([0.9, 0.2, 0.6, 0.4]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    logits, target = torch.logit(probability).view(1, 1, 2, 2), truth.view(1, 1, 2, 2)
    entropy = -torch.log(torch.tensor([0.9, 0.8, 0.4, 0.4]))
    squares, overlap = 0.81 + 0.04 + 0.36 + 0.16, 1.3
    expected = {
        "bce": entropy.mean(),
        "dice": 1 - (2 * overlap + 1) / (squares + 2 + 1),
        "jaccard": 1 - (overlap + 1) / (squares + 2 - overlap + 1),
        "focal": (torch.tensor([0.1, 0.2, 0.6, 0.6]) ** 2 * entropy).mean(),
        "mse": (0.01 + 0.04 + 0.36 + 0.36) / 4,
    }
    for name, value in expected.items():
        assert LOSSES[name](logits, target).item() == pytest.approx(float(value), abs=1e-6)


@given(TRUTHS, st.data())
def test_lovasz_of_hard_predictions_is_twice_one_minus_iou(mask, data):
    prediction = data.draw(hnp.arrays(bool, mask.shape))
    # With margins of exactly 1 a right pixel has no error and a wrong one an error of 2.
    ours = lovasz(as_tensor(prediction) * 2 - 1, as_tensor(mask))
    for channel, loss in enumerate(ours):
        union = (mask | prediction)[:, channel].sum()
        iou = (mask & prediction)[:, channel].sum() / union if union else 1.0
        assert loss.item() == pytest.approx(2 * (1 - iou), abs=1e-5)


def test_lovasz_cuts_soft_targets_at_a_half():
    logits = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    soft = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(2))
    assert torch.equal(lovasz(logits, soft), lovasz(logits, (soft > 0.5).float()))


@given(
    st.dictionaries(st.sampled_from(list(LOSSES)), st.floats(0.1, 3), min_size=1),
    st.lists(st.floats(0.1, 5), min_size=3, max_size=3),
)
def test_losses_and_channels_are_weighted(weights, channel_weights):
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(2, 3, 4, 4, generator=generator)
    truth = (torch.rand(2, 3, 4, 4, generator=generator) < 0.5).float()
    expected = 0.0
    for name, weight in weights.items():
        for channel, value in enumerate(LOSSES[name](logits, truth)):
            expected += weight * channel_weights[channel] * value.item() / sum(channel_weights)
    ours = combined_loss(logits, truth, weights, torch.tensor(channel_weights))
    assert ours.shape == ()
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_a_channel_of_weight_zero_is_ignored():
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(1, 2, 4, 4, generator=generator, requires_grad=True)
    combined_loss(logits, torch.ones(1, 2, 4, 4), {"bce": 1.0}, torch.tensor([1.0, 0.0])).backward()
    assert (logits.grad[:, 0] != 0).all()
    assert (logits.grad[:, 1] == 0).all()


def test_unknown_losses_are_answered_with_the_known_ones():
    image = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="unknown loss hinge; valid: bce, dice, jaccard, focal, mse, lovasz"):
        combined_loss(image, image, {"bce": 1.0, "hinge": 1.0}, torch.ones(1))
