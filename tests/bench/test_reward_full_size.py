"""Pairs per second and peak memory of full reward training, random weights: the 3B model where there is a GPU.

The tiny size runs anywhere; it shows that the measurement works, its figures mean nothing.
"""

import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "reward"))

from preferences import write_preferences
from tiny_vlm import byte_tokenizer, write_tiny_vlm

from idgrpo.reward.config import RewardModelConfig
from idgrpo.reward.train import train
from idgrpo.reward.trainer import RunCallback
from idgrpo.run.folder import RunFolder

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]
WARM_UP = 2  # updates that are not timed


def write_3b(folder: Path) -> Path:
    """Write the published sizes of Qwen2.5-VL-3B with random weights."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessor

    tokenizer = byte_tokenizer()
    config = Qwen2_5_VLConfig(
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
                       "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 112,
                       "fullatt_block_indexes": [7, 15, 23, 31], "out_hidden_size": 2048, "tokens_per_second": 2},
        text_config={"vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
                     "num_attention_heads": 16, "num_key_value_heads": 2,
                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("cuda"):
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessor(patch_size=14, merge_size=2, temporal_patch_size=2).save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    return folder


SIZES = {"tiny": (write_tiny_vlm, 64, 12), "3b": (write_3b, 624, 24)}  # writer, px of a side, pairs


@pytest.mark.parametrize("size", SIZES)
def test_pairs_per_second(tmp_path, monkeypatch, size) -> None:
    if size == "3b" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    write, side_px, num_pairs = SIZES[size]
    times: list[float] = []
    on_step_end = RunCallback.on_step_end

    def timed(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        return on_step_end(self, args, state, control, **kwargs)

    monkeypatch.setattr(RunCallback, "on_step_end", timed)
    pairs = write_preferences(tmp_path / "data", num_pairs, size_px=side_px)
    # The random checkpoint's tokenizer knows bytes only: a short wording keeps the text as short as with the real one.
    config = RewardModelConfig.model_validate(
        {
            "vlm": str(write(tmp_path / "vlm")),
            "mode": "full",
            "full": {"epochs": 1},
            "inputs": {"template_name": "compact_v1"},
        }
    )
    if torch.cuda.is_available():  # what wrote the checkpoint held all weights too
        torch.cuda.reset_peak_memory_stats()
    with RunFolder.open(tmp_path / "run", {}) as run:
        train(pairs, config, run, tmp_path / "rm")
    num_timed = (len(times) - 1 - WARM_UP) * config.full.accumulation if len(times) > WARM_UP + 1 else 0
    rate = num_timed / (times[-1] - times[WARM_UP]) if num_timed else config.full.accumulation / (times[1] - times[0])
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB peak" if torch.cuda.is_available() else "on CPU"
    tokens = "8 frames of 624x624 px, 2 photos" if size == "3b" else "tiny"
    print(f"\n{size}: {rate:.2f} pairs/s, {peak} ({tokens}, LoRA r 64 and whole vision tower)")
    assert rate > 0
