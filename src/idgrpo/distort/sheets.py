"""Pictures of what each distortion does: references, better, worse, and where they differ, over time."""

from itertools import islice
from pathlib import Path

import torch

from idgrpo.distort.files import PREFERENCES_FILE, SHEET_FILE, sheet_of
from idgrpo.records.jsonl import read_records
from idgrpo.records.models import Preference
from idgrpo.video.read import read_image, read_video
from idgrpo.video.sheet import contact_sheet
from idgrpo.video.write import write_image

EXAMPLES = 2
LOOKED_AT = 2000


def change_map(better: torch.Tensor, worse: torch.Tensor) -> torch.Tensor:
    """Draw where two clips differ, uint8 [frame, 3, height, width]: white where by 64 levels or more."""
    gap = (better.float() - worse.float()).abs().amax(1, keepdim=True)
    return (gap * 4).clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)


def _telling(pair: Preference) -> int:
    """Say how well a pair shows its distortion alone: strong, decided, with nothing else done to it."""
    alone = pair.origin.get("artefact") is None and pair.origin.get("better_by") is None
    decided = pair.label != "tie" or pair.origin.get("family") == "control"
    return 2 * alone + 2 * decided + (pair.strength is not None and pair.strength >= 0.6)


def _examples(folder: Path) -> dict[str, list[Preference]]:
    """Take the most telling pairs for each sheet among the first `LOOKED_AT`."""
    found: dict[str, list[Preference]] = {}
    for pair in islice(read_records(folder / PREFERENCES_FILE, Preference), LOOKED_AT):
        held = found.setdefault(sheet_of(pair.distortion), [])
        held.append(pair)
        held.sort(key=_telling, reverse=True)
        del held[EXAMPLES:]
    return found


def _rows(pair: Preference) -> tuple[list[list[torch.Tensor]], list[str]]:
    sides = (pair.video_b, pair.video_a) if pair.label == "b" else (pair.video_a, pair.video_b)
    better, worse = (read_video(Path(side)) for side in sides)
    names = ("first", "second") if pair.label == "tie" else ("better", "worse")
    portraits = [read_image(Path(reference.images[0])) for reference in pair.references]
    notes = [f"strength {pair.strength:.2f}"]
    notes += ["references of the stranger"] if pair.origin.get("mirrored_slot") is not None else []
    notes += [f"{pair.origin['artefact']} on {pair.origin['artefact_sides']}"] if pair.origin.get("artefact") else []
    notes += [f"better side: {pair.origin['better_by']}"] if pair.origin.get("better_by") else []
    label = f"{pair.distortion}  {pair.pair_id}  {', '.join(notes)}"
    captions = [f"{label}: references", names[0], names[1], "where they differ"]
    return [portraits, [better], [worse], [change_map(better, worse)]], captions


def _cell_height(rows: list[list[torch.Tensor]]) -> int:
    """Choose how tall a clip is drawn: small clips at 64 px, others at up to 192 px, where a face can be judged."""
    tallest = max((clip.shape[-2] for row in rows for clip in row), default=0)
    return 64 if tallest <= 128 else min(tallest, 192)


def draw_sheets(folder: Path) -> list[Path]:
    """Draw `sheets/<distortion>.png` for each distortion in `folder`/prefs.jsonl, and `contact_sheet.png` with one pair of each."""
    (folder / "sheets").mkdir(exist_ok=True)
    paths: list[Path] = []
    all_rows: list[list[torch.Tensor]] = []
    all_captions: list[str] = []
    for name, pairs in sorted(_examples(folder).items()):
        rows: list[list[torch.Tensor]] = []
        captions: list[str] = []
        for pair in pairs:
            more, said = _rows(pair)
            rows += more
            captions += said
        paths.append(folder / name)
        write_image(paths[-1], contact_sheet(rows, captions))
        all_rows += rows[1:3]
        all_captions += [captions[0].removesuffix(": references"), captions[2]]
    paths.append(folder / SHEET_FILE)
    write_image(paths[-1], contact_sheet(all_rows, all_captions, cell_height_px=_cell_height(all_rows)))
    return paths
