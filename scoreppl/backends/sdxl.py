"""Stable Diffusion XL in JAX: the UNet by torchax, latents as the event, images as what weighs."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from scoreppl import compose
from scoreppl.arguments import check_count
from scoreppl.backends import prompts
from scoreppl.backends.extras import load
from scoreppl.backends.folders import folder_of, read_config, read_tensors, usual_variant
from scoreppl.backends.latent import Autoencoder, LatentDiffusion
from scoreppl.backends.plain import from_callable
from scoreppl.backends.torch_call import jax_call, on_meta, shapes_of
from scoreppl.backends.unconditional import read_schedule

_NEEDED_BY = "sdxl"


def sdxl(
    folder_or_id: str | os.PathLike[str],
    *,
    prompt: str,
    negative_prompt: str = "",
    guidance_scale: float = 5.0,
    height: int = 1024,
    width: int = 1024,
    dtype: Any = jnp.float32,
    autoencoder: str | os.PathLike[str] | None = None,
    tiled: bool = False,
    variant: str = "",
) -> LatentDiffusion:
    """Read Stable Diffusion XL (Podell et al., arXiv:2307.01952) as a score model of latents.

    Needs ``pip install 'scoreppl[sdxl]'``. Weights are read from safetensors alone, tensor by
    tensor, and are arguments of every compiled program. In a model::

        z = numpyro.sample("z", sp.ScorePrior(backend))
        image = numpyro.deterministic("image", backend.decode(z))
        numpyro.factor("reward", reward(image))

    Parameters
    ----------
    folder_or_id
        Folder in the layout of diffusers (``unet``, ``vae``, ``text_encoder``, ``text_encoder_2``,
        ``tokenizer``, ``tokenizer_2``, ``scheduler``), or the id of a hub's model, which is
        fetched.
    prompt, negative_prompt
        Texts. An empty negative prompt is embedded as zeros, as the model was trained.
    guidance_scale
        Of classifier-free guidance, at two calls of the UNet; 1: none, at one call.
    height, width
        Of the image, multiples of what the autoencoder shrinks by (8).
    dtype
        Of the UNet's parameters and of what it computes; ``jnp.bfloat16`` on accelerators. The
        autoencoder stays in float32, in which alone it is stable.
    autoencoder
        Another folder's, such as TAESDXL's (an ``AutoencoderTiny``): a thousandth of the work.
    tiled
        Whether the autoencoder works tile by tile, for memory, where the image is larger than one
        tile of diffusers; tiles overlap and are blended, so that the image is slightly another.
        Slicing, one image of a batch at a time, has no switch: `decode` takes one latent.
    variant
        Such as ``"fp16"``, where file names have it; parts that come in one form alone are read so.

    Returns
    -------
    LatentDiffusion
        Score model of latents of shape (4, height / 8, width / 8), with ``decode`` and ``encode``.

    Raises
    ------
    ImportError
        If the extra is missing.
    ValueError
        If the folder is none of this kind, a file is damaged or pickled, a prompt is too long, or
        a size does not fit.
    """
    for name, text in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if not isinstance(text, str):
            raise ValueError(f"`{name}` of type {type(text).__name__} must be one text.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"`dtype={jnp.dtype(dtype)}` must be a floating-point type.")
    height, width = check_count("height", height, 0), check_count("width", width, 0)
    diffusers = load("diffusers", extra="sdxl", needed_by=_NEEDED_BY)
    folder = folder_of(folder_or_id, _NEEDED_BY, variant)
    config = read_config(folder, "unet/config.json")
    if config.get("_class_name") != "UNet2DConditionModel" or (
        config.get("addition_embed_type") != "text_time"
    ):
        raise ValueError(
            f"`{folder}` has a {config.get('_class_name')} with addition_embed_type="
            f"{config.get('addition_embed_type')!r}: it is no Stable Diffusion XL."
        )
    if not guidance_scale >= 1.0:
        raise ValueError(f"`guidance_scale={guidance_scale}` must be at least 1, which is none.")
    noise, prediction, _ = read_schedule(folder)
    coder, factor = read_autoencoder(autoencoder or folder / "vae", tiled=tiled, variant=variant)
    for name, size in (("height", height), ("width", width)):
        if size < factor or size % factor:
            raise ValueError(f"`{name}={size}` must be a positive multiple of {factor}.")
    shape = (config["in_channels"], height // factor, width // factor)
    positive = prompts.embed(folder, prompt, dtype, variant)
    module = on_meta(lambda: diffusers.UNet2DConditionModel.from_config(config), _NEEDED_BY)
    params = read_tensors(folder / "unet", shapes_of(module), dtype=dtype, variant=variant)
    call = jax_call(module, _NEEDED_BY)
    num_steps = len(noise.log_snr_table)
    # Original size, corner of the crop, wanted size.
    sizes = jnp.asarray([[height, width, 0, 0, height, width]], dtype)

    def unet(params: Any, x: Array, t: Array, embedding: tuple[Array, Array]) -> Array:
        hidden, pooled = embedding
        output = call(
            params, x.astype(dtype), (num_steps - 1) * t, hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}, return_dict=False,
        )[0]  # fmt: skip
        return output.astype(x.dtype)

    network = from_callable(
        unet, params, noise=noise, prediction=prediction, event_shape=shape, condition=positive,
        batched=True, min_time=0.0,
    )  # fmt: skip
    if guidance_scale > 1.0:
        is_empty = not negative_prompt and read_config(folder, "model_index.json").get(
            "force_zeros_for_empty_prompt", True
        )
        negative = (
            prompts.nothing_like(positive)
            if is_empty
            else prompts.embed(folder, negative_prompt, dtype, variant)
        )
        network = compose.classifier_free(
            network, replace(network, condition=negative), guidance_scale
        )
    return LatentDiffusion(network, coder)


def read_autoencoder(
    folder_or_id: str | os.PathLike[str] | Path, *, tiled: bool = False, variant: str = ""
) -> tuple[Autoencoder, int]:
    """Read an ``AutoencoderKL`` or ``AutoencoderTiny``, and by how much it shrinks images.

    Raises
    ------
    ValueError
        If the folder holds none of them, or a file is damaged or pickled.
    """
    diffusers = load("diffusers", extra="sdxl", needed_by=_NEEDED_BY)
    interop = load("torchax.interop", extra="sdxl", needed_by=_NEEDED_BY)
    folder = folder_of(folder_or_id, _NEEDED_BY, variant)
    config = read_config(folder, "config.json")
    kind = config.get("_class_name")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(f"`{folder}` has a {kind}; known are AutoencoderKL and AutoencoderTiny.")
    is_tiny = kind == "AutoencoderTiny"
    if is_tiny:
        # What the class itself writes and then warns of.
        config.pop("block_out_channels", None)
    module = on_meta(lambda: getattr(diffusers, kind).from_config(config), _NEEDED_BY)
    if tiled:
        module.enable_tiling()
    params = read_tensors(
        folder, shapes_of(module), dtype=jnp.float32, variant=usual_variant(folder, variant)
    )
    decode = jax_call(module, _NEEDED_BY, "decode")
    encode = jax_call(module, _NEEDED_BY, "encode")

    def encoded(params: Any, images: Array) -> Array:
        found = encode(params, images, return_dict=False)[0]
        # A distribution is no pytree: its tensors are still torchax's.
        return found if is_tiny else interop.jax_view(found.mean)

    scale, shift = config.get("scaling_factor", 1.0), config.get("shift_factor") or 0.0
    mean, sd = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and sd is not None:
        # Then the network's latents are standardised, channel by channel.
        scale, shift = (jnp.asarray(each)[:, None, None] for each in (scale / np.asarray(sd), mean))
    autoencoder = Autoencoder(
        lambda params, latents: decode(params, latents, return_dict=False)[0], encoded, params,
        scale=scale, shift=shift,
    )  # fmt: skip
    channels = config["decoder_block_out_channels" if is_tiny else "block_out_channels"]
    return autoencoder, 2 ** (len(channels) - 1)
