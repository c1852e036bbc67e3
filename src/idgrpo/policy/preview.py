"""Write some of an update's rollouts as video files, for people to look at; costs no extra sampling."""

import json
from pathlib import Path

from torch import Tensor

from idgrpo.video.write import write_video


def write_previews(folder: Path, videos: list[tuple[str, float, Tensor]], fps: int) -> None:
    """Write (name, reward, uint8 [frame, 3, height, width]) as name.mp4 and the rewards as index.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, video in videos:
        write_video(folder / f"{name}.mp4", video, fps=fps)
    index = [{"video": f"{name}.mp4", "reward": reward} for name, reward, _ in videos]
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")
