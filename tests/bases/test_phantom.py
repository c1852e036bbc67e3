import pytest
import torch
from tiny_checkpoints import SIZE, draw

from idgrpo.bases.contract import Guidance

PROMPT = "a man with red hair and a woman"


def prepared(base, photos, num_references=2):
    batch = base.collate([base.encode(PROMPT, photos[:num_references], SIZE)])
    return batch, draw((1, *base.latent_shape(SIZE, num_references))), torch.tensor([0.6])


def restated(base, batch, state, time, scale_text, scale_image):
    """Restate the published formula with the transformer itself, branch by branch."""
    references = batch.visual[0][None]

    def branch(refs, text):
        hidden = torch.cat([state, refs], dim=2)
        out = base.transformer(
            hidden_states=hidden, timestep=time * 1000, encoder_hidden_states=text, return_dict=False
        )
        return out[0][:, :, : state.shape[2]]

    both = branch(references, batch.text)
    image = branch(references, batch.negative)
    neither = branch(torch.zeros_like(references), batch.negative)
    return neither + scale_image * (image - neither) + scale_text * (both - image)


@pytest.mark.parametrize("scales", [(7.5, 5.0), (3.0, 3.0), (4.0, 1.0), (0.0, 2.0), (1.0, 1.0), (2.0, 0.0)])
def test_guidance_equals_the_published_formula(phantom, photos, scales):
    batch, state, time = prepared(phantom, photos)
    ours = phantom.velocity(state, time, batch, Guidance(scales[0], scales[1]))
    assert float((ours - restated(phantom, batch, state, time, *scales)).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("scales", "mode", "samples"),
    [
        ((7.5, 5.0), "both-grad", [3]),
        ((5.0, 5.0), "both-grad", [2]),
        ((4.0, 1.0), "both-grad", [2]),
        ((1.0, 1.0), "both-grad", [1]),
        ((7.5, 5.0), "none", [1]),
        ((7.5, 5.0), "detach-uncond", [2, 1]),
    ],
)
def test_branches_that_count_for_nothing_are_not_computed(phantom, photos, scales, mode, samples):
    batch, state, time = prepared(phantom, photos)
    seen = []
    embedding = phantom.transformer.patch_embedding
    handle = embedding.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    phantom.velocity(state, time, batch, Guidance(*scales, mode=mode))
    handle.remove()
    assert seen == samples


def test_trajectory_equals_the_sampler_that_keeps_references_in_the_state(phantom, photos):
    # The published sampler: noise has f + n frames, the last n are overwritten before each forward.
    batch, state, _ = prepared(phantom, photos)
    references = batch.visual[0][None]
    ours, theirs = state, torch.cat([state, draw(references.shape, 5)], dim=2)
    sigmas = [1.0, 0.8, 0.5, 0.2, 0.0]
    for s, s_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        time = torch.tensor([s])
        velocity = phantom.velocity(ours, time, batch, Guidance(7.5, 5.0))
        ours = ours + velocity * (s_next - s)

        def branch(refs, text, time=time, state=theirs):
            hidden = torch.cat([state[:, :, :3], refs], dim=2)
            return phantom.transformer(
                hidden_states=hidden, timestep=time * 1000, encoder_hidden_states=text, return_dict=False
            )[0]

        it, i = branch(references, batch.text), branch(references, batch.negative)
        neg = branch(torch.zeros_like(references), batch.negative)
        theirs = theirs + (neg + 5.0 * (i - neg) + 7.5 * (it - i)) * (s_next - s)
    assert float((ours - theirs[:, :, :3]).abs().max()) < 1e-5


def test_detached_branches_give_the_same_numbers_and_another_gradient(phantom, photos):
    batch, state, time = prepared(phantom, photos)
    weight = phantom.transformer.proj_out.weight.requires_grad_()
    values, gradients = [], []
    for mode in ("both-grad", "detach-uncond"):
        velocity = phantom.velocity(state, time, batch, Guidance(7.5, 5.0, mode=mode))
        (gradient,) = torch.autograd.grad(velocity.square().sum(), weight)
        values.append(velocity.detach())
        gradients.append(gradient)
    assert torch.allclose(values[0], values[1], atol=1e-5)
    assert float((gradients[0] - gradients[1]).abs().max()) > 1e-3


def test_order_of_references_matters(phantom, photos):
    batch, state, time = prepared(phantom, photos)
    turned = phantom.collate([phantom.encode(PROMPT, photos[1::-1], SIZE)])
    a, b = (phantom.velocity(state, time, each, Guidance(mode="none")) for each in (batch, turned))
    assert float((a - b).abs().max()) > 1e-3


def test_state_is_the_video_only(phantom, photos):
    batch, state, _ = prepared(phantom, photos, 4)
    assert state.shape == (1, 16, 3, 4, 4)
    assert bool((phantom.video_mask(batch) == 1).all())
