"""The loop defect and the path-chord disagreement of a run: its own moves, at its last states."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from scoreppl.diagnostics import curl, path_chord
from scoreppl.diagnostics.curl import LoopDefect
from scoreppl.diagnostics.path_chord import PathAgainstChord
from scoreppl.diagnostics.run import Run, last_positions
from scoreppl.target import Target

_NUM_LOOPS = 32
_NUM_TRAJECTORIES = 8
_MAX_STEPS = 16
_MAX_POINTS = 8


def loop_defects(run: Run, key: Array) -> dict[str, LoopDefect]:
    """Measure the loop defect of every network site on whose conservativity the run relies.

    Local kernels are judged on their own moves, weight, step size and preconditioner included.
    Annealed kernels with line-integral moves are judged at the lowest level, on moves of the
    prior alone.
    """
    if run.target is None or not run.networks:
        return {}
    if run.is_local:
        return _of_local_moves(run, run.target, key)
    if run.inner in ("mala", "hmc"):
        return {name: _at_floor(run, run.target, name, key) for name in run.networks}
    return {}


def path_disagreement(run: Run, key: Array) -> PathAgainstChord | None:
    """Compare path and chord for trajectories of the run's own length; None where it has none."""
    if run.target is None or not run.is_local or not run.networks:
        return None
    law = run.target
    lengths = run.field("num_steps")
    steps = 1 if lengths is None else min(int(np.median(lengths)), _MAX_STEPS)
    if steps < 2:
        return None
    trajectories = -(-_NUM_TRAJECTORIES // run.num_chains)

    @jax.jit
    def measure(key: Array) -> path_chord.Trajectories:
        start, _ = last_positions(run, law)
        return path_chord.measure_trajectories(key, start, steps, trajectories)

    cost = run.num_chains * path_chord.evaluations_per_start(steps, trajectories)
    step_size = float(jnp.mean(run.state.adapt_state.step_size))
    return path_chord.summarise(measure(key), step_size, steps, cost)


def _of_local_moves(run: Run, target: Target, key: Array) -> dict[str, LoopDefect]:
    # Compiling the Jacobian products of a network costs more than all the rest: no probes.
    num_loops, num_probes = -(-_NUM_LOOPS // run.num_chains), 0
    cost = run.num_chains * curl.evaluations_per_point(num_probes, num_loops)
    langevin_step = float(jnp.mean(run.state.adapt_state.step_size)) ** 2 / 2

    @jax.jit
    def measure(key: Array) -> dict[str, curl.Loops]:
        start, unravel = last_positions(run, target)
        return {
            name: curl.measure_loops(
                key, start, _score_of_site(target, name, unravel), num_probes, num_loops
            )
            for name in run.networks
        }

    return {
        name: curl.summarise(loops, langevin_step, cost) for name, loops in measure(key).items()
    }


def _score_of_site(target: Target, name: str, unravel: Callable) -> Callable[[Array], Array]:
    """Build the score of flat positions that is zero but at one site."""

    def score(x: Array) -> Array:
        z = unravel(x)
        zeros = jax.tree.map(jnp.zeros_like, z)
        return ravel_pytree(zeros | target.score({name: z[name]}, target.floors))[0]

    return score


def _at_floor(run: Run, target: Target, name: str, key: Array) -> LoopDefect:
    model, t = target.score_models[name], target.floors[name]
    draws = run.samples[name][:, -_MAX_POINTS:].reshape(-1, *model.event_shape)[-_MAX_POINTS:]
    alpha, _ = model.noise(t)
    return curl.loop_defect(model, alpha * draws, t, key=key, num_probes=0)
