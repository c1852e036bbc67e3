import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanVACEPipeline
from PIL import Image
from tiny_checkpoints import SIZE, draw

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.contract import Guidance
from idgrpo.bases.generate import sample_latents
from idgrpo.bases.load import load_base
from idgrpo.errors import UsageError
from idgrpo.flow.schedule import wan_sigmas

PROMPT, SHIFT, STEPS, SCALE = "a man with red hair and a woman", 3.0, 5, 5.0


class OurSigmas(FlowMatchEulerDiscreteScheduler):
    """diffusers' Euler stepping on the published table: its own `set_timesteps` would shift twice."""

    def set_timesteps(self, num_inference_steps=None, device=None, **_):
        super().set_timesteps(sigmas=wan_sigmas(num_inference_steps, SHIFT)[:-1].tolist(), device=device)


@pytest.fixture(scope="module")
def pipeline(checkpoints):
    loaded = WanVACEPipeline.from_pretrained(checkpoints / "vace", local_files_only=True)
    loaded.scheduler = OurSigmas(shift=1.0)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def run_pipeline(pipeline, base, photos, noise, output_type="latent"):
    """Run diffusers' pipeline on our prompt embeddings, recording each step's velocity-driven latents."""
    trajectory = []

    def note(_pipeline, _step, _time, values):
        trajectory.append(values["latents"].clone())
        return values

    out = pipeline(
        prompt_embeds=base.text_encoder.encode([PROMPT]),
        negative_prompt_embeds=base.text_encoder.encode([base.entry.negative_prompt]),
        reference_images=[Image.fromarray(photo.permute(1, 2, 0).numpy()) for photo in photos],
        height=SIZE.height,
        width=SIZE.width,
        num_frames=SIZE.frames,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=noise,
        output_type=output_type,
        callback_on_step_end=note,
    ).frames
    return trajectory, out


@pytest.mark.parametrize("num_references", [1, 2, 3])  # with more references than frames diffusers fails
def test_euler_trajectory_equals_diffusers(checkpoints, pipeline, photos, num_references):
    base = load_base(str(checkpoints / "vace"), reversed_references=True)
    photos = photos[:num_references]
    batch = base.collate([base.encode(PROMPT, photos, SIZE)])
    noise = draw((1, *base.latent_shape(SIZE, num_references)))
    theirs, _ = run_pipeline(pipeline, base, photos, noise)
    latents = noise
    sigmas = wan_sigmas(STEPS, SHIFT)
    for step, reference in enumerate(theirs):
        time = torch.full((1,), float(sigmas[step]))
        velocity = base.velocity(latents, time, batch, Guidance(SCALE))
        latents = latents + velocity * float(sigmas[step + 1] - sigmas[step])
        assert float((latents - reference).abs().max()) < 1e-5
    sampler = SamplerConfig(num_steps=STEPS, shift=SHIFT, guidance=SCALE, guidance_mode="both-grad")
    ours = sample_latents(base, batch, noise, sampler, [(0, "case")])
    assert float((ours - theirs[-1]).abs().max()) < 1e-5


def test_decoded_video_equals_diffusers(checkpoints, pipeline, photos):
    base = load_base(str(checkpoints / "vace"), reversed_references=True)
    batch = base.collate([base.encode(PROMPT, photos[:2], SIZE)])
    noise = draw((1, *base.latent_shape(SIZE, 2)))
    theirs, video = run_pipeline(pipeline, base, photos[:2], noise, output_type="pt")
    assert float((base.decode(theirs[-1], batch) - video).abs().max()) < 1e-5


def test_prompt_embeddings_equal_diffusers(checkpoints, pipeline):
    base = load_base(str(checkpoints / "vace"))
    theirs = pipeline._get_t5_prompt_embeds.__func__
    import diffusers.pipelines.wan.pipeline_wan_vace as module

    module.prompt_clean, cleaned = (lambda text: text), module.prompt_clean
    try:
        expected = theirs(pipeline, PROMPT, max_sequence_length=16)
    finally:
        module.prompt_clean = cleaned
    assert float((base.text_encoder.encode([PROMPT]) - expected).abs().max()) < 1e-5
    assert not expected[0, -1].any(), "the end is zero padding"


def test_our_order_is_that_of_the_case(vace, photos):
    a = vace.encode(PROMPT, photos[:2], SIZE)
    b = vace.encode(PROMPT, photos[1::-1], SIZE)
    assert torch.equal(a.references.flip(1), b.references)
    control = vace.collate([a]).visual[0]
    assert torch.equal(control[:16, :2], a.references)
    assert torch.equal(vace.collate([b]).visual[0][:16, :2], b.references)


def test_control_has_the_published_layout(vace, photos):
    condition = vace.encode(PROMPT, photos[:2], SIZE)
    control = vace.collate([condition]).visual[0]
    assert control.shape == (96, 2 + 3, 4, 4)
    assert not control[16:32, :2].any(), "references are zero-padded to 32 channels"
    assert torch.equal(control[:16, 2:], control[16:32, 2:]), "inactive and reactive are the same grey"
    assert not control[32:, :2].any()
    assert bool((control[32:, 2:] == 1).all())


def test_grey_is_encoded_once_per_size(vace, photos):
    first, second = (vace.encode(PROMPT, [photo], SIZE) for photo in photos[:2])
    assert first.background is second.background
    other = vace.encode(PROMPT, photos[:1], SIZE._replace(frames=5))
    assert other.background.shape[1] == 2
    assert torch.allclose(other.background, first.background[:, :2], atol=1e-5), "the VAE is causal in time"


def test_guidance_scale_one_needs_one_forward(vace, photos):
    batch = vace.collate([vace.encode(PROMPT, photos[:1], SIZE)])
    state, time = draw((1, *vace.latent_shape(SIZE, 1))), torch.tensor([0.5])
    one = vace.velocity(state, time, batch, Guidance(1.0))
    assert torch.equal(one, vace.velocity(state, time, batch, Guidance(7.0, mode="none")))


def test_the_sampler_can_put_references_as_diffusers_does(checkpoints, photos):
    from idgrpo.bases.generate import generate, jobs_of, renoise
    from idgrpo.bases.sampling import sampler_record
    from idgrpo.records.models import Case, Reference

    people = [Reference(person=name, images=["a.png"]) for name in ("ann", "bob", "eve")]
    jobs = jobs_of([Case(id="one", prompt=PROMPT, references=people)])
    own = SamplerConfig(num_steps=2, width=SIZE.width, height=SIZE.height, frames=SIZE.frames)
    other = own.model_copy(update={"reversed_references": True})
    plain, turned = (load_base(str(checkpoints / "vace"), reversed_references=flag) for flag in (False, True))

    def clip(base, sampler, references):
        (made,) = generate(base, jobs, sampler=sampler, read=lambda case: references)
        return made.frames

    expected = clip(plain, own, photos[2::-1])
    assert torch.equal(clip(plain, other, photos[:3]), expected)
    assert torch.equal(clip(turned, own, photos[:3]), expected), (
        "a base that was loaded so needs no word of the sampler"
    )
    assert not torch.equal(clip(plain, own, photos[:3]), expected)
    assert [sampler_record(*pair)["reversed_references"] for pair in ((plain, own), (plain, other), (turned, own))] == [
        False,
        True,
        True,
    ]
    clips = [
        renoise(base, expected, references, PROMPT, 0.9, 1, sampler=sampler)
        for base, sampler, references in ((plain, other, photos[:3]), (plain, own, photos[2::-1]))
    ]
    assert torch.equal(*clips)


def test_phantom_has_no_other_order(checkpoints):
    with pytest.raises(UsageError, match="reversed references"):
        load_base(str(checkpoints / "phantom"), reversed_references=True)
