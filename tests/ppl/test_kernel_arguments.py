"""What the local kernels warn of and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro.infer import NUTS

from scoreppl.ppl.local_kernels import ScoreHMC, ScoreMALA, ScoreNUTS
from tests.ppl.chains import KERNELS, PRIOR, Y, model, network_model, sampler


@pytest.mark.parametrize("kernel", [ScoreHMC, ScoreNUTS])
def test_hmc_and_nuts_warn_of_networks(kernel):
    # That nothing else warns (MALA on networks, all of them on analytic models and energies) is
    # shown by the other tests, where warnings are errors.
    args = ({"precision": jnp.array(1.0), "mean": jnp.zeros(2)}, 0.5)
    with pytest.warns(UserWarning, match=rf"{kernel.__name__} moves site\(s\) \['x'\].*curl"):
        kernel(network_model).init(random.key(0), 0, None, args, {})


@pytest.mark.parametrize("name", KERNELS)
def test_bad_arguments_are_refused(name):
    make = KERNELS[name].make
    with pytest.raises(ValueError, match="`model` of type GaussianMixture is not callable"):
        make(PRIOR)
    for step_size in (0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="step_size.*positive"):
            make(model, step_size=step_size)
    for rate in (0.0, 1.0):
        with pytest.raises(ValueError, match="target_accept_prob.*between 0 and 1"):
            make(model, target_accept_prob=rate)
    with pytest.raises(ValueError, match="num_steps=0"):
        ScoreHMC(model, num_steps=0)
    with pytest.raises(ValueError, match="max_tree_depth=0"):
        ScoreNUTS(model, max_tree_depth=0)


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 2), (2, 2), (3, 3, 3)])
def test_mass_matrices_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="inverse_mass_matrix.*3 unconstrained numbers"):
        ScoreMALA(model, inverse_mass_matrix=jnp.ones(shape)).init(random.key(0), 0, None, (Y,), {})


@pytest.mark.parametrize(
    ("dense", "given"), [(False, jnp.eye(3)), (True, jnp.ones(3)), (False, np.eye(3).tolist())]
)
def test_a_mass_matrix_is_adapted_in_the_form_it_has(dense, given):
    kernel = ScoreMALA(model, inverse_mass_matrix=given, dense_mass=dense)
    mcmc = sampler(kernel, 1, num_warmup=30, num_chains=1)
    mcmc.run(random.key(11), Y)
    found = np.asarray(mcmc.last_state.adapt_state.inverse_mass_matrix)
    # Symmetric and positive, with correlations: a diagonal estimate broadcast to a matrix is not.
    np.testing.assert_allclose(found, found.T, rtol=1e-3)
    assert found.shape == (3, 3) and np.linalg.eigvalsh(found).min() > 0 and found[0, 1] != 0


@pytest.mark.parametrize("level", [-0.1, 1e-5, 1.0, 1.5, float("nan")])
@pytest.mark.parametrize("given", [False, True])
def test_noise_levels_out_of_range_are_refused(level, given):
    args = ({"precision": jnp.array(1.0), "mean": jnp.zeros(2)}, 0.5)
    start = {"x": jnp.zeros(2)} if given else None
    # The network is valid from min_time on, which is above 1e-5.
    with pytest.raises(ValueError, match="noise_level.*at least.*below 1"):
        ScoreMALA(network_model, noise_level=level).init(random.key(0), 0, start, args, {})


def test_a_score_site_alone_cannot_be_given_to_numpyro():
    with pytest.raises(ValueError, match="Site 'x' has a score but no log density"):
        sampler(NUTS(model), 1, num_warmup=0, num_chains=1).run(random.key(0), Y)
