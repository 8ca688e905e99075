"""Stable Diffusion XL on a micro folder of the exact layout; skipped without its extra."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

import scoreppl as sp
from scoreppl.score.flow import flow_map
from scoreppl.solvers import dpm_solver

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

pytest.importorskip("torchax")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
micro_sdxl = pytest.importorskip("tests.backends.micro_sdxl")

PROMPT = "a red fox"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sdxl")


@pytest.fixture(scope="module")
def pipeline(folder):
    return micro_sdxl.write(folder)


def read(folder, **options):
    options = {"prompt": PROMPT, "guidance_scale": 3.0, "height": 32, "width": 32} | options
    return sp.backends.sdxl(folder, **options)


def close(found, expected, share=1e-4):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < share * np.abs(expected).max()


@pytest.mark.parametrize("negative", ["", "a wolf"])
def test_embeddings_are_those_of_the_pipeline(folder, pipeline, negative):
    members = read(folder, negative_prompt=negative).network.models
    wanted = pipeline.encode_prompt(
        PROMPT, negative_prompt=negative or None, do_classifier_free_guidance=True
    )
    for member, place in ((members[0], 0), (members[1], 1)):
        for found, expected in zip(member.condition, wanted[place::2], strict=True):
            error = np.abs(np.asarray(found) - expected.detach().numpy()).max()
            assert error <= 1e-4 * np.abs(expected.detach().numpy()).max()
    assert np.any(members[1].condition[0]) == bool(negative)


@pytest.mark.slow
def test_a_whole_guided_run_is_that_of_the_pipeline(folder, pipeline):
    """Eight DDIM steps, two UNet calls each, decoded."""
    backend = read(folder)
    pipeline.scheduler.set_timesteps(8)
    times = pipeline.scheduler.timesteps.numpy() / 999
    z = np.random.default_rng(0).standard_normal(backend.event_shape).astype(np.float32)
    found = jax.jit(flow_map(backend, num_steps=8, solver=dpm_solver(1), spacing=times))(z)
    start = torch.tensor(z[None] * float(backend.noise(times[0])[1]))
    options = {"num_inference_steps": 8, "guidance_scale": 3.0, "height": 32, "width": 32}
    latent = pipeline(PROMPT, latents=start, output_type="latent", **options).images[0]
    image = pipeline(PROMPT, latents=start, output_type="np", **options).images[0]
    close(found, latent.detach().numpy())
    decoded = np.moveaxis(np.asarray(backend.decode(found)), 0, -1)
    close(decoded, image)
    with torch.no_grad():
        back = pipeline.vae.encode(torch.tensor(2 * np.moveaxis(image, -1, 0)[None] - 1))
    close(backend.encode(jnp.moveaxis(image, -1, 0)), 0.13025 * back.latent_dist.mode()[0].numpy())


def test_the_decoder_has_the_gradient_of_torch(folder, pipeline):
    backend = read(folder, guidance_scale=1.0)
    assert isinstance(backend.network, sp.ScoreNetwork)
    latent = 0.2 * np.random.default_rng(1).standard_normal(backend.event_shape).astype(np.float32)
    found = jax.jit(jax.grad(lambda z: jnp.mean(backend.decode(z) ** 2)))(latent)
    z = torch.tensor(latent[None], requires_grad=True)
    image = pipeline.vae.decode(z / 0.13025).sample
    torch.mean(torch.clip(0.5 * image + 0.5, 0, 1) ** 2).backward()
    close(found, z.grad[0].numpy(), 1e-3)


def test_a_tiny_autoencoder_in_place_of_the_whole(folder, pipeline, tmp_path):
    torch.manual_seed(1)
    tiny = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1),
    ).eval()  # fmt: skip
    tiny.save_pretrained(tmp_path)
    backend = read(folder, guidance_scale=1.0, autoencoder=tmp_path)
    latent = np.random.default_rng(1).standard_normal(backend.event_shape).astype(np.float32)
    with torch.no_grad():
        image = tiny.decode(torch.tensor(latent[None])).sample[0].numpy()
        close(backend.decode(latent), np.clip(0.5 * image + 0.5, 0, 1))
        pixels = np.random.default_rng(2).random((3, 32, 32)).astype(np.float32)
        close(backend.encode(pixels), tiny.encode(torch.tensor(2 * pixels[None] - 1)).latents[0])


def test_a_tiled_autoencoder_is_that_of_torch(folder, pipeline):
    """Two by two tiles of latents, blended; jit and gradients go through it."""
    options = {"guidance_scale": 1.0, "height": 48, "width": 48}
    backend, whole = (read(folder, tiled=tiled, **options) for tiled in (True, False))
    draws = np.random.default_rng(1)
    latent = 0.2 * draws.standard_normal(backend.event_shape).astype(np.float32)
    pixels = draws.random((3, 48, 48)).astype(np.float32)
    pipeline.vae.enable_tiling()
    try:
        z = torch.tensor(latent[None], requires_grad=True)
        image = torch.clip(0.5 * pipeline.vae.decode(z / 0.13025).sample + 0.5, 0, 1)
        torch.mean(image**2).backward()
        back = pipeline.vae.encode(torch.tensor(2 * pixels[None] - 1)).latent_dist.mode()[0]
    finally:
        pipeline.vae.disable_tiling()
    found = jax.jit(lambda backend, z: backend.decode(z))(backend, latent)
    close(found, image[0].detach().numpy())
    # Not by decoding it whole.
    assert np.abs(found - whole.decode(latent)).max() > 1e-3
    slope = jax.jit(jax.grad(lambda z, backend: jnp.mean(backend.decode(z) ** 2)))(latent, backend)
    close(slope, z.grad[0].numpy(), 1e-3)
    close(backend.encode(pixels), 0.13025 * back.detach().numpy())


@pytest.mark.slow
def test_numpyro_models_of_the_image_run_by_three_kernels(tmp_path):
    micro_sdxl.write(tmp_path, block_out_channels=(8, 8), transformer_layers_per_block=(1, 1))
    backend = read(tmp_path, guidance_scale=1.0)

    def model():
        z = numpyro.sample("z", sp.ScorePrior(backend))
        image = numpyro.deterministic("image", backend.decode(z))
        numpyro.factor("reward", 2.0 * jnp.mean(image))

    lags = sp.guidance.LAGS(hvp="none")
    guided = sp.GuidedDiffusion(model, guidance=lags, num_steps=4, num_pilots=4, block_size=4)
    annealed = sp.AnnealedScoreMCMC(model, num_levels=4, block_size=4)
    for kernel in (guided, annealed):
        mcmc = MCMC(kernel, num_warmup=4, num_samples=4, progress_bar=False)
        mcmc.run(jax.random.key(0))
        images = mcmc.get_samples()["image"]
        assert images.shape == (4, 3, 32, 32) and np.all((images >= 0) & (images <= 1))
    smc = sp.ScoreSMC(model, num_particles=8, num_steps=4, num_pilots=4, guidance=lags)
    smc.run(jax.random.key(1))
    assert np.isfinite(smc.log_evidence)


@pytest.mark.slow
def test_moments_matched_and_draws_ahead_on_a_network_of_latents(tmp_path):
    """A linear observation of the latent, and a reward that is looked at from outside alone."""
    micro_sdxl.write(tmp_path, block_out_channels=(8, 8), transformer_layers_per_block=(1, 1))
    backend = read(tmp_path, guidance_scale=1.0)
    y = jnp.ones(16)

    def observed():
        z = numpyro.sample("z", sp.ScorePrior(backend))
        numpyro.sample("y", dist.Normal(z[0].ravel(), 0.5).to_event(1), obs=y)

    def brightness(z):
        return jax.lax.stop_gradient(jnp.mean(backend.decode(z)))

    def rewarded():
        numpyro.factor("reward", 2.0 * brightness(numpyro.sample("z", sp.ScorePrior(backend))))

    ahead = backend.sample(jax.random.key(3), (4,), num_steps=3)
    lidar = sp.guidance.Lookahead(
        ahead.reshape(4, -1), jnp.stack([brightness(z) for z in ahead]), tilt=2.0
    )
    matched = sp.guidance.MomentMatched(lambda x: x[:16], y, 0.5, num_iterations=1)
    for model, guidance in ((observed, matched), (rewarded, lidar)):
        kernel = sp.GuidedDiffusion(
            model, guidance=guidance, num_steps=4, num_pilots=4, block_size=4
        )
        mcmc = MCMC(kernel, num_warmup=4, num_samples=4, progress_bar=False)
        mcmc.run(jax.random.key(0), extra_fields=("log_weight", "is_nan"))
        fields = mcmc.get_extra_fields()
        assert np.all(np.isfinite(fields["log_weight"])) and not np.any(fields["is_nan"])
        assert np.all(np.isfinite(mcmc.get_samples()["z"]))


def test_the_true_configuration_has_its_shapes():
    """2.57 billion parameters, none of them in memory."""
    from scoreppl.backends.torch_call import jax_call, on_meta, shapes_of

    module = on_meta(
        lambda: diffusers.UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "sdxl",
    )  # fmt: skip
    shapes = shapes_of(module)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 2_567_463_684
    params = {name: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for name, shape in shapes.items()}
    call = jax_call(module, "sdxl")

    def unet(params, x, t, hidden, pooled, sizes):
        added = {"text_embeds": pooled, "time_ids": sizes}
        return call(params, x, t, hidden, added_cond_kwargs=added, return_dict=False)[0]

    half = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((2, 77, 2048), (2, 1280), (2, 6))
    ]
    x = jax.ShapeDtypeStruct((2, 4, 128, 128), jnp.bfloat16)
    t = jax.ShapeDtypeStruct((2,), jnp.float32)
    assert jax.eval_shape(unet, params, x, t, *half).shape == x.shape


def test_half_precision_files_and_standardised_latents(folder, pipeline, tmp_path):
    """A folder saved with ``variant="fp16"``, of a model whose autoencoder has channel moments."""
    pipeline.save_pretrained(tmp_path, variant="fp16")
    mean, sd = [1.0, -1.0, 2.0, 0.5], [5.0, 6.0, 4.0, 5.0]
    change(tmp_path, "vae/config.json", latents_mean=mean, latents_std=sd, scaling_factor=0.5)
    backend = read(tmp_path, guidance_scale=1.0, variant="fp16")
    latent = np.random.default_rng(1).standard_normal(backend.event_shape).astype(np.float32)
    moments = (torch.tensor(each).reshape(1, 4, 1, 1) for each in (sd, mean))
    with torch.no_grad():
        scaled = torch.tensor(latent[None]) * next(moments) / 0.5 + next(moments)
        image = pipeline.vae.decode(scaled).sample[0].numpy()
    close(backend.decode(latent), np.clip(0.5 * image + 0.5, 0, 1))
    pixels = np.random.default_rng(2).random((3, 32, 32)).astype(np.float32)
    with torch.no_grad():
        back = pipeline.vae.encode(torch.tensor(2 * pixels[None] - 1)).latent_dist.mode()[0].numpy()
    expected = (back - np.array(mean)[:, None, None]) * 0.5 / np.array(sd)[:, None, None]
    close(backend.encode(pixels), expected)


def change(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_folders_that_are_none_of_this_kind_are_refused(folder, pipeline, tmp_path):
    weights = "{}/diffusion_pytorch_model.safetensors"

    def cut(path):
        path.write_bytes(path.read_bytes()[:3_000])

    def drop(place, part):
        path = place / "model.safetensors"
        kept = {name: value for name, value in load_file(path).items() if part not in name}
        save_file(kept, path, metadata={"format": "pt"})

    cases = [
        (lambda copy: change(copy, "unet/config.json", addition_embed_type=None), "no Stable Diff"),
        (lambda copy: (copy / "unet" / "config.json").unlink(), "no unet/config.json"),
        (lambda copy: cut(copy / weights.format("unet")), "truncated, damaged"),
        (lambda copy: cut(copy / weights.format("vae")), "truncated, damaged"),
        (lambda copy: cut(copy / "text_encoder_2" / "model.safetensors"), "truncated, damaged"),
        (lambda copy: shutil.rmtree(copy / "tokenizer_2"), "no folder tokenizer_2"),
        (
            lambda copy: (copy / "text_encoder" / "model.safetensors").rename(
                copy / "text_encoder" / "pytorch_model.bin"
            ),
            "pickled weights alone",
        ),
        (lambda copy: change(copy, "vae/config.json", _class_name="VQModel"), "has a VQModel"),
        (lambda copy: drop(copy / "text_encoder_2", "text_projection"), "lack 1 tensors"),
        (lambda copy: drop(copy / "text_encoder", "layers.0."), "lack 16 tensors"),
        (
            lambda copy: change(
                copy, "scheduler/scheduler_config.json", _class_name="EDMEulerScheduler"
            ),
            "is a EDMEulerScheduler",
        ),
    ]
    for number, (spoil, message) in enumerate(cases):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        spoil(copy)
        with pytest.raises(ValueError) as error:
            read(copy)
        assert message in str(error.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt": "fox " * 60}, "tokens, start and end among them"),
        ({"guidance_scale": 0.5}, "`guidance_scale=0.5`"),
        ({"height": 30}, "`height=30` must be a positive multiple of 8"),
        ({"width": 0}, "`width=0` must be a positive multiple of 8"),
        ({"variant": "fp16"}, "which `variant` may choose"),
    ],
)
def test_bad_arguments_are_named(folder, pipeline, options, message):
    with pytest.raises(ValueError) as error:
        read(folder, **options)
    assert message in str(error.value)
