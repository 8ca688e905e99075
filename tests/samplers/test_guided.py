"""Path weights are exact for the discretised prior, whatever the guidance; mutants are not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl import noise
from scoreppl.analytic import GaussianMixture
from scoreppl.guidance import (
    LAGS,
    MPGD,
    FullCovariance,
    Guided,
    LineSearch,
    LowRank,
    Minority,
    RandomNumbers,
    Tweedie,
)
from scoreppl.samplers import guided
from scoreppl.samplers.guided import guide
from scoreppl.samplers.low_rank import LowRankRoot
from scoreppl.samplers.reference import (
    Reference,
    angle_ladder,
    cholesky_root,
    measure_reference,
)
from scoreppl.samplers.smc import Resampling, effective_sample_size
from scoreppl.target import Target
from tests import problems
from tests.given_ladder import reference_at

# A normal prior N(0, SD^2) in two dimensions, of which the reference kernel with the exact
# denoising variance is the exact reverse process, so that the evidence is known for any number
# of levels; and a skewed weight of x and of an ordinary latent.
SD, SIZE = 0.8, 4_000
LADDER = jnp.linspace(-11.0, 5.0, 6)
PRIOR = GaussianMixture(jnp.zeros((1, 2)), scales=jnp.full((1, 2), SD))


def log_weight(position):
    x, theta = position["x"], position["theta"]
    return -jnp.logaddexp(0.0, -3.0 * x[0] - theta) - 0.5 * (x[1] - theta) ** 2 - 0.5 * theta**2


TARGET = Target({"x": PRIOR}, {"x": 0.0}, log_weight)
REFERENCE = Reference(
    jnp.broadcast_to(1.0 / (jnp.exp(LADDER) + SD**-2)[:, None], (len(LADDER), 2)), jnp.asarray(SD)
)


def evidence():
    """Integrate the weight by quadrature."""
    nodes, masses = np.polynomial.hermite_e.hermegauss(60)
    masses = masses / masses.sum()
    # theta has the weight's N(0, 1) up to its constant.
    x0, x1, theta = np.meshgrid(SD * nodes, SD * nodes, nodes, indexing="ij")
    values = 1 / (1 + np.exp(-3.0 * x0 - theta)) * np.exp(-0.5 * (x1 - theta) ** 2)
    return np.sqrt(2 * np.pi) * np.einsum("ijk,i,j,k", values, masses, masses, masses)


def off_course(u, view):
    """Guide by a user's own function, which is wrong."""
    denoised = view.denoise(u)
    return Guided(
        denoised,
        denoised + 0.2 * jnp.tanh(view.scale) * jnp.sin(3.0 * u[::-1]),
        0.1 * u[0] / view.scale[0],
    )


GUIDANCES = {
    "line search": LineSearch(),
    "full covariance": FullCovariance(),
    "random numbers": RandomNumbers(16),
    "lags": LAGS(),
    "tweedie": Tweedie(0.5),
    "mpgd": MPGD(0.5),
    "minority": Minority(0.3, guidance=LineSearch()),
    "low rank": LowRank(((1.0, 0.0), (0.0, 1.0))),
    "low rank, one number": LowRank(((1.0, 0.5),)),
    "a wrong function": off_course,
}


@partial(jax.jit, static_argnames=("guidance", "resampling"))
def particles(key, guidance, resampling=None):
    key_theta, key_run = jax.random.split(key)
    theta = 0.5 + 1.5 * jax.random.normal(key_theta, (SIZE,))
    log_proposal = -0.5 * ((theta - 0.5) / 1.5) ** 2 - jnp.log(1.5 * jnp.sqrt(2 * jnp.pi))
    start = {"x": jnp.zeros((SIZE, 2)), "theta": theta}
    return guide(
        jax.random.split(key_run, SIZE),
        start,
        log_proposal,
        TARGET,
        LADDER,
        REFERENCE,
        guidance,
        resampling,
    )


def evidence_z_score(guidance, resampling=None, seeds=10):
    found = np.array(
        [
            particles(jax.random.key(seed), guidance, resampling).log_evidence
            for seed in range(seeds)
        ]
    )
    ratios = np.exp(np.float64(found)) / evidence()
    return (ratios.mean() - 1) / (ratios.std(ddof=1) / np.sqrt(seeds))


QUICK = ("line search", "full covariance", "low rank", "a wrong function")


def each_guidance():
    marks = {name: [] if name in QUICK else [pytest.mark.slow] for name in GUIDANCES}
    return [pytest.param(name, marks=marks[name]) for name in GUIDANCES]


@pytest.mark.parametrize("name", each_guidance())
def test_the_evidence_is_unbiased_at_six_steps_for_any_guidance(name):
    # Student's t with 9 degrees of freedom passes 5.0 with probability 7e-4.
    assert abs(evidence_z_score(GUIDANCES[name])) < 5.0


@pytest.mark.parametrize(
    "name",
    ["line search", *(pytest.param(n, marks=pytest.mark.slow) for n in QUICK[1:])],
)
def test_the_evidence_is_unbiased_with_resampling(name):
    resampling = Resampling(threshold=0.95, first_log_snr=-20.0)
    assert abs(evidence_z_score(GUIDANCES[name], resampling)) < 5.0


def test_weighted_draws_have_the_posterior():
    found = particles(jax.random.key(1), LineSearch())
    share = np.asarray(jax.nn.softmax(found.log_weight), float)
    nodes, masses = np.polynomial.hermite_e.hermegauss(60)
    x0, x1, theta = np.meshgrid(SD * nodes, SD * nodes, nodes, indexing="ij")
    values = 1 / (1 + np.exp(-3.0 * x0 - theta)) * np.exp(-0.5 * (x1 - theta) ** 2)
    values *= masses[:, None, None] * masses[:, None] * masses
    effective = float(effective_sample_size(found.log_weight))
    assert effective > 0.2 * SIZE
    coordinates = {"x0": found.position["x"][:, 0], "x1": found.position["x"][:, 1]}
    exact = {"x0": x0, "x1": x1, "theta": theta}
    for name, drawn in (coordinates | {"theta": found.position["theta"]}).items():
        mean = np.sum(values * exact[name]) / values.sum()
        spread = np.sqrt(np.sum(values * (exact[name] - mean) ** 2) / values.sum())
        # Five standard errors, with the effective number of draws halved: false alarms 1e-3.
        assert abs(share @ np.asarray(drawn) - mean) < 5 * spread / np.sqrt(effective / 2), name


# Mutants.


def without_ratio(step):
    return lambda *arguments: (step(*arguments)[0], jnp.zeros(()))


def with_half_the_ratio(step):
    def mutant(*arguments):
        moved, ratio = step(*arguments)
        return moved, 0.5 * ratio

    return mutant


def with_the_narrow_reference(step):
    """The variance of DDPM, which leaves out that of x_0 given u."""

    def mutant(key, u, ratio, scale, variance, found, *rest):
        return step(key, u, ratio, scale, 0.3 * variance, found, *rest)

    return mutant


def with_volumes_dropped(step):
    def mutant(key, u, ratio, scale, variance, found, *rest):
        moved, log_ratio = step(key, u, ratio, scale, variance, found, *rest)
        gain = 1.0 - ratio
        roots = [
            cholesky_root(scale**2 * gain, gain, matrix)
            for matrix in (found.covariance, found.guided_covariance)
        ]
        volumes = [jnp.sum(jnp.log(jnp.diagonal(root))) for root in roots]
        return moved, log_ratio - (volumes[1] - volumes[0])

    return mutant


@pytest.mark.parametrize(
    "mutate, name",
    [
        (without_ratio, "line search"),
        pytest.param(without_ratio, "full covariance", marks=pytest.mark.slow),
        pytest.param(with_half_the_ratio, "line search", marks=pytest.mark.slow),
        (with_the_narrow_reference, "line search"),
        (with_volumes_dropped, "full covariance"),
    ],
)
def test_mutants_are_biased(monkeypatch, mutate, name):
    monkeypatch.setattr(guided, "_step", mutate(guided._step))
    jax.clear_caches()
    try:
        assert abs(evidence_z_score(GUIDANCES[name])) > 8.0
    finally:
        jax.clear_caches()


def test_low_rank_volumes_dropped_are_seen(monkeypatch):
    monkeypatch.setattr(LowRankRoot, "log_volume", jnp.zeros(()))
    jax.clear_caches()
    try:
        assert abs(evidence_z_score(GUIDANCES["low rank"])) > 8.0
    finally:
        jax.clear_caches()


# Against problems with exact truth.


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, guidance, num_levels",
    [
        ("lg2", FullCovariance(), 16),
        ("lg8", LineSearch(), 58),
        ("lg8", FullCovariance(), 24),
        ("pois8", FullCovariance(), 16),
    ],
)
def test_evidence_and_modes_of_problems(name, guidance, num_levels):
    """Resampled late, with the reference fitted on pilot draws."""
    problem, truth, count = problems.problem(name), problems.truth(name), 1_000
    size = problem.prior.event_shape[0]
    target = Target({"x": problem.prior}, {"x": 0.0}, lambda z: problem.log_weight(z["x"]))
    ladder = angle_ladder(num_levels)

    @jax.jit
    def run(key):
        key_fit, key_run = jax.random.split(key)
        reference = reference_at(
            key_fit, {"x": jnp.zeros(size)}, target, ladder, num_pilots=500, num_steps=100
        )
        start = {"x": jnp.zeros((count, size))}
        found = guide(
            jax.random.split(key_run, count),
            start,
            jnp.zeros(count),
            target,
            ladder,
            reference,
            guidance,
            Resampling(),
        )
        modes = jax.vmap(problem.prior.mode_probabilities)(found.position["x"])
        return found.log_evidence, jax.nn.softmax(found.log_weight) @ modes

    found = [run(key) for key in jax.random.split(jax.random.key(0), 12)]
    errors = np.array([value for value, _ in found]) - truth.log_evidence
    distances = [0.5 * np.abs(masses - truth.mode_masses).sum() for _, masses in found]
    assert abs(errors.mean()) < 0.06 and errors.std(ddof=1) < 0.1
    assert np.mean(distances) < 0.035


# Parts.


def test_the_reference_is_the_error_of_the_denoiser():
    fitted = reference_at(
        jax.random.key(0), {"x": jnp.zeros(2)}, TARGET, LADDER, num_pilots=4_000, num_steps=200
    )
    # 8,000 squares of normals: five standard errors are 8 %; the draws themselves 1 %.
    np.testing.assert_allclose(fitted.denoising_variance, REFERENCE.denoising_variance, rtol=0.09)
    assert abs(float(fitted.data_scale) / SD - 1) < 0.06
    assert fitted.denoising_variance.shape == (len(LADDER), 2)


def test_principal_components_of_the_errors_make_the_reference_exact():
    """A normal prior that is wide in one direction: one variance a level is biased, rank 1 not."""
    direction = np.array([0.6, -0.8, 0.0, 0.0])
    covariance = 0.15**2 * np.eye(4) + np.outer(direction, direction)
    prior = GaussianMixture(jnp.zeros((1, 4)), covariances=jnp.asarray(covariance)[None])
    target = Target({"x": prior}, {"x": 0.0}, lambda z: -8.0 * jnp.sum((z["x"] - 0.2) ** 2))
    spread = covariance + np.eye(4) / 16
    exact = -0.5 * np.full(4, 0.2) @ np.linalg.solve(spread, np.full(4, 0.2))
    exact -= 0.5 * np.linalg.slogdet(16 * spread)[1]
    clean = {"x": prior.sample_exact(jax.random.key(9), (20_000,))}

    @partial(jax.jit, static_argnames="rank")
    def log_evidence(key, rank):
        key_fit, key_run = jax.random.split(key)
        reference = measure_reference(key_fit, clean, target, LADDER, rank=rank)
        found = guide(
            jax.random.split(key_run, SIZE), {"x": jnp.zeros((SIZE, 4))}, jnp.zeros(SIZE),
            target, LADDER, reference, LineSearch(),
        )  # fmt: skip
        return found.log_evidence

    def errors(rank):
        keys = jax.random.split(jax.random.key(0), 10)
        return np.exp([float(log_evidence(key, rank)) - exact for key in keys]) - 1

    z_scores = [e.mean() / (e.std(ddof=1) / np.sqrt(10)) for e in map(errors, (1, 0))]
    # Student's t with 9 degrees of freedom passes 5.0 with probability 7e-4.
    assert abs(z_scores[0]) < 5.0
    assert abs(z_scores[1]) > 8.0


def test_weights_that_are_not_numbers_count_as_none():
    def undefined(position):
        return jnp.where(position["x"][0] > 0, log_weight(position), jnp.nan)

    target = TARGET.__class__(TARGET.score_models, TARGET.floors, undefined)
    start = {"x": jnp.zeros((SIZE, 2)), "theta": jnp.zeros(SIZE)}
    for resampling in (None, Resampling()):
        found = guide(
            jax.random.split(jax.random.key(0), SIZE), start, jnp.zeros(SIZE), target,
            LADDER, REFERENCE, LAGS(), resampling,
        )  # fmt: skip
        assert np.isfinite(found.log_evidence)
        alive = np.isfinite(found.log_weight)
        assert 0 < alive.sum() < SIZE
        assert np.all(found.position["x"][alive][:, 0] > 0)


def test_resampling_keeps_ancestors_and_starts_late():
    early = particles(jax.random.key(2), LineSearch(), Resampling(0.99, -20.0))
    never = particles(jax.random.key(2), LineSearch(), Resampling(0.99, 20.0))
    plain = particles(jax.random.key(2), LineSearch())
    assert len(np.unique(early.ancestor)) < SIZE
    np.testing.assert_array_equal(never.ancestor, np.arange(SIZE))
    np.testing.assert_allclose(never.log_weight, plain.log_weight, rtol=1e-4, atol=1e-4)


def test_a_particle_depends_on_its_own_key_alone():
    keys = jax.random.split(jax.random.key(3), 8)

    def run(keys):
        start = {"x": jnp.zeros((len(keys), 2)), "theta": jnp.zeros(len(keys))}
        return guide(keys, start, jnp.zeros(len(keys)), TARGET, LADDER, REFERENCE, LineSearch())

    few, all_of_them = run(keys[2:5]), run(keys)
    np.testing.assert_allclose(few.position["x"], all_of_them.position["x"][2:5], rtol=1e-4)
    np.testing.assert_allclose(few.log_weight, all_of_them.log_weight[2:5], rtol=1e-3, atol=1e-4)


def test_several_sites_with_schedules_of_their_own_and_plates():
    other = GaussianMixture(jnp.zeros((1, 1)), scales=1.0, noise=noise.VPCosine())
    target = Target(
        {"x": PRIOR, "v": other},
        {"x": 0.0, "v": 0.0},
        lambda z: -0.5 * jnp.sum(z["v"] ** 2) - 0.5 * jnp.sum(z["x"] ** 2),
    )
    start = {"x": jnp.zeros((SIZE, 2)), "v": jnp.zeros((SIZE, 3, 1))}
    reference = reference_at(
        jax.random.key(0),
        jax.tree.map(lambda v: v[0], start),
        target,
        LADDER,
        num_pilots=1_000,
        num_steps=50,
    )
    assert reference.denoising_variance.shape == (len(LADDER), 5)
    found = guide(
        jax.random.split(jax.random.key(1), SIZE),
        start,
        jnp.zeros(SIZE),
        target,
        LADDER,
        reference,
        LineSearch(),
    )
    exact = -np.log1p(SD**2) - 1.5 * np.log(2.0)
    assert abs(float(found.log_evidence) - exact) < 0.1
    assert found.position["v"].shape == (SIZE, 3, 1)
