"""Text embeddings of Stable Diffusion XL, once for each prompt."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from scoreppl.backends.extras import load
from scoreppl.backends.folders import check_safetensors, read_config

_NEEDED_BY = "sdxl"


def embed(folder: Path, prompt: str, dtype: Any, variant: str = "") -> tuple[Array, Array]:
    """Embed a prompt by both text encoders of a folder.

    The hidden states are those before the last layer, side by side; the pooled embedding is the
    projection of the second encoder (Podell et al., arXiv:2307.01952).

    Returns
    -------
    tuple
        Hidden states, shape ``(1, tokens, d1 + d2)``, and the pooled embedding, ``(1, d2)``.

    Raises
    ------
    ValueError
        If the prompt has more tokens than the encoders take, or a file is missing or damaged.
    """
    torch = load("torch", extra="sdxl", needed_by=_NEEDED_BY)
    transformers = load("transformers", extra="sdxl", needed_by=_NEEDED_BY)
    hidden, pooled = [], None
    for number, kind in ((1, "CLIPTextModel"), (2, "CLIPTextModelWithProjection")):
        end = "" if number == 1 else "_2"
        place = folder / f"text_encoder{end}"
        read_config(place, "config.json")
        used = check_safetensors(place, variant)
        tokens = _tokens(transformers, folder / f"tokenizer{end}", prompt)
        try:
            with _no_progress_bars(transformers):
                encoder, found = getattr(transformers, kind).from_pretrained(
                    place, use_safetensors=True, local_files_only=True, dtype=torch.float32,
                    variant=used, output_loading_info=True,
                )  # fmt: skip
        except (OSError, RuntimeError) as error:
            raise ValueError(f"`{place}` could not be read as a {kind}: {error}") from error
        # transformers fills what a file lacks with random numbers.
        if found["missing_keys"]:
            raise ValueError(
                f"The files in `{place}` lack {len(found['missing_keys'])} tensors, such as "
                f"`{sorted(found['missing_keys'])[0]}`: configuration and weights are of different "
                "models."
            )
        with torch.no_grad():
            output = encoder.eval()(tokens, output_hidden_states=True)
        hidden.append(output.hidden_states[-2].numpy())
        pooled = output[0].numpy()
    return jnp.asarray(np.concatenate(hidden, -1), dtype), jnp.asarray(pooled, dtype)


def nothing_like(embedding: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return what Stable Diffusion XL was trained to take for no prompt: zeros."""
    return jnp.zeros_like(embedding[0]), jnp.zeros_like(embedding[1])


@contextmanager
def _no_progress_bars(transformers: Any) -> Iterator[None]:
    """Keep transformers from drawing a bar for each of two small files."""
    logging = transformers.utils.logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _tokens(transformers: Any, place: Path, prompt: str) -> Any:
    if not place.is_dir():
        raise ValueError(f"`{place.parent}` has no folder {place.name}: it is no SDXL folder.")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(place, local_files_only=True)
    most = tokenizer.model_max_length
    count = len(tokenizer(prompt, verbose=False).input_ids)
    if count > most:
        raise ValueError(
            f"`prompt` has {count} tokens, start and end among them, and the text encoders take "
            f"{most}: shorten it, or nothing of its end would be seen. It begins: {prompt[:60]!r}"
        )
    return tokenizer(prompt, padding="max_length", max_length=most, return_tensors="pt").input_ids
