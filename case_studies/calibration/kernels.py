"""The kernels to be judged, as functions from one data set to a few nearly independent draws."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import constraints
from numpyro.infer import NUTS, init_to_value

import scoreppl as sp
from case_studies.calibration.problems import Problem
from scoreppl.ppl.blocks import ordinary_prior
from scoreppl.ppl.contract import bind_target
from scoreppl.ppl.smc_runs import Settings, event_size, num_score_evaluations, run_guided

# Ranks among 19 draws have central intervals of exactly 50 and 90 per cent.
NUM_DRAWS = 19

Values = dict[str, Array]


class Drawn(NamedTuple):
    """Draws of one posterior.

    Attributes
    ----------
    values
        Constrained values of the sites, leading axis over the draws.
    evaluations
        Of the score, or for models with a density of the density's gradient as well.
    """

    values: Values
    evaluations: Array


# draw(prior, key, y, num_draws)
Draw = Callable[[sp.ScoreModel, Array, Array, int], Drawn]


def by_chain(make: Callable[[], Any], num_warmup: int, thin: int) -> Draw:
    """Run one chain and keep every `thin`-th draw."""

    def draw(prior: sp.ScoreModel, key: Array, y: Array, num_draws: int) -> Drawn:
        kernel = make()
        state = kernel.init(key, num_warmup, None, (prior, y), {})
        constrain = kernel.postprocess_fn((prior, y), {})

        def advance(carry: tuple, _: None) -> tuple:
            state, total = carry
            state = kernel.sample(state, (prior, y), {})
            return (state, total + _cost(state)), state.z

        # One loop, warm-up included, so that the kernel compiles once.
        length = num_warmup + thin * num_draws
        (_, total), z = jax.lax.scan(advance, (state, jnp.zeros(())), None, length=length)
        kept = jax.tree.map(lambda v: v[num_warmup + thin - 1 :: thin], z)
        return Drawn(jax.vmap(constrain)(kept), total)

    return draw


def by_block(make: Callable[[int], Any]) -> Draw:
    """Make one block of independent draws for the warm-up and one to keep."""

    def draw(prior: sp.ScoreModel, key: Array, y: Array, num_draws: int) -> Drawn:
        kernel = make(num_draws)
        state = kernel.init(key, num_draws, None, (prior, y), {})

        def block(state: Any, i: Array) -> tuple[Any, None]:
            # The rest of the warm-up's block would be handed out and thrown away.
            state = state._replace(i=i, index=jnp.full_like(state.index, num_draws))
            return kernel.sample(state, (prior, y), {}), None

        # A loop over the first draws of both blocks, so that the kernel compiles once.
        state, _ = jax.lax.scan(block, state, jnp.array([0, num_draws]))
        values = jax.vmap(kernel.postprocess_fn((prior, y), {}))(state.block_z)
        return Drawn(values, 2.0 * num_draws * _cost(state))

    return draw


def by_particles(model: Callable[..., None], num_particles: int, num_steps: int) -> Draw:
    """Resample a run of ScoreSMC's guided paths.

    `ScoreSMC.run` compiles anew for every data set; this is the compiled part of it, with its
    defaults.
    """
    settings = Settings(
        num_particles=num_particles, num_steps=num_steps, guidance=None, corrector=None,
        num_probes=None, resampling=None, moves=None, num_pilots=256, num_level_pilots=0,
        max_shift=0.2, num_latent_steps=60,
    )  # fmt: skip

    def draw(prior: sp.ScoreModel, key: Array, y: Array, num_draws: int) -> Drawn:
        target = bind_target(model, (prior, y), {})
        ordinary = ordinary_prior(model, (prior, y), {})
        key_run, key_draws = jax.random.split(key)
        found = run_guided(key_run, target, ordinary, settings)
        chosen = jax.random.categorical(key_draws, found.log_weight, shape=(num_draws,))
        # No chain: any kernel's postprocessing maps to the constrained values.
        constrain = sp.GuidedDiffusion(model).postprocess_fn((prior, y), {})
        values = jax.vmap(constrain)(jax.tree.map(lambda v: v[chosen], found.position))
        each = num_score_evaluations(target, event_size(target, ordinary), settings)
        return Drawn(values, jnp.asarray(float(each * num_particles)))

    return draw


def _cost(state: Any) -> Array:
    """Score evaluations, and gradients of the density, of the last transition."""
    total = jnp.zeros(())
    for name in ("num_score_evaluations", "num_density_evaluations"):
        total += getattr(state, name, 0)
    return total if hasattr(state, "num_score_evaluations") else total + state.num_steps


def exact(problem: Problem, narrowing: float = 1.0) -> Draw:
    """Draw from a mixture's posterior by quadrature over the noise scale.

    Parameters
    ----------
    problem
        Whose prior is a `sp.analytic.GaussianMixture`.
    narrowing
        Factor of the distance of x from its posterior mean given the noise scale: 1 is exact.
    """
    nodes = jnp.linspace(-6.0, 6.0, 601)
    scales = problem.scale_median * jnp.exp(problem.scale_spread * nodes)

    def draw(prior: Any, key: Array, y: Array, num_draws: int) -> Drawn:
        given, log_evidence = jax.vmap(lambda s: prior.posterior(problem.operator, y, s**2))(scales)
        log_mass = log_evidence - 0.5 * nodes**2
        key_scale, key_between, key_x = jax.random.split(key, 3)
        chosen = jax.random.categorical(key_scale, log_mass, shape=(num_draws,))
        between = jax.random.uniform(key_between, (num_draws,), minval=-0.5, maxval=0.5)
        scale = problem.scale_median * jnp.exp(
            problem.scale_spread * (nodes[chosen] + (nodes[1] - nodes[0]) * between)
        )

        def one(key: Array, node: Array) -> Array:
            law = jax.tree.map(lambda v: v[node], given)
            mean = law.moments()[0]
            return mean + narrowing * (law.sample_exact(key) - mean)

        x = jax.vmap(one)(jax.random.split(key_x, num_draws), chosen)
        return Drawn({"x": x, "scale": scale}, jnp.zeros(()))

    return draw


@partial(jax.custom_vjp, nondiff_argnums=())
def _zero(prior: sp.ScoreModel, x: Array) -> Array:
    return jnp.zeros(())


def _zero_forward(prior: sp.ScoreModel, x: Array) -> tuple[Array, tuple]:
    return jnp.zeros(()), (prior, sp.ScorePrior(prior).score(x))


def _zero_backward(found: tuple, cotangent: Array) -> tuple:
    prior, score = found
    return jax.tree.map(jnp.zeros_like, prior), cotangent * score


_zero.defvjp(_zero_forward, _zero_backward)


class ZeroDensity(dist.Distribution):
    """A distribution of log density zero whose gradient is a score: what must never be used."""

    pytree_data_fields = ("prior",)

    def __init__(self, prior: sp.ScoreModel) -> None:
        self.prior = prior
        super().__init__((), tuple(prior.event_shape))

    @property
    def support(self) -> constraints.Constraint:
        """All real arrays of the shape of an event."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        """Return 0, with the score as its gradient."""
        return _zero(self.prior, value)


def practised(problem: Problem) -> Callable[[sp.ScoreModel, Array], None]:
    """Return the model with log density zero for its prior, as NUTS takes it without a word."""

    def model(prior: sp.ScoreModel, y: Array) -> None:
        x = jnp.asarray(numpyro.sample("x", ZeroDensity(prior)))
        problem.observe(x, y)

    return model


def nuts_on_zero(problem: Problem) -> NUTS:
    """Return NumPyro's NUTS on that model."""
    start = init_to_value(values={"x": jnp.zeros(problem.prior.event_shape)})
    return NUTS(practised(problem), init_strategy=start, max_tree_depth=7)


class Density(dist.Distribution):
    """A mixture by its density, for the one kernel that needs one."""

    pytree_data_fields = ("prior",)

    def __init__(self, prior: sp.analytic.GaussianMixture) -> None:
        self.prior = prior
        super().__init__((), tuple(prior.event_shape))

    support = constraints.real_vector  # type: ignore[assignment]

    def sample(self, key: Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        """Return exact draws."""
        assert key is not None
        return self.prior.sample_exact(key, sample_shape)

    def log_prob(self, value: Array, intermediates: Any = None) -> Array:
        """Return the log density."""
        return self.prior.log_prob(value)


def proposing(problem: Problem) -> sp.DiffusionMH:
    """Return DiffusionMH on the density, with a network that is wrong in all its parts."""

    def model(prior: Any, y: Array) -> None:
        problem.observe(jnp.asarray(numpyro.sample("x", Density(prior))), y)

    right = problem.prior
    assert isinstance(right, sp.analytic.GaussianMixture)
    wrong = sp.analytic.GaussianMixture(right.means + 0.3, scales=1.2 * right.scales)
    return sp.DiffusionMH(model, {"x": wrong}, num_levels=16)
