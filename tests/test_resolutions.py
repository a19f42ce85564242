import pytest
import torch
from torch import nn

from hyperconv import HyperConv2d
from hyperconv.data import load_digits
from hyperconv.experiments import resolutions
from hyperconv.experiments.declared import experiments


@pytest.fixture
def network():
    torch.manual_seed(0)
    return lambda arm: experiments()["resolutions"].arms[arm].network().eval()


@pytest.mark.parametrize("arm", ["hyper", "normal"])
def test_at_the_size_of_training_it_is_the_classifier_itself(network, arm):
    from hyperconv.experiments.digits import digit_network

    plain = digit_network(arm, 5, (16, 16, 16), "decorrelated").eval()
    any_size = network(arm)
    any_size.load_state_dict(plain.state_dict())
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(any_size(images), plain(images))


@pytest.mark.parametrize("arm", ["hyper", "normal"])
@pytest.mark.parametrize(("side", "taps"), list(resolutions.SIDES.items()))
def test_resized_networks_take_larger_images(network, arm, side, taps):
    original = network(arm)
    anew = resolutions.resized(original, taps)
    sizes = {each.kernel_size for each in anew.modules() if isinstance(each, HyperConv2d | nn.Conv2d)}
    assert sizes == {(1, 1), (taps, taps)}
    assert anew(torch.rand(2, 1, side, side)).shape == (2, 10)
    before = {each.kernel_size for each in original.modules() if isinstance(each, HyperConv2d | nn.Conv2d)}
    assert before == {(1, 1), (5, 5)}


def test_an_interpolated_kernel_responds_to_an_enlarged_image_as_the_kernel_to_the_image():
    """Exactly so for what is linear in position, away from the edges."""
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 1, 5, padding="same")
    larger = resolutions.interpolated(layer, 15)
    ramp = torch.arange(30.0).expand(1, 1, 30, 30)
    enlarged = nn.functional.interpolate(ramp, scale_factor=3.0, mode="bilinear")
    there, here = larger(enlarged)[0, 0, 45 + 1, 45 + 1], layer(ramp)[0, 0, 15, 15]
    torch.testing.assert_close(there, here, atol=0.05, rtol=0.05)
    assert larger.weight.sum().item() == pytest.approx(layer.weight.sum().item(), abs=0.2)


def test_a_few_steps_on_enlarged_digits_leave_the_network_as_it_was_and_lower_the_loss(network, digits_folder):
    splits = load_digits(str(digits_folder))
    original = network("normal")
    kept = {name: value.clone() for name, value in original.state_dict().items()}
    learned = resolutions.tuned(resolutions.resized(original, 7), splits, 42)
    assert all(torch.equal(kept[name], value) for name, value in original.state_dict().items())
    images, labels = splits.train[torch.arange(100)]
    larger = resolutions.enlarged(images, 42)
    with torch.no_grad():
        before, after = (
            nn.functional.cross_entropy(each(larger), labels)
            for each in (resolutions.resized(original, 7).eval(), learned)
        )
    assert after < before


def test_every_side_is_measured_in_every_way(network, digits_folder):
    figures = resolutions.figures_by_side(network("hyper"), load_digits(str(digits_folder)).shortened(64))
    assert len({figure.at for figure in figures}) == len(figures) == 6
    assert all(0 <= figure.value <= 1 for figure in figures)
