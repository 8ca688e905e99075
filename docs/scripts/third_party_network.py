"""A network of somebody else's, in PyTorch, as the prior of a NumPyro model.

::

    python -m docs.scripts.third_party_network --weights FILE --out docs

The weights are ``contents_all/ddpm_mnist.pth`` of github.com/sdaloglu/diffusion_with_entropy (MIT
licence), turned into safetensors under their own names; they are no part of this repository. Writes
``tables/third_party.md``, ``images/third_party_samples.png`` and ``images/third_party.png``.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch
from jax import Array
from numpyro.infer import MCMC
from safetensors.torch import load_file
from torch import nn

import scoreppl as sp

SIZE, VISIBLE = 28, 14
# Of 1,000, and the errors in PyTorch alone on 128 test images, noted when they were converted.
STEPS, IN_TORCH = (20, 100, 300, 600, 900), (0.0942, 0.0428, 0.0220, 0.0021, 0.0005)
DIGIT, NOISE_SCALE = 0, 0.1
NUM_LEVELS, NUM_WARMUP, NUM_DRAWS = 64, 16, 32


class Block(nn.Module):
    """A convolution, a normalisation over the whole image and a GELU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 7, padding=3),
            nn.LayerNorm((channels_out, SIZE, SIZE)),
            nn.GELU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's features."""
        return self.net(x)


class Network(nn.Module):
    """The network of the weights, with the names that its parameters have there."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.zeros(16))
        channels = (1, 16, 32, 32, 16)
        blocks = [Block(*pair) for pair in zip(channels[:-1], channels[1:], strict=True)]
        self.blocks = nn.ModuleList([*blocks, nn.Conv2d(16, 1, 3, padding=1)])
        self.time_embed = nn.Sequential(
            nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 128),
            nn.GELU(), nn.Linear(128, 16),
        )  # fmt: skip

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the noise in a batch of images at times in [0, 1]."""
        angle = t[:, None] * self.frequencies
        embedding = self.time_embed(torch.cat([torch.sin(angle), torch.cos(angle) - 1], -1))
        first, *others = self.blocks
        x = first(x) + embedding[:, :, None, None]
        for each in others:
            x = each(x)
        return x


def read(path: Path, images: np.ndarray) -> tuple[Network, sp.ScoreNetwork]:
    """Return the module, and the module as a score model that has shown to denoise digits."""
    tensors = load_file(path)
    module = Network()
    module.load_state_dict({name[3:]: v for name, v in tensors.items() if name.startswith("gt.")})
    network = sp.backends.from_torch(
        module.eval(), noise=sp.noise.DiscreteVP(tensors["alpha_t"].double().numpy()),
        prediction="epsilon", event_shape=(1, SIZE, SIZE), check_data=images,
    )  # fmt: skip
    return module, network


def parity(module: Network, network: sp.ScoreNetwork, images: np.ndarray) -> tuple[float, float]:
    """Return the largest relative difference to PyTorch, of the noise and of its gradient."""
    x = images[: len(STEPS)]
    t = jnp.asarray(STEPS, float) / 1000
    direction = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)

    @jax.jit
    def noise(network: sp.ScoreNetwork, x: Array) -> tuple[Array, Array]:
        found, pull = jax.vjp(lambda x: network.apply_fn(network.params, x, t, None), x)
        return found, pull(direction)[0]

    torch_x = torch.tensor(x, requires_grad=True)
    wanted = module(torch_x, torch.tensor(np.asarray(t)))
    slope = torch.autograd.grad(wanted, torch_x, torch.tensor(direction))[0]
    pairs = zip(noise(network, x), (wanted.detach(), slope), strict=True)
    first, second = (float(np.abs(a - b.numpy()).max() / b.abs().max()) for a, b in pairs)
    return first, second


def model(prior: sp.ScoreNetwork, y: Array | None = None) -> None:
    """Model a digit of which the upper half is seen in noise; black is -0.5 and ink 0.5."""
    x = numpyro.sample("x", sp.ScorePrior(prior))
    numpyro.deterministic("hidden_ink", jnp.sum(x[0, VISIBLE:] + 0.5))
    numpyro.sample("y", dist.Normal(x[0, :VISIBLE], NOISE_SCALE).to_event(2), obs=y)


def main() -> None:
    """Measure, draw, and write tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    images = 0.5 * np.asarray(sp.pretrained.test_digits().images)[:, None]
    module, network = read(arguments.weights, images)

    levels = network.noise.log_snr(np.asarray(STEPS) / 1000)
    errors = sp.backends.denoising_errors(network, images, log_snr=levels).epsilon_error
    rows = [
        "| step of 1,000 | " + " | ".join(map(str, STEPS)) + " |",
        "|---|" + "---|" * len(STEPS),
        f"| {len(images)} test digits, by this wrapper | "
        + " | ".join(f"{error:.4f}" for error in errors) + " |",
        "| 128 test digits, in PyTorch alone, earlier | "
        + " | ".join(f"{error:.4f}" for error in IN_TORCH) + " |",
    ]  # fmt: skip
    values, gradients = parity(module, network, images)
    rows += [
        "",
        "Mean squared error of the predicted noise. Largest difference to PyTorch relative to the "
        f"largest value: {values:.1e} of the noise, {gradients:.1e} of its gradient with respect "
        "to the image.",
        "",
    ]
    print("\n".join(rows), flush=True)

    begin = time.perf_counter()
    samples = np.asarray(network.sample(jax.random.key(0), (16,), num_steps=100))[:, 0]
    print(f"samples: {time.perf_counter() - begin:.0f} s", flush=True)
    truth = images[DIGIT, 0]
    y = truth[:VISIBLE] + NOISE_SCALE * np.random.default_rng(1).standard_normal((VISIBLE, SIZE))
    mcmc = MCMC(
        sp.AnnealedScoreMCMC(model, num_levels=NUM_LEVELS), num_warmup=NUM_WARMUP,
        num_samples=NUM_DRAWS, progress_bar=False,
    )  # fmt: skip
    begin = time.perf_counter()
    mcmc.run(jax.random.key(1), network, jnp.asarray(y, jnp.float32))
    draws, ink = (np.asarray(mcmc.get_samples()[name]) for name in ("x", "hidden_ink"))
    seconds = time.perf_counter() - begin

    draws = draws[:, 0]
    error = draws.mean(0) - truth
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    inside = ((truth >= low) & (truth <= high))[VISIBLE:]
    seen, hidden = (np.sqrt(np.mean(part**2)) for part in np.split(error, [VISIBLE]))
    interval = "{:.1f} to {:.1f}".format(*np.quantile(ink, [0.05, 0.95]))
    rows += [
        "| one digit, its upper half seen | |",
        "|---|---|",
        f"| rmse of the posterior mean, half seen (noise sd {NOISE_SCALE}) | {seen:.3f} |",
        f"| rmse of the posterior mean, hidden half | {hidden:.3f} |",
        f"| mean posterior sd, half seen | {draws[:, :VISIBLE].std(0).mean():.3f} |",
        f"| mean posterior sd, hidden half | {draws[:, VISIBLE:].std(0).mean():.3f} |",
        f"| hidden ink: truth | {np.sum(truth[VISIBLE:] + 0.5):.1f} |",
        f"| hidden ink: posterior mean, 90 % interval | {ink.mean():.1f}, {interval} |",
        f"| hidden pixels within their 90 % intervals | {inside.mean():.2f} |",
        "",
        f"{NUM_DRAWS} draws of `sp.AnnealedScoreMCMC` with {NUM_LEVELS} levels, {seconds:.0f} s on "
        "two CPU cores with other work beside; pixels in [-0.5, 0.5], ink their sum with black 0.",
    ]
    (arguments.out / "tables" / "third_party.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows[-11:]))
    screen = np.full((SIZE, SIZE), np.nan)
    screen[:VISIBLE] = y
    folder, limits = arguments.out / "images", (-0.5, 0.5)
    sp.plots.draws(samples, limits=limits).savefig(folder / "third_party_samples.png", dpi=100)
    sp.plots.posterior_images(
        draws, truth=truth, observation=screen, num_draws=6, limits=limits
    ).savefig(folder / "third_party.png", dpi=100)


if __name__ == "__main__":
    main()
