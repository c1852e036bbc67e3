import numpy as np
import pytest
import torch

from idgrpo.errors import DataError, MachineError
from idgrpo.people import FINDERS
from idgrpo.people.align import crop_square
from idgrpo.people.contract import Finder
from idgrpo.people.facenet import (
    FacenetEmbedder,
    FacenetFinder,
    cached_weights,
)
from idgrpo.people.load import load_finder
from idgrpo.people.match import match_tracks
from idgrpo.people.track import link

pytest.importorskip("facenet_pytorch")


@pytest.fixture
def finder(pixel_embedder):
    return FacenetFinder(embedder=pixel_embedder, min_face_px=30)


def test_two_real_faces_that_cross_are_found_tracked_and_matched(finder, photographs, crossing_clip):
    assert isinstance(finder, Finder)
    found = finder.find(crossing_clip)
    tracks = link(found)
    references = [finder.embed_reference(photo) for photo in photographs]
    chosen, table = match_tracks(references, tracks)
    assert None not in chosen and len(set(chosen)) == 2
    num_right = 0
    for frame in range(len(crossing_clip)):
        rights = []
        for person, track in enumerate(chosen):
            detection = tracks[track].detections.get(frame)
            # Person 0 keeps the upper half of the picture, person 1 the lower: that is how the clip is made.
            rights.append(detection is not None and ((detection.box[1] + detection.box[3]) / 2 > 120) == bool(person))
        num_right += all(rights)
    assert num_right >= 0.95 * len(crossing_clip)
    for person, track in enumerate(chosen):
        assert table[person, track] > np.delete(table[person], track).max() + 0.2


def test_a_face_hidden_for_some_frames_keeps_its_track(finder, crossing_clip):
    clip = crossing_clip.clone()
    clip[8:12, :, 120:] = 128
    found = finder.find(clip)
    assert all(len(found[t]) == 1 for t in range(8, 12))
    tracks = link(found)
    assert len(tracks) == 2
    assert all(track.box_at(10) is not None for track in tracks)


def test_embeddings_are_unit_vectors_of_one_space(finder, photographs):
    vector = finder.embed_reference(photographs[0])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert finder.find(photographs[0][None])[0][0].embedding @ vector == pytest.approx(1, abs=1e-5)


def test_nobody_in_the_picture(finder):
    blank = torch.full((3, 120, 120), 128, dtype=torch.uint8)
    assert finder.find(blank[None].repeat(2, 1, 1, 1)) == [[], []]
    with pytest.raises(DataError, match="no face"):
        finder.embed_reference(blank)


def test_pictures_smaller_than_a_face_hold_none(finder):
    assert finder.find(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)) == [[], []]


def test_missing_weights_are_named_with_the_one_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert cached_weights().parent == tmp_path / "checkpoints"
    with pytest.raises(MachineError, match="no face embedding weights") as caught:
        load_finder("facenet")
    assert "InceptionResnetV1(pretrained='vggface2')" in caught.value.fix


def test_weights_from_a_file_with_or_without_logits(tmp_path):
    from facenet_pytorch import InceptionResnetV1

    torch.manual_seed(0)
    model = InceptionResnetV1(pretrained=None, classify=False)
    state = model.state_dict()
    torch.save(state | {"logits.weight": torch.zeros(3, 512), "logits.bias": torch.zeros(3)}, tmp_path / "with.pt")
    embedder = FacenetEmbedder(tmp_path / "with.pt")
    crops = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    vectors = embedder.embed(crops)
    assert vectors.shape == (2, 512) and np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(2), abs=1e-5)
    assert embedder.embed(crops[:1])[0] == pytest.approx(vectors[0], abs=1e-5)
    state.pop("last_linear.weight")
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(MachineError, match="last_linear"):
        FacenetEmbedder(tmp_path / "cut.pt")


def test_crops_are_square_and_reach_over_the_edge():
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[:, :, :20] = 200
    crop = crop_square(image, (-10, 5, 20, 25), 24, margin=0.0)
    assert crop.shape == (3, 24, 24) and int(crop[0, 12, 0]) == 200
    assert torch.equal(crop_square(image, (0, 0, 40, 40), 40, margin=0.0), image)


def test_the_registry_names_finders_and_refuses_others():
    from idgrpo.errors import UsageError

    assert set(FINDERS) >= {"tiny", "facenet", "arcface"}
    with pytest.raises(UsageError, match="unknown finder 'acrface'.*facenet"):
        load_finder("acrface")
    with pytest.raises(UsageError, match="no option 'min_face'; did you mean 'min_face_px'"):
        load_finder("facenet", min_face=30)
    with pytest.raises(UsageError, match="has no class 'Nobody'"):
        load_finder("idgrpo.people.facenet:Nobody")
    assert isinstance(load_finder("idgrpo.people.facenet:FacenetFinder", embedder=False), FacenetFinder)
