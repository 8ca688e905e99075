"""AnnealedScoreMCMC on models of all kinds: the law, the cost, and what is refused or flagged."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.handlers import condition, reparam
from numpyro.infer import MCMC
from numpyro.infer.reparam import LocScaleReparam

from scoreppl.analytic import GaussianMixture
from scoreppl.noise import VE, VPLinear
from scoreppl.ppl.annealed import AnnealedScoreMCMC
from scoreppl.ppl.prior import ScorePrior
from scoreppl.score import ScoreNetwork
from tests.oracle import family_threshold

NOISE = VPLinear()
MEAN, VARIANCE = jnp.array([1.0, -0.5]), 0.5
GAUSSIAN = GaussianMixture(MEAN[None], scales=VARIANCE**0.5)
QUICK = {"num_levels": 3, "num_reverse_steps": 3, "num_weight_steps": 3, "block_size": 8}


def run(model, *args, num_samples=16, num_warmup=8, fields=(), **options):
    mcmc = MCMC(
        AnnealedScoreMCMC(model, **(QUICK | options)),
        num_warmup=num_warmup,
        num_samples=num_samples,
        progress_bar=False,
    )
    mcmc.run(random.key(0), *args, extra_fields=fields)
    return mcmc


# The law.

# In the order x_0, x_1 (at a noise level), p_0, p_1, p_2 (in a plate), log s.
NOISE_LEVEL = 0.2
DESIGN = np.array([[1, 0, 1, -1, 0, 0], [0, 1, 0, 0, 2, 1], [0, 0, -1, 0, 0, 1]])
ERRORS, SEEN = np.array([0.5, 0.4, 0.6]), np.array([1.5, -0.8, 0.4])
PIXEL = GaussianMixture(jnp.array([0.3]), scales=0.9)


def linear_model():
    """Three observations of two score sites at noise levels of their own, and of a scale."""
    x = numpyro.sample("x", ScorePrior(GAUSSIAN, noise_level=NOISE_LEVEL))
    with numpyro.plate("images", 3):
        p = numpyro.sample("p", ScorePrior(PIXEL))
    s = numpyro.sample("s", dist.LogNormal(0.2, 0.5))
    z = numpyro.deterministic("z", jnp.concatenate([x, p, jnp.log(s)[None]]))
    numpyro.sample("seen", dist.Normal(DESIGN @ z, ERRORS).to_event(1), obs=SEEN)


def linear_posterior():
    alpha, sigma = map(float, NOISE(NOISE_LEVEL))
    mean = np.array([*MEAN, 0.3, 0.3, 0.3, 0.2])
    prior = np.diag([VARIANCE + (sigma / alpha) ** 2] * 2 + [0.81] * 3 + [0.25])
    spread = DESIGN @ prior @ DESIGN.T + np.diag(ERRORS**2)
    gain = prior @ DESIGN.T @ np.linalg.inv(spread)
    return mean + gain @ (SEEN - DESIGN @ mean), prior - gain @ DESIGN @ prior


# Enough levels and sweeps that what incomplete annealing leaves is below the standard errors. One
# sweep a level leaves 0.14 posterior standard deviations here.
THOROUGH = {
    "hmc": {"num_levels": 15, "steps_per_level": 8},
    "split": {
        "num_levels": 40,
        "steps_per_level": 4,
        "num_reverse_steps": 6,
        "num_weight_steps": 25,
    },
}


# The law of "hmc" is also tested in test_annealed_kernel.py.
@pytest.mark.slow
@pytest.mark.parametrize("inner", ["split", "hmc"])
def test_several_score_sites_and_a_positive_latent_have_the_exact_posterior(inner):
    options = {"num_warmup": 160, "num_samples": 1_000, "block_size": 40, **THOROUGH[inner]}
    mcmc = run(linear_model, inner=inner, **options)
    z = np.asarray(mcmc.get_samples()["z"], float)
    mean, covariance = linear_posterior()
    variances = np.diag(covariance)
    # 27 z-scores of independent draws. The bound's false-alarm rate of 1e-5 leaves room for the
    # rest of the bias.
    errors = np.sqrt((np.outer(variances, variances) + covariance**2) / len(z))
    scores = [
        *(z.mean(0) - mean) / np.sqrt(variances / len(z)),
        *((np.cov(z.T) - covariance) / errors)[np.triu_indices(6)],
    ]
    assert np.abs(scores).max() < family_threshold(27, 1e-5), np.round(scores, 1)


# Kinds of models.


def many_kinds(y):
    """Nested plates, `to_event`, a dependent support, a reparameterised latent and a scan."""
    with numpyro.plate("rows", 2, dim=-1), numpyro.plate("columns", 3, dim=-2):
        x = numpyro.sample("x", ScorePrior(GAUSSIAN))
    pair = numpyro.sample("pair", ScorePrior(GAUSSIAN).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    part = numpyro.sample("part", dist.Uniform(0.0, s))
    with reparam(config={"shift": LocScaleReparam(0.0)}):
        shift = numpyro.sample("shift", dist.Normal(2.0, 3.0))

    def step(level, seen):
        level = numpyro.sample("level", dist.Normal(level, 1.0))
        numpyro.sample("y", dist.Normal(level + x.mean() + part, 1.0), obs=seen)
        return level, level

    scan(step, shift + pair.sum(), y)


def test_many_kinds_of_sites():
    draws = run(many_kinds, jnp.array([0.5, 0.1, 0.7, 0.2]), inner="split").get_samples()
    shapes = {name: value.shape for name, value in draws.items()}
    assert shapes == {
        "x": (16, 3, 2, 2),
        "pair": (16, 2, 2),
        "s": (16,),
        "part": (16,),
        "shift_decentered": (16,),
        "shift": (16,),
        "level": (16, 4),
    }
    assert all(np.isfinite(value).all() for value in draws.values())
    assert all(len(np.unique(value)) == value.size for value in draws.values())
    assert ((draws["part"] > 0) & (draws["part"] < draws["s"])).all()
    np.testing.assert_allclose(draws["shift"], 2 + 3 * draws["shift_decentered"], rtol=1e-5)


def two_sites(y):
    x = numpyro.sample("x", ScorePrior(GAUSSIAN))
    z = numpyro.sample("z", ScorePrior(GAUSSIAN))
    numpyro.sample("y", dist.Normal(x + z, 1.0).to_event(1), obs=y)


def test_a_wrapped_model_is_initialised_anew():
    kernel = AnnealedScoreMCMC(two_sites, **QUICK)
    state = kernel.init(random.key(0), 0, None, (jnp.zeros(2),), {})
    assert set(state.z) == {"x", "z"}
    wrapped = kernel.wrap_model(partial(condition, data={"x": jnp.zeros(2)}))
    state = wrapped.init(random.key(0), 0, None, (jnp.zeros(2),), {})
    assert set(state.z) == {"z"}


# The cost.

CALLS = {"forward": 0, "backward": 0}


def count(kind, _):
    CALLS[kind] += 1


def epsilon(x, t):
    alpha, sigma = NOISE(t)
    return sigma * (x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)


@jax.custom_vjp
def counted(x, t):
    jax.debug.callback(partial(count, "forward"), x)
    return epsilon(x, t)


def counted_forward(x, t):
    return counted(x, t), (x, t)


def counted_backward(at, cotangent):
    jax.debug.callback(partial(count, "backward"), cotangent)
    return jax.vjp(epsilon, *at)[1](cotangent)


counted.defvjp(counted_forward, counted_backward)


def network(apply_fn, prediction="epsilon"):
    return ScoreNetwork(
        lambda params, x, t, condition: apply_fn(x, t),
        {},
        noise=NOISE,
        prediction=prediction,
        event_shape=(2,),
    )


def model_of(apply_fn, prediction="epsilon"):
    def model(y):
        x = numpyro.sample("x", ScorePrior(network(apply_fn, prediction)))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(x, s).to_event(1), obs=y)

    return model


@pytest.mark.parametrize(
    "options",
    [
        {"inner": "split", "num_levels": 5, "num_reverse_steps": 7, "noise_level": 0.2},
        {"inner": "split", "steps_per_level": 3},
        pytest.param({"inner": "mala", "steps_per_level": 2}, marks=pytest.mark.slow),
        {"inner": "hmc", "steps_per_level": 2, "quadrature": "gauss_lobatto"},
    ],
    ids=["split", "sweeps", "mala", "hmc"],
)
def test_the_cost_is_the_number_of_network_calls(options):
    """Each draw of one block, a backward pass counting as another evaluation."""
    CALLS.update(forward=0, backward=0)
    options = {"block_size": 2, "weight_move": "random_walk", "num_weight_steps": 1} | options
    mcmc = run(
        model_of(counted),
        jnp.zeros(2),
        num_samples=2,
        num_warmup=0,
        fields=("num_score_evaluations",),
        **options,
    )
    claimed = np.asarray(mcmc.get_extra_fields()["num_score_evaluations"])
    jax.effects_barrier()
    assert (CALLS["backward"] > 0) == (options["inner"] != "split")
    np.testing.assert_array_equal(claimed, sum(CALLS.values()) / 2)


# Numbers that are not, or not as they should be.


@pytest.mark.parametrize(
    "inner, noise",
    [
        ("split", VE(1e-4, 2e4)),
        ("mala", VPLinear()),
        pytest.param("split", VPLinear(), marks=pytest.mark.slow),
        pytest.param("mala", VE(1e-4, 2e4), marks=pytest.mark.slow),
    ],
)
def test_levels_at_the_ends_of_what_is_allowed(inner, noise):
    def model():
        prior = GaussianMixture(jnp.zeros((1, 2)), scales=1.0, noise=noise)
        x = numpyro.sample("x", ScorePrior(prior, noise_level=0.0))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=jnp.ones(2))

    levels = np.geomspace(1e4, 2e-4, 60)
    fields = ("diverging", "is_nan", "acceptance_rate_level")
    mcmc = run(model, inner=inner, levels=levels, steps_per_level=2, fields=fields, num_warmup=24)
    x, found = mcmc.get_samples()["x"], mcmc.get_extra_fields()
    assert np.isfinite(x).all() and np.unique(x, axis=0).shape == x.shape
    assert not found["diverging"].any() and not found["is_nan"].any()
    # A short warm-up does not tune the steep noisiest levels; the lowest are not frozen.
    assert (found["acceptance_rate_level"].mean(0)[-10:] > 0.1).all()


def test_a_network_of_half_precision():
    """One that denoises itself: the other predictions come back in the precision of x."""

    def half(x, t):
        alpha, sigma = NOISE(t)
        return ((x - sigma * epsilon(x, t)) / alpha).astype(jnp.float16)

    draws = run(model_of(half, "x0"), jnp.zeros(2), inner="split").get_samples()
    assert draws["x"].dtype == jnp.float32 and np.isfinite(draws["x"]).all()


@cache
def beside_a_hole(inner):
    """A weight that is not a number on the right of 1, where half the prior lies."""

    def model():
        x = numpyro.sample("x", ScorePrior(GAUSSIAN))
        numpyro.factor("hole", jnp.where(x[0] > 1.0, jnp.nan, 0.0))

    mcmc = run(model, num_samples=64, inner=inner)
    fields = jax.tree.map(np.asarray, mcmc.get_extra_fields())
    return np.asarray(mcmc.get_samples()["x"]), fields


@pytest.mark.parametrize("inner", ["split", "hmc"])
def test_a_draw_whose_weight_is_not_a_number_is_flagged(inner):
    x, fields = beside_a_hole(inner)
    inside = x[:, 0] > 1.0
    assert np.isfinite(x).all() and 0 < inside.sum() < 64
    assert fields["is_nan"][inside].all()
    np.testing.assert_array_equal(fields["diverging"], inside)
    for name in ("accept_prob", "acceptance_rate_level"):
        assert np.isfinite(fields[name]).all()


# What is refused.


def discrete(y):
    x = numpyro.sample("x", ScorePrior(GAUSSIAN))
    b = numpyro.sample("b", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(x + b, 1.0).to_event(1), obs=y)


def masked(y):
    numpyro.sample("x", ScorePrior(GAUSSIAN).mask(False))


def dependent(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
    numpyro.sample("x", ScorePrior(GaussianMixture(m, scales=1.0)))


@pytest.mark.parametrize(
    "model, message",
    [
        (discrete, r"Latent sites \['b'\] are discrete"),
        (masked, "Site 'x' is a masked ScorePrior"),
        (dependent, "The score model of site 'x' depends on a latent site"),
    ],
)
def test_models_without_a_weight_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        AnnealedScoreMCMC(model, **QUICK).init(random.key(0), 0, None, (jnp.zeros(2),), {})


@pytest.mark.parametrize("noise_level", [-0.5, 0.0, 1.0, 1.5])
def test_noise_levels_at_which_the_score_is_not_valid_are_refused(noise_level):
    model = model_of(epsilon)
    assert float(network(epsilon).min_time) > 0.0
    with pytest.raises(ValueError, match="`noise_level=.*must be at least"):
        AnnealedScoreMCMC(model, noise_level=noise_level, **QUICK).init(
            random.key(0), 0, None, (jnp.zeros(2),), {}
        )


@pytest.mark.parametrize(
    "inner", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("hmc", "mala")), "split"]
)
def test_no_draw_stays_at_a_stiff_start(inner):
    """A scale with a wide prior starts where every step of the usual size is rejected.

    Given x a standard normal seen five times, the posterior of s is known on a grid.
    """
    seen = np.array([-0.6, 0.1, -0.2, 0.5, -0.3])
    log_s = np.linspace(-8, 8, 2001)
    variances = np.exp(2 * log_s)
    total = seen.sum() ** 2 / (variances + 5)
    log_mass = -0.5 * ((seen @ seen - total) / variances + np.log1p(5 / variances))
    log_mass += -5 * log_s - 0.5 * (log_s / 3) ** 2
    mass = np.exp(log_mass - log_mass.max())
    mean = mass @ log_s / mass.sum()
    sd = np.sqrt(mass @ (log_s - mean) ** 2 / mass.sum())

    def model():
        x = numpyro.sample("x", ScorePrior(GaussianMixture(jnp.zeros((1, 1)), scales=1.0)))
        s = numpyro.sample("s", dist.LogNormal(0.0, 3.0))
        numpyro.sample("y", dist.Normal(x[0], s).expand([5]).to_event(1), obs=seen)

    kernel = AnnealedScoreMCMC(model, inner=inner, num_levels=40, steps_per_level=4, block_size=200)
    mcmc = MCMC(kernel, num_warmup=200, num_samples=400, progress_bar=False)
    mcmc.run(random.key(0))
    found = np.log(mcmc.get_samples()["s"])
    # Draws that stay have log s down to -9. Five standard errors, and a tenth of a standard
    # deviation for what forty levels leave.
    assert found.min() > mean - 6 * sd
    assert abs(found.mean() - mean) < 5 * sd / np.sqrt(400) + 0.1 * sd


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_data_and_weights_that_are_no_numbers_are_errors():
    prior = GaussianMixture(jnp.zeros((1, 1)), scales=1.0)

    def seen(y):
        x = numpyro.sample("x", ScorePrior(prior))
        numpyro.sample("y", dist.Normal(x[0], 1.0).expand([2]).to_event(1), obs=y)

    def factor(y):
        x = numpyro.sample("x", ScorePrior(prior))
        numpyro.factor("fit", jnp.sqrt(x[0] * 0 - 1.0))

    def masked(y):
        x = numpyro.sample("x", ScorePrior(prior))
        with numpyro.handlers.mask(mask=~jnp.isnan(y)):
            numpyro.sample("y", dist.Normal(x[0], 1.0), obs=jnp.nan_to_num(y))

    y = jnp.array([0.3, jnp.nan])
    with pytest.raises(ValueError, match=r"Observed sites \['y'\] hold NaN"):
        run(seen, y)
    with pytest.raises(ValueError, match="not a number at any of 16 draws"):
        run(factor, y)
    run(masked, y)
