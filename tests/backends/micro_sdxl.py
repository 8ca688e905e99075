"""A Stable Diffusion XL folder of the exact layout with random weights, small enough for a test."""

import json

import diffusers
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

SIZE = 32  # of the image; latents are an eighth


def write(folder, **unet):
    """Write the folder, and return its pipeline in PyTorch."""
    torch.manual_seed(0)
    tokenizer = _tokenizer(folder)
    first = CLIPTextModel(_text(hidden_size=32, projection_dim=32))
    second = CLIPTextModelWithProjection(_text(hidden_size=32, projection_dim=32))
    network = diffusers.UNet2DConditionModel(**(UNET | unet))
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4,
        norm_num_groups=4, scaling_factor=0.13025, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        steps_offset=1,
    )  # fmt: skip
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae.eval(), first.eval(), second.eval(), tokenizer, tokenizer, network.eval(), scheduler,
        force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


UNET = {
    "sample_size": SIZE // 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1,
    "block_out_channels": (16, 32), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2), "use_linear_projection": True, "norm_num_groups": 8,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80, "cross_attention_dim": 64,
}  # fmt: skip


def _text(**sizes):
    return CLIPTextConfig(
        vocab_size=600, intermediate_size=37, num_attention_heads=4, num_hidden_layers=3,
        max_position_embeddings=77, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        hidden_act="gelu", **sizes,
    )  # fmt: skip


def _tokenizer(folder):
    """Write a vocabulary of single characters."""
    place = folder / "written"
    place.mkdir(parents=True)
    letters = [chr(code) for code in range(33, 127)]
    words = letters + [letter + "</w>" for letter in letters]
    words += [f"unused{number}" for number in range(512 - len(words))]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (place / "vocab.json").write_text(json.dumps(vocabulary))
    (place / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(place, model_max_length=77)
