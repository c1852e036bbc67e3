"""Write some of an update's rollouts as video files, for people to look at; costs no extra sampling."""

import json
from pathlib import Path

from torch import Tensor

from idgrpo.video.read import read_video
from idgrpo.video.sheet import contact_sheet
from idgrpo.video.write import write_image, write_video


def write_previews(folder: Path, videos: list[tuple[str, float, Tensor]], fps: int) -> None:
    """Write (name, reward, uint8 [frame, 3, height, width]) as name.mp4 and the rewards as index.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, video in videos:
        write_video(folder / f"{name}.mp4", video, fps=fps)
    index = [{"video": f"{name}.mp4", "reward": reward} for name, reward, _ in videos]
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_preview_sheet(folder: Path, path: Path) -> None:
    """Put the newest previews below `folder` into one picture, a row of frames each; nothing where there are none."""
    indices = sorted(folder.glob("update-*/index.json"))
    if not indices:
        return
    newest = indices[-1].parent
    update = int(newest.name.removeprefix("update-"))
    index = json.loads(indices[-1].read_text())
    captions = [f"{Path(row['video']).stem}: reward {row['reward']:.3f}, update {update}" for row in index]
    write_image(path, contact_sheet([[read_video(newest / row["video"])] for row in index], captions))
