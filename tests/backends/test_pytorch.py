"""PyTorch modules as score models; skipped where PyTorch and torchax are not installed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import scoreppl as sp

torch = pytest.importorskip("torch")
pytest.importorskip("torchax")

NOISE = sp.noise.VPLinear()
SHAPE = (1, 8, 8)


class Net(torch.nn.Module):
    """A small convolutional network of the noise, with a buffer and a normalisation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(4))
        self.time = torch.nn.Linear(8, 16)
        self.first = torch.nn.Conv2d(1, 16, 3, padding=1)
        self.norm = torch.nn.GroupNorm(4, 16)
        self.last = torch.nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x, t):
        angle = t[:, None] * self.frequencies
        time = self.time(torch.cat([torch.sin(angle), torch.cos(angle)], -1))
        hidden = self.norm(self.first(x)) + time[:, :, None, None]
        return self.last(torch.nn.functional.silu(hidden))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


def wrap(net, **options):
    options = {"prediction": "epsilon", "event_shape": SHAPE} | options
    return sp.backends.from_torch(net, noise=NOISE, **options)


def by_torch(net, x, t):
    with torch.no_grad():
        return net(torch.tensor(np.asarray(x)), torch.tensor(np.asarray(t))).numpy()


def test_values_batches_and_derivatives_are_those_of_torch(net):
    network = wrap(net)
    x = jax.random.normal(jax.random.key(0), (5, *SHAPE))
    t = jnp.linspace(0.1, 0.9, 5)
    expected = by_torch(net, x, t)
    found = jax.jit(lambda network, x, t: jax.vmap(network.score)(x, t))(network, x, t)
    sigma = np.asarray(NOISE(t)[1])[:, None, None, None]
    # Float32 through three layers; torch and JAX sum in other orders.
    np.testing.assert_allclose(found, -expected / sigma, rtol=1e-4, atol=1e-5)

    def total(x):
        return jnp.sum(jnp.sin(network.denoise(x, 0.5)))

    direction = jax.random.normal(jax.random.key(1), SHAPE)
    slope = jnp.vdot(jax.grad(total)(x[0]), direction)
    forward = jax.jvp(total, (x[0],), (direction,))[1]
    torch_x = torch.tensor(np.asarray(x[:1]), requires_grad=True)
    alpha, sigma = (float(v) for v in NOISE(0.5))
    torch.sum(torch.sin((torch_x - sigma * net(torch_x, torch.tensor([0.5]))) / alpha)).backward()
    exact = float(np.vdot(torch_x.grad.numpy()[0], direction))
    assert float(slope) == pytest.approx(exact, rel=1e-3, abs=1e-3)
    assert float(forward) == pytest.approx(exact, rel=1e-3, abs=1e-3)


def test_normalisation_over_images_is_that_of_torch():
    """A network of large convolutions, LayerNorm over (channels, height, width) and GELU."""
    torch.manual_seed(1)

    class Block(torch.nn.Sequential):
        def __init__(self, *channels):
            super().__init__(
                torch.nn.Conv2d(*channels, 7, padding=3),
                torch.nn.LayerNorm((channels[1], 8, 8)),
                torch.nn.GELU(),
            )
            # As initialised, scale and shift would be one and zero.
            torch.nn.init.normal_(self[1].weight)
            torch.nn.init.normal_(self[1].bias)

    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("frequencies", 1.5 ** torch.arange(4))
            self.blocks = torch.nn.ModuleList([Block(1, 4), Block(4, 4)])
            self.last = torch.nn.Conv2d(4, 1, 3, padding=1)
            self.time = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.GELU())

        def forward(self, x, t):
            angle = t[:, None] * self.frequencies
            time = self.time(torch.cat([torch.sin(angle), torch.cos(angle) - 1], -1))
            first, second = self.blocks
            return self.last(second(first(x) + time[:, :, None, None]))

    module = Whole().eval()
    network = wrap(module)
    x = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    t = jnp.array([0.02, 0.3, 0.9])
    torch_x = torch.tensor(np.asarray(x), requires_grad=True)
    expected = module(torch_x, torch.tensor(np.asarray(t)))
    torch.sum(torch.sin(expected)).backward()

    @jax.jit
    def both(network, x):
        def fn(x):
            return network.apply_fn(network.params, x, t, None)

        return fn(x), jax.grad(lambda x: jnp.sum(jnp.sin(fn(x))))(x)

    for found, wanted in zip(both(network, x), (expected.detach(), torch_x.grad), strict=True):
        assert np.abs(found - wanted.numpy()).max() < 1e-4 * np.abs(wanted.numpy()).max()


def test_parameters_are_arguments_not_constants(net):
    network = wrap(net)
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(network.params))
    assert count == sum(v.numel() for v in net.state_dict().values())
    text = (
        jax.jit(lambda network, x: network.score(x, 0.5)).lower(network, jnp.zeros(SHAPE)).as_text()
    )
    assert "dense<" not in text or max(map(len, text.splitlines())) < 2_000
    doubled = replace(network, params=jax.tree.map(lambda v: 2 * v, network.params))
    assert not np.allclose(
        doubled.denoise(jnp.ones(SHAPE), 0.5), network.denoise(jnp.ones(SHAPE), 0.5)
    )


def test_a_numpyro_model_runs_on_it(net):
    network = wrap(net)

    def model(y):
        x = numpyro.sample("x", sp.ScorePrior(network))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(3), obs=y)

    kernel = sp.AnnealedScoreMCMC(model, num_levels=6)
    mcmc = MCMC(kernel, num_warmup=2, num_samples=4, progress_bar=False)
    mcmc.run(jax.random.key(0), jnp.zeros(SHAPE))
    draws = mcmc.get_samples()["x"]
    assert draws.shape == (4, *SHAPE) and np.all(np.isfinite(draws))


def test_inputs_as_torch_wants_them(net):
    class Steps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, sample, timestep, scale):
            return (self.inner(sample, timestep / 1000) * scale,)

    network = wrap(
        Steps().eval(), condition=jnp.asarray([[[[2.0]]]]),
        input_transform=lambda x, t, c: {"sample": x, "timestep": 1000 * t, "scale": c},
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(0), (3, *SHAPE))
    found = jax.vmap(lambda x: network.score(x, 0.5))(x) * -NOISE(0.5)[1]
    np.testing.assert_allclose(found, 2 * by_torch(net, x, jnp.full(3, 0.5)), rtol=1e-4, atol=1e-5)


def test_refusals(net):
    with pytest.raises(ValueError, match=r"call module.eval\(\) first"):
        wrap(Net())
    with pytest.raises(ValueError, match="`module` of type function"):
        wrap(lambda x, t: x)
    with pytest.raises(ValueError, match="returned shape"):
        wrap(torch.nn.Sequential(Net().eval().first).eval(), input_transform=lambda x, t, c: (x,))
    data = sp.pretrained.load("digits8").sample(jax.random.key(0), (16,), num_steps=20)[:, None]
    with pytest.raises(ValueError, match="by any prediction type"):
        wrap(net, check_data=0.02 * data)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"padding": (2, 3), "dilation": (2, 3), "bias": False},
        {"groups": 2, "padding": "same"},
        {"padding": 1, "back": 2},
    ],
)
def test_convolutions_of_every_shape_are_those_of_torch(options):
    """They run with their channels last; a transposed one brings the image to its size again."""
    torch.manual_seed(1)
    options = dict(options)
    stride, back = options.get("stride", 1), options.pop("back", 1)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, 3, **options),
        torch.nn.Tanh(),
        torch.nn.ConvTranspose2d(
            6, 4, 3, stride=stride, padding=1, output_padding=stride - 1, groups=back
        ),
    ).eval()
    network = sp.backends.from_torch(
        module, noise=sp.noise.VPLinear(), prediction="epsilon", event_shape=(4, 8, 8),
        input_transform=lambda x, t, condition: (x,),
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)

    def fn(x):
        return network.apply_fn(network.params, x, jnp.full(len(x), 0.5), None)

    lowered = jax.jit(fn).lower(jnp.asarray(x)).as_text()
    assert "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in lowered
    image = torch.tensor(x, requires_grad=True)
    expected = module(image)
    np.testing.assert_allclose(fn(jnp.asarray(x)), expected.detach().numpy(), atol=2e-6)
    (gradient,) = torch.autograd.grad((expected**2).sum(), image)
    found = jax.grad(lambda x: jnp.sum(fn(x) ** 2))(jnp.asarray(x))
    np.testing.assert_allclose(found, gradient.numpy(), atol=1e-5)
    # Forward against backward mode, in a loop and mapped.
    v = jnp.asarray(np.random.default_rng(1).standard_normal(x.shape), jnp.float32)
    forward = jax.jvp(fn, (jnp.asarray(x),), (v,))[1]
    backward = jax.vjp(fn, jnp.asarray(x))[1](forward)[0]
    np.testing.assert_allclose(jnp.sum(backward * v), jnp.sum(forward**2), rtol=1e-4)

    def step(carry, _):
        one = jax.vmap(jax.grad(lambda x: jnp.sum(fn(x[None]) ** 2)))(jnp.asarray(x))
        return carry + one, None

    looped, _ = jax.lax.scan(step, jnp.zeros_like(v), None, length=2)
    np.testing.assert_allclose(looped, 2 * found, atol=4e-5)
    # And the parameters' gradient.
    for parameter in module.parameters():
        parameter.grad = None
    (module(torch.tensor(x)) ** 2).sum().backward()
    by_params = jax.grad(
        lambda params: jnp.sum(
            network.apply_fn(params, jnp.asarray(x), jnp.full(2, 0.5), None) ** 2
        )
    )(network.params)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(by_params[name], parameter.grad.numpy(), rtol=1e-4, atol=1e-4)
