"""Look at a clip once: find people, follow them, take the figures of the picture."""

from collections.abc import Sequence

import numpy as np
import torch

from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.copies import track_prints
from idgrpo.evaluate.motion import flow_magnitudes
from idgrpo.evaluate.subject import Observation
from idgrpo.evaluate.texture import face_details, mean_saturation, mean_sharpness, residual_ripple
from idgrpo.people.contract import Detection, Finder
from idgrpo.people.track import LinkSettings, link

OBSERVATION_VERSION = 3  # part of the cache key: raise it when an observation of the same clip would differ


def link_settings(config: FindingConfig) -> LinkSettings:
    """Follow people by position; see `FindingConfig.appearance` for why not by their look."""
    return LinkSettings(appearance=config.appearance, min_cosine=-np.inf, min_score=config.min_score)


def observe(clip: torch.Tensor, finder: Finder, config: FindingConfig, fps: float = 16.0) -> Observation:
    """Observe one clip uint8 [frame, 3, height, width]."""
    return assemble(clip, finder.find(clip), config, fps)


def assemble(
    clip: torch.Tensor, detections: Sequence[Sequence[Detection]], config: FindingConfig, fps: float = 16.0
) -> Observation:
    """Link detections (one list a frame) and put them into arrays beside the figures of the picture."""
    kept = [[d for d in found if d.score >= config.min_score] for found in detections]
    tracks = link(kept, link_settings(config))
    number = {id(d): index for index, track in enumerate(tracks) for d in track.detections.values()}
    rows = [(frame, d) for frame, found in enumerate(kept) for d in found]
    size = max((len(d.embedding) for _, d in rows if d.embedding is not None), default=1)
    embedding = np.full((len(rows), size), np.nan, np.float32)
    for row, (_, detection) in enumerate(rows):
        if detection.embedding is not None:
            vector = np.asarray(detection.embedding, np.float32)
            embedding[row] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return Observation(
        num_frames=len(clip),
        height_px=int(clip.shape[2]),
        width_px=int(clip.shape[3]),
        fps=float(fps),
        frame=np.array([frame for frame, _ in rows], np.int32),
        box=np.array([d.box for _, d in rows], np.float32).reshape(-1, 4),
        score=np.array([d.score for _, d in rows], np.float32),
        track=np.array([number.get(id(d), -1) for _, d in rows], np.int32),
        embedding=embedding,
        detail=np.array(face_details(clip, [frame for frame, _ in rows], [d.box for _, d in rows]), np.float32),
        print=track_prints(clip, [list(track.detections.values()) for track in tracks]),
        figures=picture_figures(clip, fps),
    )


@torch.no_grad()
def picture_figures(clip: torch.Tensor, fps: float) -> dict[str, float]:
    """Measure motion, sharpness, ripple and saturation of a clip uint8 [frame, 3, height, width]."""
    flow = flow_magnitudes(clip)  # [pair of frames, y, x], in heights of the frame
    strongest = flow.flatten(1).sort(1, descending=True).values
    top = strongest[:, : max(1, round(0.05 * strongest.shape[1]))].mean() if len(flow) else torch.zeros(())
    return {
        "dynamic_degree": float(flow.mean()) * fps if len(flow) else 0.0,
        "flow_top_share": float(top),
        "sharpness": mean_sharpness(clip),
        "ripple": residual_ripple(clip),
        "saturation": mean_saturation(clip),
    }
