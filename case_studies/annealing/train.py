"""Train the networks of the case study: denoising score matching.

::

    python -m case_studies.annealing.train [forty thirty DW4 LJ13]

Writes a safetensors file of each beside this module. The mixtures are drawn afresh at every step.
The particles' training draws are those of parallel tempering at the hot temperature. Published
draws are at another one, and are only compared with (``python -m case_studies.annealing --data``).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from jax import Array

import scoreppl as sp
from case_studies.annealing import mixtures, networks, truth
from case_studies.annealing.particles import SYSTEMS, System
from scoreppl.network_file import load_score_network, save_score_network

FOLDER = Path(__file__).parent / "networks_trained"
DECAY, CHUNK = 0.999, 500
# Median noise in units of the data, and standard deviation of its logarithm.
LEVEL, LEVEL_LOG_SD = 0.2, 1.4
Draw = Callable[[Array, int], Array]


def loss(model: sp.ScoreNetwork, key: Array, events: Array) -> Array:
    """Mean squared error of F: that of the denoiser in units of c_out (arXiv:2206.00364).

    The noise levels are log-normal, one an event and stratified over the batch: at high noise
    there is little to learn, and at low noise little that is not lost in the noise of the loss.
    Each event comes twice, with opposite noise, which takes most of that noise from the gradient.
    """
    key_level, key_noise = jax.random.split(key)
    count = len(events)
    uniform = (jnp.arange(count) + jax.random.uniform(key_level, (count,))) / count
    logs = LEVEL_LOG_SD * jax.scipy.special.ndtri(uniform)
    t = model.noise.time(-2.0 * (jnp.log(LEVEL * model.sigma_data) + logs))
    added = model.noise(t)[1][:, None] * jax.random.normal(key_noise, events.shape)
    noised = jnp.concatenate([events + added, events - added])
    events, t = jnp.tile(events, (2, 1)), jnp.tile(t, 2)
    sigma = model.noise(t)[1][:, None]
    denoised = jax.vmap(model.denoise)(noised, t)
    unit = sigma * model.sigma_data / jnp.sqrt(sigma**2 + model.sigma_data**2)
    return jnp.mean(((denoised - events) / unit) ** 2)


def train(
    key: Array,
    build: Callable[[networks.Params], sp.ScoreNetwork],
    params: networks.Params,
    draw: Draw,
    *,
    num_steps: int,
    batch: int,
    rate: float,
    decay: float = DECAY,
    report: Callable[[str], None] = print,
) -> networks.Params:
    """Return averaged parameters after Adam with a cosine schedule.

    Parameters
    ----------
    key
        PRNG key.
    build
        From parameters to the score model.
    params
        To start from.
    draw
        ``draw(key, count)`` returns events.
    num_steps, batch, rate
        Steps, events a step and peak learning rate.
    decay
        Of the average of the parameters.
    report
        Told the loss every 500 steps.
    """
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, min(500, num_steps // 4), num_steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def step(carry: tuple, key: Array) -> tuple[tuple, Array]:
        params, state, average = carry
        key_draw, key_loss = jax.random.split(key)
        events = draw(key_draw, batch)
        value, gradient = jax.value_and_grad(lambda p: loss(build(p), key_loss, events))(params)
        updates, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
        return (params, state, average), value

    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))
    carry, begin = (params, optimiser.init(params), params), time.perf_counter()
    for done in range(0, num_steps, CHUNK):
        size = min(CHUNK, num_steps - done)
        carry, values = run(carry, jax.random.split(jax.random.fold_in(key, done), size))
        seconds = time.perf_counter() - begin
        report(f"{done + size} loss {float(values.mean()):.4f} seconds {seconds:.0f}")
    return carry[2]


def hot_draws(key: Array, system: System, num_ladders: int = 256, num_draws: int = 200) -> Array:
    """Return draws at the hot temperature for training, shape (draws, size)."""
    found = truth.sample(key, system, (system.hot,), num_ladders, num_draws, 10)
    return found.events.reshape(-1, system.size)


def train_particles(system: System, num_steps: int, batch: int, rate: float) -> sp.ScoreNetwork:
    """Train the equivariant network on draws at the hot temperature."""
    key_draws, key_params, key_train = jax.random.split(jax.random.key(0), 3)
    pool = hot_draws(key_draws, system)

    def draw(key: Array, count: int) -> Array:
        return pool[jax.random.randint(key, (count,), 0, len(pool))]

    params = train(
        key_train, lambda p: networks.particle_model(system, p),
        networks.initial_particles(key_params), draw, num_steps=num_steps, batch=batch, rate=rate,
    )  # fmt: skip
    return networks.particle_model(system, params)


def train_mixture(mixture: mixtures.Mixture, num_steps: int, batch: int) -> sp.ScoreNetwork:
    """Train the perceptron on draws of a mixture."""
    key_params, key_train = jax.random.split(jax.random.key(0))
    size = mixture.means.shape[1]

    def build(params: networks.Params) -> sp.ScoreNetwork:
        return networks.point_model(params, size, mixture.noise, mixture.data_scale)

    params = train(
        key_train, build, networks.initial_points(key_params, size), mixture.draw,
        num_steps=num_steps, batch=batch, rate=2e-3,
    )  # fmt: skip
    return build(params)


def load(name: str) -> sp.ScoreNetwork:
    """Load a trained network: ``"forty"``, ``"thirty"``, ``"DW4"`` or ``"LJ13"``."""
    apply_fns = {system.name: networks.particle_network(system) for system in SYSTEMS}
    for mixture in mixtures.MIXTURES:
        apply_fns[mixture.name] = networks.point_network(mixture.noise, mixture.data_scale)
    return load_score_network(FOLDER / f"{name}.safetensors", apply_fns=apply_fns)


def main(names: list[str]) -> None:
    """Train the networks of the given names, and write them."""
    FOLDER.mkdir(exist_ok=True)
    jobs: dict[str, Callable[[], sp.ScoreNetwork]] = {
        "forty": lambda: train_mixture(mixtures.FORTY, 20_000, 512),
        "thirty": lambda: train_mixture(mixtures.THIRTY, 15_000, 256),
        "DW4": lambda: train_particles(SYSTEMS[0], 15_000, 256, 2e-3),
        "LJ13": lambda: train_particles(SYSTEMS[1], 20_000, 128, 2e-3),
    }
    for name in names or jobs:
        begin = time.perf_counter()
        network = jobs[name]()
        card = {
            "name": name,
            "data": "drawn by case_studies/annealing from a known law",
            "training": f"python -m case_studies.annealing.train {name}",
        }
        path = FOLDER / f"{name}.safetensors"
        save_score_network(path, network, architecture=name, card=card)
        seconds = time.perf_counter() - begin
        print(f"wrote {path.name}: {path.stat().st_size / 1e3:.0f} kB, {seconds:.0f} seconds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    main(parser.parse_args().names)
