"""Simulation-based calibration of the quickstart's model on the shipped network.

::

    python -m case_studies.quickstart.calibration

Draws 80 digits from the network and noise scales from their prior, samples each posterior and
counts how often central 90 % intervals of total ink and noise scale hold the truth (Talts et
al., arXiv:1804.06788). For comparison it counts the same for the noise scale's posterior given
the digit, which is exact: what these 80 sets of noise allow.

A network's noise levels need not agree with each other, so "drawn from the network" has two
meanings. The annealed kernel samples the law that the denoisers of the levels keep invariant:
digits drawn by annealing without an observation, with twice the levels, judge the sampler.
Digits drawn by one reverse diffusion judge the network too.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array

import scoreppl as sp
from case_studies.quickstart.model import digit_model, observe, total_ink

NUM_DIGITS, NUM_DRAWS, BLOCK, NUM_WARMUP = 80, 19, 10, 20
QUANTITIES = ("total ink", "noise scale")


def by_annealing(network: sp.ScoreNetwork, key: Array, num_digits: int) -> Array:
    """Draw digits from the law that the denoisers of the noise levels keep invariant."""

    def no_observation(prior: sp.ScoreModel) -> None:
        numpyro.sample("x", sp.ScorePrior(prior))

    kernel = sp.AnnealedScoreMCMC(
        no_observation, num_levels=256, num_weight_steps=2, block_size=num_digits
    )
    # The first block is a warm-up for the second.
    state = kernel.init(key, num_digits, None, (network,), {})
    advance = jax.jit(lambda state, network: kernel.sample(state, (network,), {}))
    for _ in range(num_digits + 1):
        state = advance(state, network)
    return state.block_z["x"]


def by_reverse_diffusion(network: sp.ScoreNetwork, key: Array, num_digits: int) -> Array:
    """Draw digits by 200 reverse steps."""
    return jax.jit(lambda prior: prior.sample(key, (num_digits,)))(
        sp.ScorePrior(network, num_steps=200)
    )


LAWS = {"annealing": by_annealing, "reverse diffusion": by_reverse_diffusion}


def simulate(x: Array, key: Array) -> tuple[Array, Array, Array]:
    """Look at a digit as in the quickstart, with noise from its prior.

    Returns the observation, total ink and noise scale, and the posterior probability that the
    noise scale is below its true value for someone who knows the digit.
    """
    key_scale, key_noise = jax.random.split(key)
    scale = 0.5 * jnp.abs(jax.random.normal(key_scale))
    clean = observe(x)
    y = clean + scale * jax.random.normal(key_noise, clean.shape)
    grid = jnp.linspace(0.5, 1.5, 4001) * scale
    log_density = -y.size * jnp.log(grid) - 0.5 * jnp.sum((y - clean) ** 2) / grid**2
    log_density -= 0.5 * (grid / 0.5) ** 2
    below = jnp.sum(jax.nn.softmax(log_density)[:2000])
    return y, jnp.stack([total_ink(x), scale]), below


def posterior_draws(network: sp.ScoreNetwork, key: Array, y: Array) -> Array:
    """Return total ink and noise scale of NUM_DRAWS draws after warm-up."""
    kernel = sp.AnnealedScoreMCMC(digit_model, block_size=BLOCK)
    state = kernel.init(key, NUM_WARMUP, None, (network, y), {})

    def step(state: tuple, _: None) -> tuple[tuple, Array]:
        state = kernel.sample(state, (network, y), {})
        values = kernel.postprocess_fn((network, y), {})(state.z)
        return state, jnp.stack([values["ink"], values["noise_scale"]])

    return jax.lax.scan(step, state, None, length=NUM_WARMUP + NUM_DRAWS)[1][NUM_WARMUP:]


def ranks(
    network: sp.ScoreNetwork, key: Array, law: str, num_digits: int = NUM_DIGITS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the truths' ranks, 0 to NUM_DRAWS, shape ``(num_digits, 2)``; uniform is right.

    Beside them the posterior probabilities below the true noise scale if the digit were known.
    """

    @jax.jit
    def rank(network: sp.ScoreNetwork, x: Array, key: Array) -> tuple[Array, ...]:
        key_data, key_chain = jax.random.split(key)
        y, truth, below = simulate(x, key_data)
        draws = posterior_draws(network, key_chain, y)
        return jnp.sum(draws < truth, 0), truth, draws, below

    key_digits, key_ranks = jax.random.split(key)
    digits = LAWS[law](network, key_digits, num_digits)
    found, known = [], []
    for x, digit_key in zip(digits, jax.random.split(key_ranks, num_digits), strict=True):
        place, truth, draws, below = map(np.asarray, rank(network, x, digit_key))
        found.append(place)
        known.append(below)
        values = ", ".join(
            f"{name} {truth[i]:.3g} (posterior {draws[:, i].mean():.3g} +- {draws[:, i].std():.2g},"
            f" rank {place[i]})"
            for i, name in enumerate(QUANTITIES)
        )
        print(f"{len(found)}: {values}", flush=True)
    return np.stack(found), np.stack(known)


def coverage(ranks: np.ndarray) -> np.ndarray:
    """Share of truths within the central 90 % intervals, one a quantity."""
    # With 19 draws, ranks 1 to 18 are a central interval of exactly 18 / 20 = 90 %.
    return ((ranks >= 1) & (ranks <= 18)).mean(0)


def main() -> None:
    """Run all digits and write the table."""
    parser = argparse.ArgumentParser(prog="python -m case_studies.quickstart.calibration")
    parser.add_argument("--out", type=Path, default=Path("quickstart_results"))
    parser.add_argument("--laws", nargs="*", choices=LAWS, default=list(LAWS))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rows = [
        "| digits drawn by | quantity | coverage of 90 % intervals | mean rank (9.5 is right) |",
        "|---|---|---|---|",
    ]
    for law in arguments.laws:
        found, known = ranks(sp.pretrained.load("digits"), jax.random.key(arguments.seed), law)
        for name, share, mean in zip(QUANTITIES, coverage(found), found.mean(0), strict=True):
            rows.append(f"| {law} | {name} | {share:.2f} | {mean:.1f} |")
        share, mean = np.mean(np.abs(known - 0.5) < 0.45), NUM_DRAWS * known.mean()
        rows.append(f"| {law} | noise scale if the digit were known | {share:.2f} | {mean:.1f} |")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "calibration.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
