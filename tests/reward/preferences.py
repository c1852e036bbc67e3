"""Write a small data set of clips whose quality can be seen in the pixels: the winner shows its people's colours."""

from pathlib import Path

import torch

from idgrpo.records.models import Preference, Reference
from idgrpo.reward.data import Clip, frozen_copy, read_photo
from idgrpo.video.read import read_video
from idgrpo.video.write import write_image, write_video


def whole_clip(clip: Clip) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Decode all frames of a clip, uint8 "frame channel height width", and its photos."""
    video, photos = read_video(Path(clip.video)), [read_photo(path) for path in clip.photos]
    return (frozen_copy(video, photos) if clip.at_rest else video), photos


def write_preferences(
    folder: Path, num_pairs: int = 24, *, size_px: int = 32, num_people: int = 2, seed: int = 0, ties: int = 0
) -> list[Preference]:
    """Return pairs of their own people each; the loser shows other colours than the photos."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index in range(num_pairs):
        colours = torch.randint(0, 256, (num_people, 3), generator=generator)
        photos = []
        for person, colour in enumerate(colours):
            path = folder / f"photo-{index}-{person}.png"
            write_image(path, colour.to(torch.uint8)[:, None, None].expand(3, size_px, size_px).contiguous())
            photos.append(Reference(person=f"p{index}-{person}", images=[str(path)]))
        good = _clip(colours, size_px, generator)
        bad = (
            good
            if index < ties
            else _clip(torch.randint(0, 256, (num_people, 3), generator=generator), size_px, generator)
        )
        names = [folder / f"clip-{index}-{side}.mp4" for side in "ab"]
        good_first = bool(torch.rand((), generator=generator) < 0.5)
        for name, clip in zip(names, (good, bad) if good_first else (bad, good), strict=True):
            write_video(name, clip)
        found.append(
            Preference(
                pair_id=f"pair-{index}",
                case_id=f"case-{index}",
                prompt=f"people walk {index % 3}",
                references=photos,
                video_a=str(names[0]),
                video_b=str(names[1]),
                label="tie" if index < ties else "a" if good_first else "b",
                source="human" if index % 2 else "synthetic",
                distortion=None if index % 2 else "replace",
                strength=None if index % 2 else 0.5,
            )
        )
    return found


def _clip(colours: torch.Tensor, size_px: int, generator: torch.Generator) -> torch.Tensor:
    clip = torch.full((9, 3, size_px, size_px), 128, dtype=torch.uint8)
    width = size_px // len(colours)
    for person, colour in enumerate(colours):
        clip[:, :, :, person * width : (person + 1) * width] = colour.to(torch.uint8)[:, None, None]
    noise = torch.randint(-8, 9, clip.shape, generator=generator)
    return (clip.int() + noise).clamp(0, 255).to(torch.uint8)
