"""What every distortion of the registry promises, with the exact painter and with the compositing one."""

from functools import lru_cache

import numpy as np
import pytest
import torch

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.generate import renoise
from idgrpo.bases.load import load_base
from idgrpo.distort.contract import NotPossible, Scene
from idgrpo.distort.located import Located
from idgrpo.distort.mask_painter import MaskPainter
from idgrpo.distort.material import Gallery, GalleryEntry, material_of
from idgrpo.distort.registry import DISTORTIONS, load_distortion
from idgrpo.evaluate.config import FindingConfig
from idgrpo.evaluate.identity import identity
from idgrpo.evaluate.observe import assemble
from idgrpo.evaluate.subject import Subject
from idgrpo.people.boxes import covering
from idgrpo.people.painter import IdentityPainter
from idgrpo.records.models import Sample
from idgrpo.tinyworld.cases import make_cases, true_clip
from idgrpo.tinyworld.finder import TinyFinder
from idgrpo.tinyworld.oracle import track_scores
from idgrpo.tinyworld.painter import TinyPainter

NUM_CLIPS = 4
STRENGTHS = (0.0, 0.5, 1.0)
REPAINTED = [n for n, e in DISTORTIONS.items() if "distort.identity:" in e.target and not e.needs_generator]
# The painter matters where somebody is repainted; the others only ask it for regions.
CASES = [(name, "tiny") for name in DISTORTIONS] + [(name, "mask") for name in [*REPAINTED, "control_reblend"]]

# Rendering a clip again leaves no trace; and these clips never show what is behind a person (one in tests/distort does).
TRACELESS = {("tiny", "control_reblend"), ("mask", "drop")}


def cases(keep) -> list[tuple[str, str]]:
    return [(name, painter) for name, painter in CASES if keep(DISTORTIONS[name])]


def identity_or_degrade(entry) -> bool:
    return entry.family in ("identity", "degrade")


@lru_cache
def generator():
    return load_base("tiny-phantom")


def regenerate(clip, references, prompt, level, seed) -> torch.Tensor:
    return renoise(generator(), clip, references, prompt, level, seed, sampler=SamplerConfig(num_steps=4))


@lru_cache
def finder() -> TinyFinder:
    return TinyFinder()


def identity_by_finder(clips: list[torch.Tensor], references: list[torch.Tensor]) -> np.ndarray:
    """Measure identity as evaluation does, from pixels and portraits alone: [clip]."""
    looks = np.stack([finder().embed_reference(portrait) for portrait in references])
    found = finder().find_many(clips)
    seen = [assemble(clip, people, FindingConfig()) for clip, people in zip(clips, found, strict=True)]
    return np.array([identity(Subject(observation, looks)) for observation in seen])


@lru_cache
def tiny_scenes() -> list[tuple[Scene, list[str]]]:
    """Give true clips of the embedded world and who is in them."""
    scenes = []
    for drawn in make_cases(NUM_CLIPS, seed=11):
        clip = (true_clip(drawn.case).pixels[0] * 255).round().clamp(0, 255).byte()
        case = drawn.case
        sample = Sample(
            id=case.id, case_id=case.id, prompt=case.prompt, references=case.references, video="unused.mp4",
            base="tinyworld", policy=None, seed=0, sampler={"scene": case.seed, "painter": "tiny"},
        )  # fmt: skip
        painter = TinyPainter.open(sample, clip)
        portraits = [photos[0] for photos in drawn.photos]
        scenes.append((Scene(clip, painter, portraits, case.prompt, regenerate), [r.person for r in case.references]))
    return scenes


def located_from(regions: np.ndarray) -> Located:
    """Say where people are as a perfect finder would: regions [frame, slot, height, width]."""
    num_frames, num_slots = regions.shape[:2]
    boxes = np.full((num_slots, num_frames, 4), np.nan, np.float32)
    seen = np.zeros((num_slots, num_frames), bool)
    for slot in range(num_slots):
        for frame in range(num_frames):
            box = covering(regions[frame, slot], 0.3)
            if box is not None and (regions[frame, slot] > 0.3).sum() > 40:
                boxes[slot, frame], seen[slot, frame] = box, True
    masks = np.round(regions.transpose(1, 0, 2, 3) * 255).astype(np.uint8)
    looks = np.eye(num_slots, 8, dtype=np.float32)
    nothing = np.zeros((num_slots, num_frames), np.float32)
    return Located(boxes, seen, nothing, looks, np.ones(num_slots, np.float32), "person", masks)


@pytest.fixture(scope="module")
def scenes_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    entries, placed = [], []
    for index, (scene, people) in enumerate(tiny_scenes()):
        located = located_from(scene.regions.numpy())
        placed.append(located)
        for slot, person in enumerate(people):
            path = folder / f"{index}-{slot}.npz"
            material_of(scene.clip, located, slot).save(path)
            entries.append(GalleryEntry(f"{index}#{slot}", person, located.embeddings[slot], path))
    gallery = Gallery(entries)

    composited = [
        (Scene(scene.clip, MaskPainter(scene.clip, located, people, gallery), scene.references), people)
        for (scene, people), located in zip(tiny_scenes(), placed, strict=True)
    ]
    return lambda painter: tiny_scenes() if painter == "tiny" else composited


def outcomes(name: str, scenes, strength: float):
    """Run one distortion on each clip that allows it."""
    for index, (scene, people) in enumerate(scenes):
        try:
            yield scene, people, load_distortion(name)(scene, strength, np.random.default_rng(index))
        except NotPossible:
            continue


@pytest.mark.parametrize("painter", ["tiny", "mask"])
def test_painters_keep_their_contract(painter, scenes_of):
    scene, people = scenes_of(painter)[0]
    assert isinstance(scene.painter, IdentityPainter)
    regions = scene.regions
    assert regions.shape == (len(scene.clip), len(people), *scene.clip.shape[-2:]) and regions.dtype == torch.float32
    assert float(regions.min()) >= 0 and float(regions.max()) <= 1
    strangers = [scene.painter.stranger(0, hardness, 5) for hardness in (0.0, 1.0)]
    assert None not in strangers and not set(strangers) & set(people)
    assert strangers == [scene.painter.stranger(0, hardness, 5) for hardness in (0.0, 1.0)]


@pytest.mark.parametrize(("name", "painter"), CASES)
def test_strength_zero_is_the_clip_itself(name, painter, scenes_of):
    made = list(outcomes(name, scenes_of(painter), 0.0))
    assert made
    for scene, _, outcome in made:
        assert torch.equal(outcome.better, scene.clip) and torch.equal(outcome.worse, scene.clip)


@pytest.mark.parametrize(("name", "painter"), CASES)
def test_same_draw_same_pixels_shape_and_type(name, painter, scenes_of):
    scenes = scenes_of(painter)[:2]
    first, second = list(outcomes(name, scenes, 0.8)), list(outcomes(name, scenes, 0.8))
    assert len(first) == len(second)
    for (scene, _, one), (_, _, two) in zip(first, second, strict=True):
        assert torch.equal(one.better, two.better) and torch.equal(one.worse, two.worse)
        for side in (one.better, one.worse):
            assert side.shape == scene.clip.shape and side.dtype == torch.uint8


@pytest.mark.parametrize(("name", "painter"), CASES)
def test_full_strength_changes_pixels_and_leaves_the_source_alone(name, painter, scenes_of):
    before = [scene.clip.clone() for scene, _ in scenes_of(painter)]
    made = list(outcomes(name, scenes_of(painter), 1.0))
    if (painter, name) in TRACELESS:
        assert all(torch.equal(outcome.better, outcome.worse) for _, _, outcome in made)
        return
    # Two people may share a part by chance: then there is nothing to change, and the stage draws again.
    assert sum(not torch.equal(outcome.better, outcome.worse) for _, _, outcome in made) >= len(scenes_of(painter)) / 2
    assert all(torch.equal(a, scene.clip) for a, (scene, _) in zip(before, scenes_of(painter), strict=True))


@pytest.mark.parametrize(("name", "painter"), [(n, p) for n, p in CASES if n in REPAINTED])
def test_others_are_untouched(name, painter, scenes_of):
    """Outside the touched people's surroundings, and in frames in which nobody is touched, every pixel stays."""
    for scene, _, outcome in outcomes(name, scenes_of(painter), 0.6):
        touched = torch.from_numpy(outcome.script.touched())
        for side in (outcome.better, outcome.worse):
            changed = (side != scene.clip).any(1)
            assert not changed[~touched.any(1)].any()
            # A repainted person may be larger (hair, size): room of one person's radius around the old region.
            near = torch.nn.functional.max_pool2d((scene.regions > 0).float(), 15, 1, 7) > 0
            allowed = (near & touched[:, :, None, None]).any(1)
            assert not (changed & ~allowed).any()


@pytest.mark.parametrize(
    ("name", "painter"), [case for case in cases(identity_or_degrade) if case[::-1] not in TRACELESS]
)
def test_damage_grows_with_strength(name, painter, scenes_of):
    means = []
    for strength in STRENGTHS:
        made = list(outcomes(name, scenes_of(painter), strength))
        means.append(np.mean([float(track_scores(o.worse, people).mean()) for _, people, o in made]))
    if name == "swap":
        # A measure that gives each reference one track sees everybody in a full swap; the damage shows half-way.
        assert means[1] < 0.97 * means[0]
        return
    # A bent or blurred person is still that person to the oracle, which looks at colours: less must fall.
    assert means[-1] < (0.97 if DISTORTIONS[name].family == "identity" else 0.99) * means[0], means
    assert all(later <= earlier + 0.02 * means[0] for earlier, later in zip(means, means[1:], strict=False)), means


@pytest.mark.parametrize(("name", "painter"), cases(lambda entry: entry.family == "control"))
def test_controls_leave_identity_within_two_per_cent(name, painter, scenes_of):
    """By the finder, on average over clips: one face lost in one frame of nine alone is more than two per cent of a clip."""
    changes = []
    for scene, _, outcome in outcomes(name, scenes_of(painter), 1.0):
        clean, *sides = identity_by_finder([scene.clip, outcome.better, outcome.worse], scene.references)
        changes += [abs(side - clean) / clean for side in sides]
        if name != "control_reblend":  # it alone touches people: of the others no pixel of anybody changes
            anybody = scene.regions.amax(1) > 0.02
            assert not any(((side != scene.clip).any(1) & anybody).any() for side in (outcome.better, outcome.worse))
    assert changes or (name, painter) == ("control_reblend", "tiny")
    assert np.mean(changes or 0) <= 0.02


def test_every_target_can_be_imported_and_says_what_it_does():
    for name in DISTORTIONS:
        assert (load_distortion(name).__doc__ or "").strip(), name
