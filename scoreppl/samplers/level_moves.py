r"""Metropolis moves on a noise level's marginal, accepted by the line integral.

At level t the target is p_t(x) w(D(x, t), theta): the noisy prior times the weight at the
denoised mean, and w itself at the lowest level. A level is entered by one ancestral step from
the one above, followed by jumps through noisier levels: moves alone leave modes with the masses
that they had when hopping froze. Ordinary latents then move alone, and with the score sites in
every move. The weight's gradient passes through the denoiser, at the price
of one vector-Jacobian product a move. Annealed in this way by Sjöberg et al., arXiv:2307.14012, and
Du et al., arXiv:2302.11552, there without ordinary latents.
"""

# blackjax annotates arrays as float and its states as bare protocols, hence
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportOperatorIssue=false, reportReturnType=false, reportAssignmentType=false
# pyright: reportOptionalCall=false
import jax
import jax.numpy as jnp
from blackjax.base import SamplingAlgorithm
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl import mcmc
from scoreppl.line_integral import Quadrature, as_quadrature
from scoreppl.samplers import renoising
from scoreppl.samplers.inner import Inner, Level, StepInfo, map_sites
from scoreppl.samplers.renoising import log_snrs
from scoreppl.samplers.weight_moves import barker
from scoreppl.score import ScoreModel
from scoreppl.solvers import ancestral
from scoreppl.target import Position, Target


def level_moves(
    *,
    num_steps: int = 12,
    num_integration_steps: int = 1,
    quadrature: str | Quadrature | None = None,
    batch_nodes: bool = True,
    target_acceptance_rate: float = 0.6,
    num_jumps: int | None = None,
    num_jump_steps: int = 16,
    num_latent_moves: int | None = None,
) -> Inner:
    """Build the line-integral inner move: MALA for one integration step, HMC for more.

    Parameters
    ----------
    num_steps
        Moves a level.
    num_integration_steps
        Leapfrog steps a move.
    quadrature
        Rule for the prior's log-ratio; None takes exact log densities where all score sites
        have one and Simpson's rule otherwise.
    batch_nodes
        Evaluate quadrature nodes in one batched call.
    target_acceptance_rate
        What warm-up aims at.
    num_jumps
        Jumps on entering a level (see `jump`); None: as many as moves.
    num_jump_steps
        Reverse steps of a jump.
    num_latent_moves
        Moves of the ordinary latents alone on entering a level (see `move_latents`); None: as
        many as moves.
    """
    rule = as_quadrature(quadrature or "simpson")
    jumps = num_steps if num_jumps is None else num_jumps
    latent_moves = num_steps if num_latent_moves is None else num_latent_moves

    def algorithm(
        target: Target, level: Level, step_size: Array, inverse_mass: Array
    ) -> SamplingAlgorithm:
        exact = target.has_log_density and quadrature is None
        return mcmc.hmc(
            lambda z: target.score(z, level.times),
            lambda z: level_log_weight(z, target, level),
            step_size=step_size,
            inverse_mass_matrix=inverse_mass,
            num_integration_steps=num_integration_steps,
            quadrature=rule,
            log_density_fn=(lambda z: target.log_density(z, level.times)) if exact else None,
            batch_nodes=batch_nodes,
        )

    def enter(key: Array, position: Position, target: Target, level: Level) -> mcmc.ScoreState:
        def reverse(key: Array, model: ScoreModel, u: Array, name: str) -> Array:
            noise = model.noise
            pair = jnp.stack([level.previous[name], level.times[name]])
            alpha, _ = noise(pair)
            return ancestral(key, alpha[0] * u, pair, model.denoise, noise) / alpha[1]

        def one_jump(position: Position, key: Array) -> tuple[Position, None]:
            return jump(key, position, target, level, num_jump_steps), None

        key_reverse, key_jumps = jax.random.split(key)
        key_latents = jax.random.fold_in(key, 2)
        moved = map_sites(key_reverse, position, target, reverse)
        if jumps:
            moved, _ = jax.lax.scan(one_jump, moved, jax.random.split(key_jumps, jumps))
        if latent_moves and has_latents(target, moved):
            moved = move_latents(key_latents, moved, target, level, latent_moves)
        size = ravel_pytree(moved)[0].size
        return algorithm(target, level, jnp.ones(()), jnp.ones(size)).init(moved)

    def step(
        key: Array,
        state: mcmc.ScoreState,
        target: Target,
        level: Level,
        step_size: Array,
        inverse_mass: Array,
    ) -> tuple[mcmc.ScoreState, StepInfo]:
        state, info = algorithm(target, level, step_size[0], inverse_mass).step(key, state)
        force = ravel_pytree(state.prior_score)[0] + ravel_pytree(state.weight_gradient)[0]
        return state, StepInfo(info.acceptance_rate[None], force**2, info.is_nan)

    def evaluations(target: Target, position: Position, level: Level) -> Array:
        # A segment: the score at its end and the quadrature's nodes (or two log densities),
        # and one VJP through the denoiser for the weight. Entering: one denoiser, one start.
        exact = target.has_log_density and quadrature is None
        nodes = 2 if exact else len(rule.interior)
        # At the last level the weight does not pass through the denoiser.
        through = jnp.where(level.is_last, 0, 2)
        moves = num_steps * num_integration_steps * (1 + nodes + through)
        # Latents that move alone need the denoised mean once.
        seen = through // 2 if latent_moves and has_latents(target, position) else 0
        return 2 + through + seen + jumps * (num_jump_steps + through) + moves

    return Inner(
        enter,
        step,
        lambda state: state.position,
        lambda target, position: 1,
        1,
        num_steps,
        evaluations,
        (target_acceptance_rate,),
        True,
    )


def level_log_weight(position: Position, target: Target, level: Level) -> Array:
    """Log weight at the denoised mean; at the lowest level, of the position itself."""
    return jax.lax.cond(
        level.is_last,
        target.log_weight,
        lambda z: target.log_weight(target.denoise(z, level.times)),
        position,
    )


def has_latents(target: Target, position: Position) -> bool:
    """Whether there are sites beside the score sites."""
    return len(position) > len(target.score_models)


def move_latents(
    key: Array, position: Position, target: Target, level: Level, num_moves: int
) -> Position:
    """Move the ordinary latents given the score sites, by Barker steps of random length.

    A draw may start where its weight is very stiff, at a tiny noise scale from a wide prior, say.
    The step size that suits the other draws is rejected there for ever, and the draw would end
    where it began. Barker's proposals point back from any distance, and of lengths between 0.01
    and 10, drawn anew each time, some fit. No network call but one, for the denoised mean.
    """
    seen = jax.lax.cond(
        level.is_last, lambda z: z, lambda z: target.denoise(z, level.times), position
    )
    fixed = {name: seen[name] for name in target.score_models}
    start, unravel = ravel_pytree({n: v for n, v in position.items() if n not in fixed})
    move = barker()

    def log_density(theta: Array) -> Array:
        return target.log_weight(fixed | unravel(theta))

    def one(state: mcmc.ScoreState, key: Array) -> tuple[mcmc.ScoreState, None]:
        key_length, key_move = jax.random.split(key)
        length = 10.0 ** jax.random.uniform(key_length, minval=-2.0, maxval=1.0)
        return move.step(key_move, state, log_density, length, jnp.ones_like(start))[0], None

    keys = jax.random.split(key, num_moves)
    state, _ = jax.lax.scan(one, move.init(start, log_density), keys)
    return position | unravel(state.position)


def jump(key: Array, position: Position, target: Target, level: Level, num_steps: int) -> Position:
    """Jump from p_t w(D) through a noisier level and back (`scoreppl.samplers.renoising.jump`)."""
    goals = log_snrs(target, level.times)
    return renoising.jump(
        key, position, target, level, goals, num_steps,
        lambda z: level_log_weight(z, target, level),
    )  # fmt: skip
