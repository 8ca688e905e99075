"""The shipped networks, through the public API."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scoreppl as sp

NAMES = ("digits", "digits8")


def test_list_names_what_load_takes():
    assert sp.pretrained.list() == NAMES
    with pytest.raises(ValueError, match=r"`name='letters'` is not a shipped network.*'digits8'"):
        sp.pretrained.load("letters")
    with pytest.raises(ValueError, match="not a shipped network"):
        sp.pretrained.card("../digits")


@pytest.mark.parametrize("name", NAMES)
def test_cards_say_where_a_network_comes_from(name):
    card = sp.pretrained.card(name)
    network = sp.pretrained.load(name)
    assert card["name"] == name
    for field in ("data", "licence", "training", "pixels", "heldout"):
        assert card[field], field
    assert card["prediction"] == network.prediction == "v"
    assert card["parameters"] == sum(v.size for v in jax.tree.leaves(network.params)) <= 1_500_000
    errors = [row["denoising_mse"] for row in card["heldout"]]
    assert errors == sorted(errors, reverse=True)


def test_digits_are_real_and_attributed():
    digits = sp.pretrained.test_digits()
    assert digits.images.shape == (64, 28, 28)
    assert digits.images.min() == -1.0 and digits.images.max() == 1.0
    assert set(digits.labels) == set(range(10))
    assert "MNIST" in digits.attribution and "CC BY-SA" in digits.attribution


@pytest.mark.parametrize("row", [2, 4, 6, 8])
def test_held_out_error_is_what_the_card_says(row):
    # 64 of the card's 10,000 images: the mean over images of the squared error has a relative
    # standard error below 6 % at these levels, and noise adds less; 30 % is beyond 4 of them.
    expected = sp.pretrained.card("digits")["heldout"][row]
    network = sp.pretrained.load("digits")
    images = jnp.asarray(sp.pretrained.test_digits().images)
    t = network.noise.time(jnp.asarray(expected["log_snr"]))
    alpha, sigma = network.noise(t)
    noise = jax.random.normal(jax.random.key(row), images.shape)
    denoised = jax.vmap(network.denoise, (0, None))(alpha * images + sigma * noise, t)
    found = float(jnp.mean((denoised - images) ** 2))
    assert abs(found / expected["denoising_mse"] - 1) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_ink_of_digits(name):
    # Real 28 x 28 digits carry 104 +- 34 units of ink (mean and sd over the MNIST test set),
    # 8 x 8 digits 19.5 +- 2.2; the bounds are more than 4 standard errors of 16 draws away.
    network = sp.pretrained.load(name)
    draws = np.asarray(network.sample(jax.random.key(0), (16,), num_steps=50))
    low, high = {"digits": (60, 160), "digits8": (16, 23)}[name]
    assert low < ((draws + 1) / 2).sum((1, 2)).mean() < high
    assert np.abs(draws).max() < {"digits": 1.3, "digits8": 2.0}[name]
