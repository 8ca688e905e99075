"""The samplers compared: each returns modes by chain and draw, and what they cost."""

import time
from collections.abc import Callable
from typing import NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc import resampling
from jax import Array
from jax.flatten_util import ravel_pytree
from numpyro.distributions.transforms import biject_to
from numpyro.handlers import condition, seed, trace
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import constrain_fn, unconstrain_fn

import scoreppl as sp
from case_studies.multimodal.model import Posterior
from case_studies.multimodal.network import NOISE, train, v_prediction

NUM_CHAINS = 4
FLOW_CHAINS, FLOW_STEPS = 40, 200


class Outcome(NamedTuple):
    """What a sampler gave.

    Attributes
    ----------
    modes
        Numbers of modes, shape ``(chains, draws)``; independent particles are chains of one draw.
    values
        Unconstrained values, shape ``(chains, draws, d)``.
    evaluations
        Density or gradient evaluations, warm-up and training data included.
    seconds
        Wall time with compilation.
    """

    modes: np.ndarray
    values: np.ndarray
    evaluations: int
    seconds: float


def _flat(posterior: Posterior) -> tuple[Array, Callable[[Array], dict[str, Array]]]:
    """Return unconstrained values of a draw from the prior, and how they are unravelled."""
    sites = trace(seed(posterior.model, jax.random.key(0))).get_trace()
    values = {name: sites[name]["value"] for name in posterior.sites}
    return ravel_pytree(unconstrain_fn(posterior.model, (), {}, values))


def _outcome(posterior: Posterior, values: Array, evaluations: int, start: float) -> Outcome:
    """From unconstrained values, shape (chains, draws, d)."""
    unravel = _flat(posterior)[1]

    def mode(value: Array) -> Array:
        return posterior.mode_of(constrain_fn(posterior.model, (), {}, unravel(value)))

    modes = np.asarray(jax.jit(jax.vmap(jax.vmap(mode)))(values))
    return Outcome(modes, np.asarray(values), int(evaluations), time.perf_counter() - start)


def _values(posterior: Posterior, samples: dict[str, Array]) -> Array:
    """Unconstrained values of draws, as arrays with leading axes chain and draw."""

    def flat(values: dict[str, Array]) -> Array:
        return ravel_pytree(unconstrain_fn(posterior.model, (), {}, values))[0]

    return jax.jit(jax.vmap(jax.vmap(flat)))({name: samples[name] for name in posterior.sites})


def run_nuts(
    posterior: Posterior, key: Array, num_warmup: int, num_samples: int, chains: int = NUM_CHAINS
) -> Outcome:
    """Run NumPyro's NUTS as it comes."""
    start = time.perf_counter()
    mcmc = MCMC(
        NUTS(posterior.model), num_warmup=num_warmup, num_samples=num_samples, num_chains=chains,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.warmup(key, extra_fields=("num_steps",), collect_warmup=True)
    warmup = np.sum(mcmc.get_extra_fields()["num_steps"])
    mcmc.run(key, extra_fields=("num_steps",))
    values = _values(posterior, mcmc.get_samples(group_by_chain=True))
    cost = warmup + np.sum(mcmc.get_extra_fields()["num_steps"])
    return _outcome(posterior, values, cost, start)


class Trained(NamedTuple):
    """A network and what its training draws were standardised by, and cost."""

    network: sp.ScoreNetwork
    location: Array
    scale: Array
    evaluations: int
    shares: np.ndarray


def train_network(posterior: Posterior, key: Array, chains: int) -> Trained:
    """Train a network on many short NUTS chains, which share the modes wrongly."""
    key_pool, key_train = jax.random.split(key)
    pool = run_nuts(posterior, key_pool, 300, 100, chains)
    events = jnp.asarray(pool.values.reshape(-1, pool.values.shape[-1]))
    location, scale = events.mean(0), events.std(0)
    params = train(key_train, (events - location) / scale)
    network = sp.ScoreNetwork(
        v_prediction, params, noise=NOISE, prediction="v", event_shape=(events.shape[1],)
    )
    shares = np.bincount(pool.modes.ravel(), minlength=len(posterior.masses)) / pool.modes.size
    return Trained(network, location, scale, pool.evaluations, shares)


def run_diffusion_mh(
    posterior: Posterior, key: Array, num_warmup: int, num_samples: int, trained: Trained
) -> Outcome:
    """Run DiffusionMH with the trained network, in unconstrained coordinates."""
    start = time.perf_counter()
    # The network's events are strung together as JAX flattens dictionaries.
    names = tuple(sorted(posterior.sites))
    kernel = sp.DiffusionMH(
        posterior.model, {names: trained.network}, coordinates="unconstrained",
        standardise={names: (trained.location, trained.scale)},
    )  # fmt: skip
    mcmc = MCMC(
        kernel, num_warmup=num_warmup, num_samples=num_samples, num_chains=NUM_CHAINS,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    fields = ("num_density_evaluations",)
    mcmc.warmup(key, extra_fields=fields, collect_warmup=True)
    cost = np.sum(mcmc.get_extra_fields()["num_density_evaluations"])
    mcmc.run(key, extra_fields=fields)
    cost += np.sum(mcmc.get_extra_fields()["num_density_evaluations"]) + trained.evaluations
    values = _values(posterior, mcmc.get_samples(group_by_chain=True))
    return _outcome(posterior, values, cost, start)


def _densities(posterior: Posterior) -> tuple[Callable, Callable]:
    """Log prior and log likelihood of unconstrained values, flat."""
    unravel = _flat(posterior)[1]
    whole = sp.log_weight(posterior.model)

    def log_likelihood(value: Array) -> Array:
        held = constrain_fn(posterior.model, (), {}, unravel(value))
        sites = trace(condition(seed(posterior.model, jax.random.key(0)), held)).get_trace()
        return sum(
            jnp.sum(site["fn"].log_prob(site["value"]))
            for site in sites.values()
            if site["type"] == "sample" and site["is_observed"] and site["name"] not in held
        )

    return lambda v: whole(unravel(v)) - log_likelihood(v), log_likelihood


def _from_prior(posterior: Posterior, key: Array, num_draws: int) -> Array:
    """Draw unconstrained values from the prior, shape (num_draws, d)."""

    def draw(key: Array) -> Array:
        sites = trace(seed(posterior.model, key)).get_trace()
        return ravel_pytree(
            {n: biject_to(sites[n]["fn"].support).inv(sites[n]["value"]) for n in posterior.sites}
        )[0]

    return jax.vmap(draw)(jax.random.split(key, num_draws))


def run_smc(posterior: Posterior, key: Array, num_particles: int, num_steps: int = 10) -> Outcome:
    """Run blackjax's adaptive tempered SMC with HMC moves tuned to the particles' spread."""
    start = time.perf_counter()
    log_prior, log_likelihood = _densities(posterior)
    leaps, cost = 5, 0
    key_start, key = jax.random.split(key)

    particles = _from_prior(posterior, key_start, num_particles)
    size = particles.shape[1]
    step_size = 0.5 * size**-0.25

    @jax.jit
    def step(key: Array, state, spread: Array):
        smc = blackjax.adaptive_tempered_smc(
            log_prior, log_likelihood, blackjax.hmc.build_kernel(), blackjax.hmc.init,
            {
                "step_size": jnp.full(1, step_size),
                "inverse_mass_matrix": (spread**2)[None],
                "num_integration_steps": jnp.full(1, leaps),
            },
            resampling.systematic, 0.5, num_mcmc_steps=num_steps,
        )  # fmt: skip
        return smc.step(key, state)[0]

    state = blackjax.smc.tempered.init(particles)
    while state.tempering_param < 1.0:
        key, key_step = jax.random.split(key)
        state = step(key_step, state, state.particles.std(0))
        cost += num_particles * (num_steps * leaps + 1)
    return _outcome(posterior, state.particles[:, None], cost, start)


def run_flow(posterior: Posterior, key: Array, num_loops: int) -> Outcome | None:
    """Run flowMC (normalising flow and MALA), if it is installed."""
    try:
        from flowMC.resource_strategy_bundle.RQSpline_MALA import RQSpline_MALA_Bundle
        from flowMC.Sampler import Sampler
    except ImportError:
        return None
    start = time.perf_counter()
    log_prior, log_likelihood = _densities(posterior)
    key_start, key_bundle, key_run = jax.random.split(key, 3)
    chains, local, overall = FLOW_CHAINS, FLOW_STEPS // 2, FLOW_STEPS // 2

    positions = _from_prior(posterior, key_start, chains)
    production = max(2, num_loops // 2)
    bundle = RQSpline_MALA_Bundle(
        key_bundle, chains, positions.shape[1], lambda x, data: log_prior(x) + log_likelihood(x),
        local, overall, num_loops - production, production, 10,
    )  # fmt: skip
    sampler = Sampler(
        n_dim=positions.shape[1], n_chains=chains, rng_key=key_run,
        resource_strategy_bundles=bundle, checkpoint_interval=0.0,
    )  # fmt: skip
    sampler.sample(positions, {})
    values = np.asarray(sampler.resources["positions_production"].data)
    return _outcome(posterior, jnp.asarray(values), num_loops * chains * FLOW_STEPS, start)
