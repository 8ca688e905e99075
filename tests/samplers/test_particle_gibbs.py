"""The one-step oracle on paths: exact draws of the discretised target stay exact, mutants not."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scoreppl.guidance import FullCovariance, LineSearch
from scoreppl.samplers import particle_gibbs, proposal
from scoreppl.samplers.particle_gibbs import update_path
from scoreppl.samplers.step_law import StepLaw
from tests.oracle import family_threshold, paired_z_scores
from tests.samplers.test_guided import LADDER, REFERENCE, SD, TARGET, off_course

SCALES = jnp.exp(-0.5 * LADDER)
COUNT = 24_000


def prior_path(key):
    """Draw a path of the reference process, whose steps are known here in closed form."""
    u = SCALES[0] * jax.random.normal(jax.random.fold_in(key, 0), (2,))
    path = [u]
    for index, scale in enumerate(SCALES):
        following = SCALES[index + 1] if index + 1 < len(SCALES) else 0.0
        gain = 1.0 - (following / scale) ** 2
        denoised = u / (1.0 + (scale / SD) ** 2)
        variance = following**2 * gain + gain**2 / (scale**-2 + SD**-2)
        z = jax.random.normal(jax.random.fold_in(key, index + 1), (2,))
        u = gain * denoised + (1.0 - gain) * u + jnp.sqrt(variance) * z
        path.append(u)
    return jnp.stack(path)


@cache
def exact_draws(seed):
    """Paths and latents of the target, by rejection from the prior; kept for the next test."""

    def propose(key):
        key_theta, key_path, key_accept = jax.random.split(key, 3)
        theta, path = jax.random.normal(key_theta), prior_path(key_path)
        position = {"x": path[-1], "theta": theta}
        log_accept = TARGET.log_weight(position) + 0.5 * theta**2
        return path, theta, jnp.log(jax.random.uniform(key_accept)) < log_accept

    keys = jax.random.split(jax.random.key(seed), 6 * COUNT)
    paths, thetas, accepted = jax.jit(jax.vmap(propose))(keys)
    kept = np.flatnonzero(accepted)
    assert len(kept) >= COUNT
    return paths[kept[:COUNT]], thetas[kept[:COUNT]]


def functions(path, theta):
    """Return moments of the path, of its ends together, and with the latent."""
    x, middle = path[-1], path[3] / SCALES[3]
    return jnp.stack([
        x[0], x[1], x[0] ** 2, x[1] ** 2, jnp.tanh(3 * x[0]), theta, theta**2, x[1] * theta,
        middle[0], middle[1] ** 2, middle[0] * x[0], middle[1] * x[1], path[4] @ x,
        jnp.sum((path[5] - x) ** 2), path[2] @ path[4] / SCALES[2],
    ])  # fmt: skip


def blind(u, view):
    """Guide as LineSearch does, and judge only what lies to the right."""
    found = LineSearch()(u, view)
    return found._replace(log_twist=jnp.where(u[0] < 0.3, -jnp.inf, found.log_twist))


def largest_z_score(seeds, guidance, num_particles, keeps=True, max_shift=0.2):
    def step(key, path, theta):
        key_path, key_latents = jax.random.split(key)
        z = {"x": path[-1], "theta": theta}
        found = update_path(
            key_path, path if keeps else None, z, TARGET, LADDER, REFERENCE, guidance,
            num_particles=num_particles, max_shift=max_shift, first_log_snr=-8.0,
        )  # fmt: skip
        z = proposal.refresh(key_latents, z | {"x": found.path[-1]}, TARGET, 5)
        after = functions(found.path, z["theta"])
        return after - functions(path, theta), jnp.mean(found.is_new)

    # A function of its own each time, so that what a mutant patches is traced anew.
    run = jax.jit(lambda keys, *at: jax.lax.map(lambda a: step(*a), (keys, *at), batch_size=2_000))
    scores = []
    for seed in seeds:
        keys = jax.random.split(jax.random.key(100 + seed), COUNT)
        differences, renewed = run(keys, *exact_draws(seed))
        assert float(renewed.mean()) > 0.1
        scores.append(np.abs(paired_z_scores(np.asarray(differences, float))).max())
    return max(scores)


# Fifteen functions a run: a correct kernel raises an alarm in one run of a hundred.
THRESHOLD = family_threshold(15, 0.01)


@pytest.mark.parametrize(
    "guidance, num_particles",
    [
        pytest.param(LineSearch(), 4, marks=pytest.mark.slow),
        (LineSearch(), 16),
        pytest.param(LineSearch(), 64, marks=pytest.mark.slow),
        pytest.param(FullCovariance(), 2, marks=pytest.mark.slow),
        (off_course, 4),
        (blind, 8),
    ],
)
def test_exact_paths_stay_exact(guidance, num_particles):
    assert largest_z_score((0, 1), guidance, num_particles) < family_threshold(30, 0.01)


@pytest.mark.parametrize(
    "mutant",
    [
        "no density",
        # Half of it is harder to see.
        pytest.param("no ratio", marks=pytest.mark.slow),
        "no weights",
        "not kept",
        "half the ratio",
    ],
)
def test_mutants_are_caught(monkeypatch, mutant):
    keeps = mutant != "not kept"
    if mutant == "no density":
        monkeypatch.setattr(StepLaw, "log_reference", lambda self, event: jnp.zeros(()))
    if mutant == "no ratio":
        monkeypatch.setattr(StepLaw, "log_ratio", lambda self, event, z=None: jnp.zeros(()))
    if mutant == "no weights":
        monkeypatch.setattr(particle_gibbs, "_numbers", jnp.zeros_like)
    if mutant == "half the ratio":
        original = StepLaw.log_ratio
        # As if each step's shift were forgiven in part.
        monkeypatch.setattr(
            StepLaw, "log_ratio", lambda self, event, z=None: 0.5 * original(self, event, z)
        )
    guidance, num_particles = (LineSearch(), 16) if keeps else (off_course, 4)
    assert largest_z_score((0,), guidance, num_particles, keeps, np.inf) > 2 * THRESHOLD


@pytest.mark.parametrize("believes", [False, True])
def test_a_path_that_the_guidance_is_blind_for_is_renewed(monkeypatch, believes):
    """Resampled by a twist of minus infinity, it would outweigh all others for ever."""
    if believes:
        monkeypatch.setattr(particle_gibbs, "completed", lambda log_twist, log_weight: log_twist)
    path = jnp.zeros((len(LADDER) + 1, 2))
    z = {"x": path[-1], "theta": jnp.zeros(())}

    def is_new(key):
        return update_path(
            key, path, z, TARGET, LADDER, REFERENCE, blind,
            num_particles=8, max_shift=0.2, first_log_snr=-8.0,
        ).is_new[-1]  # fmt: skip

    share = float(jnp.mean(jax.jit(jax.vmap(is_new))(jax.random.split(jax.random.key(3), 500))))
    assert share == 0.0 if believes else share > 0.5


def test_a_start_without_a_path_is_smc():
    z = {"x": jnp.zeros(2), "theta": jnp.zeros(())}
    found = update_path(
        jax.random.key(0), None, z, TARGET, LADDER, REFERENCE, LineSearch(),
        num_particles=8, max_shift=0.2,
    )  # fmt: skip
    assert found.path.shape == (len(LADDER) + 1, 2) and 1.0 <= float(found.ess) <= 8.0
    assert np.all(np.isfinite(found.path))
