"""`idgrpo eval --finder facenet` on real faces, with random embedding weights: what is found is real, who it is is not.

MTCNN ships its weights; InceptionResnetV1's are a download. So presence (coverage, number of people) is checked here, and likeness
is not. `pytest -m slow tests/evaluate/test_real_faces.py`.
"""

import json

import pytest
import torch
from tests.people.conftest import make_crossing, photographs  # noqa: F401

from idgrpo.cli.main import run
from idgrpo.people.facenet import WEIGHTS_FILE
from idgrpo.records.jsonl import write_records
from idgrpo.records.models import Reference, Sample
from idgrpo.video.write import write_image, write_video

facenet = pytest.importorskip("facenet_pytorch")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Put random weights where facenet-pytorch keeps its download."""
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    state = facenet.InceptionResnetV1(pretrained=None, classify=False).state_dict()
    torch.save(state, tmp_path / "torch" / "checkpoints" / WEIGHTS_FILE)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.mark.slow
def test_a_missing_person_is_seen_on_real_faces(weights, photographs, tmp_path, capsys):  # noqa: F811
    for index, photo in enumerate(photographs):
        write_image(tmp_path / f"{index}.png", photo)
    both = make_crossing(photographs, 8)
    one = both.clone()
    one[:, :, 115:] = 128  # the lower of the two is painted over
    references = [Reference(person=f"p{k}", images=[str(tmp_path / f"{k}.png")]) for k in range(2)]
    for name, clip in (("base", one), ("tuned", both)):
        write_video(tmp_path / f"{name}.mp4", clip)
        sample = Sample(
            id=name, case_id="c", prompt="two people", references=references, video=str(tmp_path / f"{name}.mp4"),
            base="recorded", policy=None, seed=0, sampler={},
        )  # fmt: skip
        write_records(tmp_path / f"{name}.jsonl", [sample])
    words = ["eval", "--store", tmp_path / "store", "--samples", f"base={tmp_path}/base.jsonl"]
    words += ["--samples", f"tuned={tmp_path}/tuned.jsonl", "--json"]
    assert run(list(map(str, words))) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["finder"] == "facenet"
    means = document["means"]
    assert (means["base"]["count_accuracy"]["value"], means["base"]["coverage"]["value"]) == (0, 0.5)
    assert means["tuned"]["count_accuracy"]["value"] == means["tuned"]["coverage"]["value"] == 1
    assert means["base"]["worst"]["value"] == 0 < means["tuned"]["worst"]["value"]
