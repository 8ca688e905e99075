"""Unconditional image pipelines of diffusers (DDPM, DDIM) as score models."""

import os
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from scoreppl.backends.extras import load
from scoreppl.backends.folders import folder_of, part_of, read_config, read_tensors
from scoreppl.backends.plain import from_callable
from scoreppl.backends.torch_call import jax_call, on_meta, shapes_of
from scoreppl.noise import DiscreteVP
from scoreppl.score import ScoreNetwork
from scoreppl.score.prediction import to_denoised, to_epsilon

PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
_NEEDED_BY = "from_diffusers"
# Schedulers of networks trained on a discrete variance-preserving chain, and whether they clip
# where the configuration does not say. Others mean another schedule or parametrisation.
SCHEDULERS = {
    "DDPMScheduler": True, "DDIMScheduler": True, "DDPMParallelScheduler": True,
    "DDIMParallelScheduler": True, "PNDMScheduler": False, "LMSDiscreteScheduler": False,
    "EulerDiscreteScheduler": False, "EulerAncestralDiscreteScheduler": False,
    "HeunDiscreteScheduler": False, "KDPM2DiscreteScheduler": False,
    "KDPM2AncestralDiscreteScheduler": False, "DPMSolverMultistepScheduler": False,
    "DPMSolverSinglestepScheduler": False, "DPMSolverSDEScheduler": False,
    "DEISMultistepScheduler": False, "UniPCMultistepScheduler": False,
}  # fmt: skip


def from_diffusers(
    folder_or_id: str | os.PathLike[str],
    *,
    event_shape: tuple[int, ...] | None = None,
    class_label: int | None = None,
    clip: bool | None = None,
    dtype: Any = jnp.float32,
    variant: str = "",
    check_data: ArrayLike | None = None,
) -> ScoreNetwork:
    """Read an unconditional pipeline (``UNet2DModel`` and its scheduler) as a score model.

    Needs ``pip install 'scoreppl[sdxl]'``. Weights are read from safetensors alone.

    Parameters
    ----------
    folder_or_id
        Folder with ``unet/`` and ``scheduler/``, or the id of a hub's model, which is fetched.
    event_shape
        (channels, height, width); None: as the configuration says.
    class_label
        For networks with classes.
    clip
        Whether the denoised image is clipped to the range of the data, as the pipeline's own
        sampler does; None: as the scheduler's configuration says. With it the score is no longer
        the network's where an entry is clipped.
    dtype
        Of the parameters.
    variant
        Such as ``"fp16"``, where file names have it.
    check_data
        As of `from_callable`.

    Returns
    -------
    ScoreNetwork
        Score model of images of shape `event_shape`, in [-1, 1]; t in [0, 1] stands for the time
        steps 0 to N - 1.

    Raises
    ------
    ImportError
        If the extra is missing.
    ValueError
        If the folder is none of this kind, a file is damaged or pickled, weights do not fit the
        configuration, or as `from_callable`.
    """
    diffusers = load("diffusers", extra="sdxl", needed_by=_NEEDED_BY)
    folder = folder_of(folder_or_id, _NEEDED_BY, variant)
    place = part_of(folder, "unet")
    config = read_config(place, "config.json")
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(
            f"`{folder}` has a {config.get('_class_name')} and no UNet2DModel: it is no "
            "unconditional pipeline. For Stable Diffusion XL use sp.backends.sdxl."
        )
    noise, prediction, clip_range = read_schedule(folder)
    module = on_meta(lambda: diffusers.UNet2DModel.from_config(config), _NEEDED_BY)
    params = read_tensors(place, shapes_of(module), dtype=dtype, variant=variant)
    call = jax_call(module, _NEEDED_BY)
    has_classes = config.get("num_class_embeds") is not None
    if has_classes != (class_label is not None):
        raise ValueError(
            f"`class_label={class_label}` does not fit: the network has "
            f"{config.get('num_class_embeds') or 'no'} classes."
        )
    size = config.get("sample_size")
    if event_shape is None:
        if size is None:
            raise ValueError("The configuration has no sample size; pass `event_shape`.")
        height, width = (size, size) if isinstance(size, int) else size
        event_shape = (config["in_channels"], height, width)
    is_clipped = clip_range if clip or (clip is None and clip_range is not None) else None
    if clip and clip_range is None:
        is_clipped = 1.0
    num_steps = len(noise.log_snr_table)

    def fn(params: Any, x: Array, t: Array) -> Array:
        label = {} if class_label is None else {"class_labels": jnp.full(len(x), class_label)}
        step = (num_steps - 1) * t
        output = call(params, x.astype(dtype), step, return_dict=False, **label)[0]
        output = output.astype(x.dtype)
        # A network of twice the channels also predicts a variance, which no score needs.
        output = output[:, : x.shape[1]]
        if is_clipped is None:
            return output
        return clipped(prediction, output, x, t[0], noise, is_clipped)

    return from_callable(
        fn, params, noise=noise, prediction=prediction if is_clipped is None else "epsilon",
        event_shape=event_shape, batched=True, min_time=0.0, check_data=check_data,
    )  # fmt: skip


def clipped(
    prediction: str, output: Array, x: Array, t: Array, noise: DiscreteVP, reach: float
) -> Array:
    """Return the noise that a denoised image clipped to [-reach, reach] leaves in `x`."""
    epsilon = to_epsilon(prediction, output, x, t, noise)
    denoised = to_denoised(prediction, output, x, t, noise)
    alpha, sigma = noise(t)
    bounded = (x - alpha * jnp.clip(denoised, -reach, reach)) / sigma
    # The network's own noise where nothing is clipped: the detour would lose digits.
    return jnp.where(jnp.abs(denoised) > reach, bounded, epsilon)


def read_schedule(folder: Any) -> tuple[DiscreteVP, str, float | None]:
    """Read the schedule, prediction type and clipping range (None: no clipping) of a pipeline.

    Raises
    ------
    ValueError
        If the configuration is missing or of a kind that is not known.
    """
    config = read_config(part_of(folder, "scheduler"), "scheduler_config.json")
    scheduler = config.get("_class_name")
    if scheduler not in SCHEDULERS:
        raise ValueError(
            f"The scheduler in `{folder}` is a {scheduler}, whose networks are of another "
            "parametrisation than those of DDPM; wrap the network by sp.backends.from_torch with "
            "its own schedule."
        )
    if config.get("thresholding"):
        raise ValueError(
            f"`{folder}` wants dynamic thresholding, which makes no score; use another pipeline."
        )
    given = config.get("prediction_type", "epsilon")
    if given not in PREDICTION_TYPES:
        raise ValueError(
            f"The scheduler in `{folder}` has prediction_type={given!r}; known are "
            f"{', '.join(map(repr, PREDICTION_TYPES))}."
        )
    kind = config.get("beta_schedule", "linear")
    steps = config.get("num_train_timesteps", 1000)
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if config.get("trained_betas") is not None:
        noise = DiscreteVP(np.cumprod(1 - np.asarray(config["trained_betas"], np.float64)))
    elif kind == "linear":
        noise = DiscreteVP.linear(steps, *ends)
    elif kind == "scaled_linear":
        noise = DiscreteVP.scaled_linear(steps, *ends)
    elif kind == "squaredcos_cap_v2":
        noise = DiscreteVP(np.cumprod(1 - _cosine_betas(steps)))
    else:
        raise ValueError(
            f"The scheduler in `{folder}` has beta_schedule={kind!r}; known are 'linear', "
            "'scaled_linear' and 'squaredcos_cap_v2'."
        )
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(
            f"The scheduler in `{folder}` is rescaled to no signal at its last step, where a score "
            "has no denoiser; use a pipeline without `rescale_betas_zero_snr`."
        )
    is_clipped = config.get("clip_sample", SCHEDULERS[scheduler])
    reach = float(config.get("clip_sample_range", 1.0)) if is_clipped else None
    return noise, PREDICTION_TYPES[given], reach


def _cosine_betas(num_steps: int) -> np.ndarray:
    """Betas of Nichol and Dhariwal (arXiv:2102.09672), at most 0.999."""
    t = np.arange(num_steps + 1) / num_steps
    squares = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - squares[1:] / squares[:-1], 0.999)
