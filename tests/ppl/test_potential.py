"""The exact weight of a model: its value, its start, and what it refuses."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.distributions import biject_to, constraints
from numpyro.infer.gibbs import GIBBS_SITES_KWARG, conditioned

from scoreppl.analytic import GaussianMixture
from scoreppl.ppl.flat import FlatPrior, flat_scores
from scoreppl.ppl.potential import log_weight, score_sites, weight_of_model
from scoreppl.ppl.prior import ScorePrior

MIXTURE = GaussianMixture(jnp.array([[2.0, 0.0, 0.5], [-2.0, 1.0, 0.0]]), scales=0.5)
OTHER = GaussianMixture(jnp.zeros((1, 2)), scales=1.0)
A = random.normal(random.key(1), (5, 3))
Y = jnp.arange(5.0)
SEEDS = [0, 1, 2]


def rich_model(A, y=None):
    """A plated and a plain score site, two constrained latents, a factor and a likelihood."""
    with numpyro.plate("images", 2):
        x = numpyro.sample("x", ScorePrior(MIXTURE))
    z = numpyro.sample("z", ScorePrior(OTHER))
    tau = numpyro.sample("tau", dist.HalfNormal(2.0))
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    mean = numpyro.deterministic("mean", A @ (w @ x))
    numpyro.factor("penalty", -0.1 * jnp.sum(z**2))
    with numpyro.plate("data", A.shape[0]):
        numpyro.sample("y", dist.Normal(mean, tau), obs=y)


def rich_by_hand(values, A, y):
    tau = jnp.exp(values["tau"])
    simplex = biject_to(constraints.simplex)
    w = simplex(values["w"])
    log_prior = dist.HalfNormal(2.0).log_prob(tau) + dist.Dirichlet(jnp.ones(2)).log_prob(w)
    jacobians = values["tau"] + simplex.log_abs_det_jacobian(values["w"], w)
    log_likelihood = dist.Normal(A @ (w @ values["x"]), tau).log_prob(y).sum()
    return log_prior + jacobians - 0.1 * jnp.sum(values["z"] ** 2) + log_likelihood


def unconstrained(seed):
    keys = random.split(random.key(seed), 4)
    shapes = {"x": (2, 3), "z": (2,), "tau": (), "w": (1,)}
    return {n: random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


# The value.


@pytest.mark.parametrize("seed", SEEDS)
def test_weight_is_everything_but_the_score_priors(seed):
    z = unconstrained(seed)
    found = log_weight(rich_model, A, y=Y)
    # Sums of ten float32 terms of size up to 1e3.
    np.testing.assert_allclose(found(z), rich_by_hand(z, A, Y), rtol=1e-5)
    gradient = jax.jit(jax.grad(found))(z)
    expected = jax.grad(rich_by_hand)(z, A, Y)
    for name in z:
        np.testing.assert_allclose(gradient[name], expected[name], rtol=1e-4, atol=1e-4)


def test_vmap():
    batch = jax.tree.map(lambda *v: jnp.stack(v), *map(unconstrained, SEEDS))
    found = jax.vmap(log_weight(rich_model, A, y=Y))(batch)
    expected = [rich_by_hand(unconstrained(seed), A, Y) for seed in SEEDS]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_of_score_sites_alone_has_weight_one():
    def model():
        numpyro.sample("x", ScorePrior(MIXTURE))

    weight = log_weight(model)
    assert weight({"x": jnp.ones(3)}) == 0.0
    np.testing.assert_array_equal(jax.grad(weight)({"x": jnp.ones(3)})["x"], jnp.zeros(3))


def test_the_ode_density_is_left_out_too():
    def model():
        numpyro.sample("x", ScorePrior(MIXTURE, log_prob="ode"))

    assert log_weight(model)({"x": jnp.ones(3)}) == 0.0


def test_observed_score_sites_are_constant():
    weight = log_weight(handlers.condition(rich_model, data={"z": jnp.ones(2)}), A, y=Y)
    z = unconstrained(0)
    expected = rich_by_hand({**z, "z": jnp.ones(2)}, A, Y)
    z.pop("z")
    np.testing.assert_allclose(weight(z), expected, rtol=1e-5)


def test_names_of_the_values_are_checked():
    weight, z = log_weight(rich_model, A, y=Y), unconstrained(0)
    with pytest.raises(ValueError, match=r"must be those of \['tau', 'w', 'x', 'z'\], but \['x'\]"):
        weight({"x": z["x"]})
    with pytest.raises(ValueError, match="must be those of"):
        weight({**z, "typo": jnp.zeros(())})


def test_new_arguments_do_not_trace_again():
    traces = []

    def model(prior, y):
        traces.append(1)
        x = numpyro.sample("x", prior)
        numpyro.sample("y", dist.Normal(x.sum(), 1.0), obs=y)

    def prior(shift):
        return ScorePrior(GaussianMixture(jnp.full((1, 3), shift), scales=1.0))

    weight = weight_of_model(model, random.key(0), (prior(0.0), jnp.array(1.0)))

    @jax.jit
    def evaluate(z, prior, y):
        score = score_sites(model, (prior, y))["x"].score(z["x"])
        return weight.log_weight(z, (prior, y), None), score

    z = {"x": jnp.array([1.0, 2.0, 3.0])}
    evaluate(z, prior(0.0), jnp.array(1.0))
    before = len(traces)
    value, score = evaluate(z, prior(5.0), jnp.array(7.0))
    assert len(traces) == before
    np.testing.assert_allclose(value, dist.Normal(6.0, 1.0).log_prob(7.0), rtol=1e-6)
    # N(5, 1) at the noise level 0.
    np.testing.assert_allclose(score, 5.0 - z["x"], rtol=1e-5)


def test_model_parameters_and_keys():
    def model():
        scale = numpyro.param("scale", 3.0, constraint=constraints.positive)
        shift = random.normal(numpyro.prng_key())
        x = numpyro.sample("x", ScorePrior(MIXTURE))
        numpyro.factor("f", scale * x[0] + 0.0 * shift)

    weight = weight_of_model(model, random.key(0))
    np.testing.assert_allclose(weight.log_weight({"x": jnp.ones(3)}, (), None), 3.0)


# Start and constrained values.


def test_weight_of_model():
    weight = weight_of_model(rich_model, random.key(0), (A,), {"y": Y})
    assert weight.site_names == ("x", "z", "tau", "w") and weight.score_site_names == ("x", "z")
    shapes = {name: value.shape for name, value in weight.initial.items()}
    assert shapes == {"x": (2, 3), "z": (2,), "tau": (), "w": (1,)}
    z = unconstrained(1)
    np.testing.assert_allclose(
        weight.log_weight(z, (2 * A,), {"y": Y + 1}), rich_by_hand(z, 2 * A, Y + 1), rtol=1e-5
    )
    constrained = weight.constrain(z, (2 * A,), {"y": Y})
    assert {n: v.shape for n, v in constrained.items()} == {
        "x": (2, 3),
        "z": (2,),
        "tau": (),
        "w": (2,),
        "mean": (5,),
    }
    np.testing.assert_allclose(constrained["tau"], jnp.exp(z["tau"]), rtol=1e-6)
    expected = 2 * A @ (constrained["w"] @ z["x"])
    np.testing.assert_allclose(constrained["mean"], expected, rtol=1e-4, atol=1e-5)
    assert jax.vmap(lambda z: weight.constrain(z, (A,), {"y": Y}))(
        jax.tree.map(lambda v: v[None], z)
    )["mean"].shape == (1, 5)


def test_supports_that_depend_on_other_sites():
    def model():
        x = numpyro.sample("x", ScorePrior(MIXTURE))
        a = numpyro.sample("a", dist.Uniform(0.0, jnp.exp(x[0])))
        numpyro.sample("b", dist.Uniform(0.0, a))

    weight = weight_of_model(model, random.key(0))
    z = {"x": jnp.array([1.0, 0.0, 0.0]), "a": jnp.zeros(()), "b": jnp.zeros(())}
    constrained = weight.constrain(z, (), None)
    np.testing.assert_allclose(constrained["a"], np.e / 2, rtol=1e-6)
    np.testing.assert_allclose(constrained["b"], np.e / 4, rtol=1e-6)
    # Density 1 / width times the Jacobian width / 4, twice.
    np.testing.assert_allclose(weight.log_weight(z, (), None), -2 * np.log(4.0), rtol=1e-5)


@pytest.mark.parametrize("impl", ["threefry2x32", None], ids=["typed", "raw"])
def test_a_batch_of_keys_gives_different_starts(impl):
    key = random.key(0, impl=impl) if impl else random.PRNGKey(0)
    weight = weight_of_model(rich_model, random.split(key, 3), (A,), {"y": Y})
    shapes = {name: value.shape for name, value in weight.initial.items()}
    assert shapes == {"x": (3, 2, 3), "z": (3, 2), "tau": (3,), "w": (3, 1)}
    for value in weight.initial.values():
        assert len(np.unique(value.reshape(3, -1)[:, 0])) == 3


def test_the_start_is_searched_until_the_weight_is_finite():
    def model():
        x = numpyro.sample("x", ScorePrior(MIXTURE))
        numpyro.factor("box", jnp.where(x[0] > 1.0, 0.0, -jnp.inf))

    # A start is good with probability 0.159: 100 of them all fail once in 3e7.
    for key in (random.key(0), random.split(random.key(1), 4)):
        assert jnp.all(weight_of_model(model, key).initial["x"][..., 0] > 1.0)


def far_model():
    x = numpyro.sample("x", ScorePrior(MIXTURE))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.factor("box", jnp.where(x[0] > 50.0, s, -jnp.inf))


@pytest.mark.parametrize("keys", [random.key(0), random.split(random.key(0), 2)], ids=["1", "2"])
def test_no_start_asks_for_init_params(keys):
    with pytest.raises(ValueError, match=r"not finite at any of 100 random starts.*`init_params`"):
        weight_of_model(far_model, keys)


def test_init_params():
    far = jnp.array([60.0, 0.0, 0.0])
    given = {"x": far, "s": jnp.array(0.2)}
    weight = weight_of_model(far_model, random.key(0), init_params=given)
    np.testing.assert_array_equal(weight.initial["x"], far)
    batch = jax.tree.map(lambda v: jnp.stack([v, v]), given)
    weight = weight_of_model(far_model, random.split(random.key(0)), init_params=batch)
    assert weight.initial["x"].shape == (2, 3)
    weight = weight_of_model(rich_model, random.key(0), (A,), {"y": Y}, init_params={"tau": 0.5})
    assert weight.initial["tau"] == 0.5 and set(weight.initial) == {"x", "z", "tau", "w"}


def test_bad_init_params():
    near = {"x": jnp.zeros(3), "s": jnp.array(0.2)}
    with pytest.raises(ValueError, match="log weight is not finite at `init_params`"):
        weight_of_model(far_model, random.key(0), init_params=near)
    with pytest.raises(ValueError, match="`init_params` names 't', which is not a latent site"):
        weight_of_model(far_model, random.key(0), init_params={"t": 1.0})
    with pytest.raises(ValueError, match=r"`init_params\['x'\]` has shape \(2,\), but.*\(3,\)"):
        weight_of_model(far_model, random.key(0), init_params={"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"has shape \(3,\), but.*\(2, 3\) \(chains first\)"):
        weight_of_model(far_model, random.split(random.key(0)), init_params=near)
    # A simplex of 2 has one unconstrained number.
    with pytest.raises(ValueError, match=r"`init_params\['w'\]` has shape \(2,\), but.*\(1,\)"):
        bad = {"w": jnp.ones(2) / 2}
        weight_of_model(rich_model, random.key(0), (A,), {"y": Y}, init_params=bad)


def test_inside_jit_and_vmap():
    def start(key, y):
        return weight_of_model(rich_model, key, (A,), {"y": y}).initial["x"]

    starts = jax.jit(jax.vmap(start, in_axes=(0, None)))(random.split(random.key(0), 3), Y)
    assert starts.shape == (3, 2, 3) and len(np.unique(starts[:, 0, 0])) == 3


# Score sites.


def test_score_sites():
    sites = score_sites(rich_model, (A,), {"y": Y})
    assert {n: (p.batch_shape, p.event_shape) for n, p in sites.items()} == {
        "x": ((2,), (3,)),
        "z": ((), (2,)),
    }
    assert all(isinstance(prior, ScorePrior) for prior in sites.values())
    assert sites["z"].score_model is OTHER
    held = handlers.condition(rich_model, data={"x": jnp.zeros((2, 3))})
    assert list(score_sites(held, (A,), {"y": Y})) == ["z"]


def test_draws_asked_for_by_sample_shape_are_part_of_the_site():
    def model():
        numpyro.sample("x", ScorePrior(MIXTURE), sample_shape=(4,))

    assert score_sites(model)["x"].batch_shape == (4,)
    assert weight_of_model(model, random.key(0)).initial["x"].shape == (4, 3)


def test_no_network_is_called():
    class Counted:
        noise, event_shape, min_time, has_log_density = MIXTURE.noise, (3,), 0.0, False
        calls = 0

        def denoise(self, x, t):
            self.calls += 1
            return MIXTURE.denoise(x, t)

        score, sample = denoise, denoise

    model = Counted()

    def program():
        x = numpyro.sample("x", ScorePrior(model))
        numpyro.sample("y", dist.Normal(x, 1.0).to_event(1), obs=jnp.zeros(3))

    weight = weight_of_model(program, random.key(0))
    weight.constrain(weight.initial, (), None)
    score_sites(program)
    assert model.calls == 0


def test_flat_scores_is_a_handler():
    trace = handlers.trace(handlers.seed(flat_scores(rich_model), random.key(0))).get_trace(A)
    assert isinstance(trace["x"]["fn"], FlatPrior) and trace["x"]["fn"].prior.batch_shape == (2,)
    assert trace["x"]["value"].shape == (2, 3)
    # Twice is the same, and the model itself is untouched.
    twice = handlers.seed(flat_scores(flat_scores(rich_model)), random.key(0))
    np.testing.assert_array_equal(
        handlers.trace(twice).get_trace(A)["x"]["value"], trace["x"]["value"]
    )
    raw = handlers.trace(handlers.substitute(handlers.seed(rich_model, 0), data=unconstrained(0)))
    raw = handlers.substitute(raw, data={"x": jnp.zeros((2, 3)), "w": jnp.ones(2) / 2})
    assert isinstance(handlers.trace(raw).get_trace(A)["x"]["fn"], ScorePrior)
    with pytest.raises(ValueError, match="`key` is missing; seed the model"):
        handlers.trace(flat_scores(rich_model)).get_trace(A)
    assert pickle.loads(pickle.dumps(trace["z"]["fn"])).event_shape == (2,)


# Gibbs.


@pytest.mark.parametrize("key", [random.key(0), random.split(random.key(0), 2)], ids=["1", "2"])
def test_a_conditioned_model(key):
    model = conditioned(rich_model)
    held = {"tau": jnp.array(0.7), "z": jnp.array([1.0, -1.0])}
    kwargs = {"y": Y, GIBBS_SITES_KWARG: held}
    weight = weight_of_model(model, key, (A,), kwargs)
    assert weight.site_names == ("x", "w") and weight.score_site_names == ("x",)
    assert list(score_sites(model, (A,), kwargs)) == ["x"]
    full = unconstrained(0)
    z = {name: full[name] for name in ("x", "w")}
    for tau in (0.7, 1.9):
        kwargs[GIBBS_SITES_KWARG] = {**held, "tau": jnp.array(tau)}
        everything = {**full, "tau": jnp.log(tau), "z": held["z"]}
        # The Jacobian of tau, which is held, is not part of this block.
        expected = rich_by_hand(everything, A, Y) - jnp.log(tau)
        found = jax.jit(weight.log_weight)(z, (A,), kwargs)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert set(weight.constrain(z, (A,), kwargs)) == {"x", "w", "mean"}
