"""Videos as phones and editors make them: each kind is handled, or named in the summary."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tests.video.test_video import turned

from idgrpo.distort.config import DistortConfig
from idgrpo.distort.stage import distort
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Preference
from idgrpo.video.probe import probe
from idgrpo.video.read import read_video
from idgrpo.video.write import write_video

MIX = DistortConfig(
    per_video=2, mix={"swap_late": 1, "blend": 1}, balance={"unsteady_better": 0}, strength={"tie_share": 0}
)


def encode(
    path: Path, clip: torch.Tensor, pix_fmt: str = "yuv444p", codec: str = "libx264", times=None, audio: bool = False
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16)
        stream.width, stream.height, stream.pix_fmt = clip.shape[3], clip.shape[2], pix_fmt
        stream.time_base = stream.codec_context.time_base = Fraction(1, 160)
        if codec == "libx264":
            stream.options = {"crf": "4", "bf": "0"}
        sound = container.add_stream("aac", rate=16000) if audio else None
        for index, picture in enumerate(clip.permute(0, 2, 3, 1).contiguous().numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = (times[index] if times else 10 * index), Fraction(1, 160)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 16000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


def run(sample, video: Path, folder: Path, finder):
    return distort([sample.model_copy(update={"video": str(video)})], MIX, folder, finder=finder)


@pytest.mark.parametrize(
    "kind",
    ["audio", "variable rate", "ten bit", "alpha", "odd size", "phone"],
)
def test_unusual_videos_are_handled(kind, disc_clip, disc_samples, disc_finder_factory, tmp_path):
    path = tmp_path / ("clip.mov" if kind == "alpha" else "clip.mp4")
    if kind == "audio":
        encode(path, disc_clip, audio=True)
    elif kind == "variable rate":
        encode(path, disc_clip, times=[7 * k + (k % 3) * 2 for k in range(len(disc_clip))])
    elif kind == "ten bit":
        encode(path, disc_clip, pix_fmt="yuv444p10le")
    elif kind == "alpha":
        encode(path, disc_clip, pix_fmt="argb", codec="qtrle")
    elif kind == "phone":
        write_video(path, disc_clip.rot90(1, (2, 3)).contiguous(), lossless=True)
        turned(path, 90)
    else:
        encode(path, disc_clip[:, :, :-1, :-1].contiguous(), pix_fmt="yuv444p")
    summary = run(disc_samples[0], path, tmp_path / "out", disc_finder_factory)
    assert summary.num_pairs == 2 and not summary.refused
    for pair in read_records(tmp_path / "out" / "prefs.jsonl", Preference):
        for side in (pair.video_a, pair.video_b):
            assert read_video(Path(side)).shape == read_video(path).shape
            assert probe(Path(side)).fps == pytest.approx(probe(path).fps, rel=0.01)


def test_a_clip_longer_than_the_limit_is_cut(disc_samples, disc_finder_factory, tmp_path):
    short = MIX.model_copy(update={"max_frames": 10})
    distort(disc_samples[:1], short, tmp_path, finder=disc_finder_factory)
    pair = next(iter(read_records(tmp_path / "prefs.jsonl", Preference)))
    assert len(read_video(Path(pair.video_a))) == len(read_video(Path(pair.video_b))) == 10
