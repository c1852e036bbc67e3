"""The input builder equals the checkpoint's own processor and transformers' own positions."""

import pytest
import torch
from transformers import AutoProcessor

from idgrpo.errors import DataError
from idgrpo.reward.backbone import hidden_states, load_backbone
from idgrpo.reward.inputs import InputBuilder

PROMPTS = ["two people walk", "they meet"]


def _clips(num: int, frames: int = 9, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, frames, 3, height, width), generator=generator, dtype=torch.uint8)


def _by_processor(builder: InputBuilder, directory, clips, references, prompts) -> dict:
    settings = builder.settings
    processor = AutoProcessor.from_pretrained(directory)
    processor.tokenizer.add_tokens(list(settings.special_tokens), special_tokens=True)
    indices = [settings.frame_indices(len(clip)) for clip in clips]
    return processor(
        text=[settings.text(len(images), prompt) for images, prompt in zip(references, prompts, strict=True)],
        images=[image for images in references for image in images],
        videos=[clip[rows] for clip, rows in zip(clips, indices, strict=True)],
        videos_kwargs={
            "do_sample_frames": False,
            "video_metadata": [
                {"total_num_frames": len(clip), "fps": settings.fps, "frames_indices": rows}
                for clip, rows in zip(clips, indices, strict=True)
            ],
        },
        padding=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize("size", [(32, 32), (50, 70)])
def test_equals_the_processor_and_the_models_positions(tiny_vlm, size) -> None:
    builder = InputBuilder.load(tiny_vlm)
    clips = _clips(2, height=size[0], width=size[1])
    references = [list(_clips(1, 2, 40, 32, seed=1)[0]), list(_clips(1, 3, 32, 32, seed=2)[0])]
    built = builder.build(clips, references, PROMPTS, order="given")
    theirs = _by_processor(builder, tiny_vlm, clips, references, PROMPTS)
    for name in ("input_ids", "image_grid_thw", "video_grid_thw", "mm_token_type_ids"):
        assert torch.equal(built[name].long(), theirs[name].long()), name
    for name in ("pixel_values", "pixel_values_videos", "second_per_grid_ts"):
        torch.testing.assert_close(built[name], torch.as_tensor(theirs[name]), atol=2e-6, rtol=1e-6)
    backbone = load_backbone(tiny_vlm)
    positions, _ = backbone.get_rope_index(
        built["input_ids"],
        built["mm_token_type_ids"],
        built["image_grid_thw"],
        built["video_grid_thw"],
        built["second_per_grid_ts"],
        built["attention_mask"],
    )
    mask = built["attention_mask"].bool()
    assert torch.equal(positions[:, mask], built["position_ids"][:, mask])


def test_time_positions_follow_the_clip_length(tiny_vlm) -> None:
    builder = InputBuilder.load(tiny_vlm)
    photos = [list(_clips(1, 1, seed=5)[0])]
    short = builder.build(_clips(1, 9), photos, ["x"])["position_ids"][0].max()
    long = builder.build(_clips(1, 81), photos, ["x"])["position_ids"][0].max()
    assert long > short


def test_padding_and_batching_change_no_state(tiny_vlm) -> None:
    builder, backbone = InputBuilder.load(tiny_vlm), load_backbone(tiny_vlm).eval()
    backbone.resize_token_embeddings(len(builder.tokenizer))
    clips = _clips(3)
    references = [list(_clips(1, n, seed=n)[0]) for n in (1, 3, 2)]
    prompts = ["a", "a much longer prompt", "b"]
    with torch.no_grad():
        inputs = builder.build(clips, references, prompts)
        together = hidden_states(backbone, inputs)[torch.arange(3), inputs["reward_index"]]
        for i in range(3):
            one = builder.build(clips[i : i + 1], references[i : i + 1], prompts[i : i + 1])
            alone = hidden_states(backbone, one)[0, one["reward_index"][0]]
            torch.testing.assert_close(alone, together[i], atol=1e-5, rtol=1e-5)


def test_reference_order_is_canonical(tiny_vlm) -> None:
    builder = InputBuilder.load(tiny_vlm)
    clips, photos = _clips(1), list(_clips(1, 2, seed=3)[0])
    forward = builder.build(clips, [photos], ["x"])
    backward = builder.build(clips, [photos[::-1]], ["x"])
    assert torch.equal(forward["pixel_values"], backward["pixel_values"])
    given = builder.build(clips, [photos[::-1]], ["x"], order="given")
    other = builder.build(clips, [photos], ["x"], order="given")
    assert not torch.equal(given["pixel_values"], other["pixel_values"])


def test_photos_may_lie_on_another_device(tiny_vlm) -> None:
    class OnDevice:
        """A tensor of another device: numpy sees it only after it came to the CPU."""

        dtype, shape = torch.uint8, (3, 32, 32)

        def __init__(self, tensor):
            self.tensor = tensor

        def contiguous(self):
            return self

        def cpu(self):
            return self.tensor

    photos = list(_clips(1, 2, seed=3)[0])
    builder = InputBuilder.load(tiny_vlm)
    assert builder.expand([[OnDevice(photo) for photo in photos]]) == builder.expand([photos])


def test_control_tokens_in_a_prompt_stay_text(tiny_vlm) -> None:
    builder = InputBuilder.load(tiny_vlm)
    built = builder.build(_clips(1), [list(_clips(1, 1)[0])], ["{video} <|SA_reward|> <|image_pad|>"])
    assert int((built["input_ids"] == builder.reward_id).sum()) == 1


@pytest.mark.parametrize(
    "videos, references",
    [
        (_clips(1).float(), [list(_clips(1, 1)[0])]),
        (_clips(1)[:, :, :1], [list(_clips(1, 1)[0])]),
        (_clips(1), [list(_clips(1, 9)[0])]),
        (_clips(1)[:, :0], [list(_clips(1, 1)[0])]),
        (_clips(2), [list(_clips(1, 1)[0])]),
    ],
)
def test_wrong_tensors_are_named(tiny_vlm, videos, references) -> None:
    with pytest.raises(DataError):
        InputBuilder.load(tiny_vlm).build(videos, references, ["x"])


def test_qwen2_vl_runs_by_the_same_path(tmp_path) -> None:
    from tiny_vlm import write_tiny_qwen2_vl

    directory = write_tiny_qwen2_vl(tmp_path / "qwen2")
    builder = InputBuilder.load(directory, num_frames=4, min_pixels=1024, max_pixels=1024, template_name="compact_v1")
    backbone = load_backbone(directory).eval()
    backbone.resize_token_embeddings(len(builder.tokenizer), mean_resizing=False)
    references = [list(_clips(1, n, seed=n)[0]) for n in (1, 2)]
    built = builder.build(_clips(2), references, ["a", "bb"])
    positions, _ = backbone.get_rope_index(
        built["input_ids"], built["mm_token_type_ids"], built["image_grid_thw"], built["video_grid_thw"],
        attention_mask=built["attention_mask"],
    )  # fmt: skip
    mask = built["attention_mask"].bool()
    assert torch.equal(positions[:, mask], built["position_ids"][:, mask])
    assert hidden_states(backbone, built).isfinite().all()


@pytest.fixture(scope="module")
def tiny_qwen3(tmp_path_factory):
    from tiny_vlm import write_tiny_qwen3_vl

    return write_tiny_qwen3_vl(tmp_path_factory.mktemp("vlm") / "qwen3")


COMPACT = {"num_frames": 4, "min_pixels": 1024, "max_pixels": 1024, "template_name": "compact_v1"}


def test_qwen3_vl_equals_its_processor_and_positions(tiny_qwen3) -> None:
    # Their processor puts the frame blocks in place of a bare video token.
    builder, bare = InputBuilder.load(tiny_qwen3, **COMPACT), InputBuilder.load(
        tiny_qwen3, **COMPACT, video_text="<|video_pad|>"
    )  # fmt: skip
    assert builder.settings.row_by_row and builder.settings.digest() != bare.settings.digest()
    clips = list(_clips(1, 9)) + list(_clips(1, 170, seed=3))  # the second clip's times take more digits
    references = [list(_clips(1, 2, 40, 32, seed=1)[0]), list(_clips(1, 3, 32, 32, seed=2)[0])]
    built = builder.build(clips, references, PROMPTS, order="given")
    theirs = _by_processor(bare, tiny_qwen3, clips, references, PROMPTS)
    for name in ("input_ids", "image_grid_thw", "video_grid_thw", "mm_token_type_ids"):
        assert torch.equal(built[name].long(), theirs[name].long()), name
    for name in ("pixel_values", "pixel_values_videos"):
        torch.testing.assert_close(built[name], torch.as_tensor(theirs[name]), atol=2e-6, rtol=1e-6)
    backbone = load_backbone(tiny_qwen3).eval()
    positions, _ = backbone.get_rope_index(
        built["input_ids"], built["mm_token_type_ids"], built["image_grid_thw"], built["video_grid_thw"],
        built["attention_mask"],
    )  # fmt: skip
    mask = built["attention_mask"].bool()
    assert torch.equal(positions[:, mask], built["position_ids"][:, mask])
    backbone.resize_token_embeddings(len(builder.tokenizer), mean_resizing=False)
    with torch.no_grad():
        together = hidden_states(backbone, built)[torch.arange(2), built["reward_index"]]
        for i in range(2):
            one = builder.build(clips[i : i + 1], references[i : i + 1], PROMPTS[i : i + 1], order="given")
            torch.testing.assert_close(hidden_states(backbone, one)[0, -1], together[i], atol=1e-5, rtol=1e-5)
