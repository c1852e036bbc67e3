"""What a policy says about its training: read whole or refused by field, compared with the sampler, taken over."""

import json
import subprocess
import sys

import pytest

from idgrpo.bases.config import SamplerConfig
from idgrpo.bases.entries import ENTRIES
from idgrpo.bases.policy_card import PolicyCard, as_trained, read_policy_card, trained_otherwise
from idgrpo.errors import ArtifactError

SIGMAS = [1.0 - k / 25 for k in range(26)]
TRAINED = {
    "schema": 1,
    "base": "phantom",
    "updates": 300,
    "size": {"width": 416, "height": 240, "frames": 33},
    "schedule": {"law": "wan", "shift": 5.0, "sigmas": SIGMAS, "guidance": {"mode": "none", "scale": None}},
    "config": {"anything": [1]},
}


def card(**changes):
    return PolicyCard.model_validate(TRAINED | changes)


def written(folder, text):
    (folder / "policy.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_a_difference_is_one_sentence():
    told = trained_otherwise(card(), SamplerConfig(), ENTRIES["phantom"])
    assert told == (
        "the policy was trained with size 416x240x33, 25 steps, no guidance; these clips have size 832x480x81, 50 steps, "
        "guidance 7.5 (references 5) (--as-trained takes the settings of training)"
    )
    guided = {"mode": "detach-uncond", "scale": 4.5, "image_scale": None}
    other = card(schedule=TRAINED["schedule"] | {"guidance": guided, "shift": 3.0}, reversed_references=True)
    told = trained_otherwise(other, SamplerConfig(width=416, height=240, frames=33, num_steps=25), ENTRIES["vace"])
    assert told == (
        "the policy was trained with guidance 4.5, references in reversed order; these clips have guidance 5, "
        "references in the case's order (--as-trained takes the settings of training)"
    )


@pytest.mark.parametrize("base", ["vace", "phantom"])
@pytest.mark.parametrize(
    "guidance",
    [
        {"mode": "none", "scale": None},
        {"mode": "both-grad", "scale": None, "image_scale": None},
        {"mode": "detach-uncond", "scale": 4.5, "image_scale": 2.0},
    ],
)
def test_as_trained_leaves_no_difference(base, guidance):
    trained = card(schedule=TRAINED["schedule"] | {"guidance": guidance})
    own = SamplerConfig(solver="second-order", guidance=2.0, image_guidance=9.0, width=64)
    taken = SamplerConfig.model_validate(own.model_dump() | as_trained(trained))
    assert trained_otherwise(trained, taken, ENTRIES[base]) is None
    full = taken.resolved(ENTRIES[base])
    assert (full.width, full.num_steps, full.shift, full.guidance_mode) == (416, 25, 5.0, guidance["mode"])
    assert taken.solver == "second-order", "what training does not say stays"
    if guidance["scale"] is None and guidance["mode"] != "none":
        assert full.guidance == ENTRIES[base].guidance.scale, "None is the base's own"


def test_a_card_that_says_little_demands_nothing():
    assert trained_otherwise(PolicyCard(base="vace"), SamplerConfig(), ENTRIES["vace"]) is None
    assert as_trained(PolicyCard()) == {"reversed_references": False}


def test_what_training_writes_is_read(tmp_path):
    assert read_policy_card(tmp_path) is None
    assert read_policy_card(written(tmp_path, json.dumps(TRAINED))) == card()
    marked = written(tmp_path, b"\xef\xbb\xbf" + json.dumps(TRAINED).encode())
    assert read_policy_card(marked) == card(), "a byte-order mark says nothing"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'\xef\xbb\xbf{"schema": 1, "base": ["tiny-phantom"]}', r"base: Input should be a valid string"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("{", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("[]", "a table is expected, not a list"),
        ('"tiny-vace"', "a table is expected, not a str"),
        ('{"size": {"width": "416", "height": 240, "frames": 33}}', "size.width: "),
        ('{"size": {"width": 416, "height": 240}}', "size.frames: "),
        ('{"size": [416, 240, 33]}', "size: "),
        ('{"schedule": {"shift": NaN, "sigmas": [1, 0]}}', "schedule.shift: "),
        ('{"schedule": {"shift": 3, "sigmas": [1, Infinity]}}', "schedule.sigmas.1: "),
        ('{"schedule": {"shift": 3, "sigmas": []}}', "schedule.sigmas: "),
        ('{"schedule": {"shift": 3, "sigmas": [1, 0], "guidance": {"mode": "some"}}}', "schedule.guidance.mode: "),
        ('{"reversed_references": "yes"}', "reversed_references: "),
    ],
)
def test_a_broken_card_names_file_and_field(tmp_path, text, words):
    with pytest.raises(ArtifactError, match=words) as caught:
        read_policy_card(written(tmp_path, text))
    assert str(tmp_path / "policy.json") in caught.value.message and caught.value.fix


def test_reading_a_card_imports_no_torch():
    code = "import idgrpo.bases.policy_card, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
