"""What a full-size run holds in memory, and when: encoders first, then the transformer; held-out cases on their own terms."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from idgrpo.bases.conditions import ConditionsCache
from idgrpo.bases.contract import VideoSize
from idgrpo.bases.load import load_base
from idgrpo.errors import DataError
from idgrpo.policy.config import EvaluationConfig, PolicyConfig
from idgrpo.policy.groups import CaseBook
from idgrpo.policy.measured import HeldOut
from idgrpo.policy.train import train
from idgrpo.records.models import Case, Reference
from idgrpo.run.distributed import World
from idgrpo.run.folder import RunFolder
from idgrpo.video.write import write_image

SIZE = VideoSize(32, 32, 5)
SETTINGS = {
    "num_updates": 1,
    "size": {"width": 32, "height": 32, "frames": 5},
    "group": {"num_cases": 2, "size": 2},
    "rollout": {"num_steps": 3, "window": {"size": 1, "last": 2}},
    "advantage": {"controls": [], "hold": 0},
    "lora": {"rank": 2},
    "reward": {"contrast": 0, "retry_wait_s": 0.0},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    from tiny_checkpoints import TINY_VAE, write_diffusers_base

    return write_diffusers_base(tmp_path_factory.mktemp("base") / "vace", "vace", TINY_VAE)


def write_cases(folder: Path, num: int) -> list[Case]:
    made = []
    for index in range(num):
        path = folder / f"{index}.png"
        source = torch.Generator().manual_seed(index)
        write_image(path, torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8, generator=source))
        made.append(
            Case(id=f"case-{index}", prompt=f"walk {index}", references=[Reference(person="p", images=[str(path)])])
        )
    return made


def redness(videos, references, prompts):
    return [float(video[:, 0].float().mean()) for video in videos]


def full_size(base):
    """Let a small base be treated as a large one: encoded at once, without its transformer."""
    base.entry = replace(base.entry, architecture="vace-1.3b")
    return base


def test_encoders_and_transformer_are_never_in_memory_together(checkpoint, tmp_path):
    base = full_size(load_base(str(checkpoint), with_transformer=False))
    events = []
    encode, release, read = base.encode, base.text_encoder.release, base._read_transformer
    base.encode = lambda *given: (events.append("encode"), encode(*given))[1]
    base.text_encoder.release = lambda: (events.append("release"), release())[1]
    base._read_transformer = lambda: (events.append("transformer"), read())[1]
    base.when_loaded = lambda _: events.append("reward")
    config = PolicyConfig.model_validate(SETTINGS)
    cases, cache = write_cases(tmp_path, 3), ConditionsCache(tmp_path / "conditions")
    with RunFolder.open(tmp_path / "run", {}) as run:
        train(base, cases, redness, config, run, out=tmp_path / "out", cache=cache)
    assert events == ["encode"] * 3 + ["release", "transformer", "reward"]

    again = full_size(load_base(str(checkpoint), with_transformer=False))  # another run: every encoding lies on disk
    again.encode = lambda *given: pytest.fail("encoded twice")
    with RunFolder.open(tmp_path / "again", {}) as run:
        train(again, cases, redness, config, run, out=tmp_path / "out-again", cache=ConditionsCache(cache.folder))


class OneOfTwo(World):
    """A rank of two whose barrier waits for nobody."""

    def barrier(self) -> None:
        pass


def test_each_rank_encodes_its_share_where_the_cache_lies_on_disk(checkpoint, tmp_path):
    cases, encoded = write_cases(tmp_path, 5), []
    for rank in range(2):
        base = load_base(str(checkpoint), with_transformer=False)
        encode = base.encode
        base.encode = lambda prompt, *given, encode=encode: (encoded.append(prompt), encode(prompt, *given))[1]
        book = CaseBook(base, cases, SIZE, ConditionsCache(tmp_path / "conditions"))
        book.encode_all(OneOfTwo(rank, 2, rank))
    assert sorted(encoded) == [case.prompt for case in cases]
    assert torch.equal(book[0].references, base.encode(cases[0].prompt, book.references(0), SIZE).references)


class SeesColour:
    """Sees a person in a photo unless it is black."""

    def embed_reference(self, image):
        if not image.any():
            raise DataError("no face was found")
        return torch.nn.functional.normalize(image.float().mean((1, 2)), dim=0).numpy()

    def find(self, clip):
        return [[] for _ in clip]


def held_out(cases, folder, **given) -> HeldOut:
    config = EvaluationConfig(every=1, **given)
    return HeldOut(cases, [], folder, config=config, size=SIZE, finder=SeesColour())


def test_held_out_clips_have_the_training_size_unless_another_is_set(checkpoint, tmp_path):
    base, cases = load_base(str(checkpoint)), write_cases(tmp_path, 2)
    asked = held_out(cases, tmp_path / "a", sampler={"num_steps": 2}).sampler
    assert asked.size(base.entry) == SIZE and asked.num_steps == 2
    other = held_out(cases, tmp_path / "b", sampler={"width": 64, "num_steps": 2, "batch_size": 1})
    assert other.sampler.size(base.entry) == VideoSize(64, 32, 5)
    figures = other(base, 3)
    assert figures["num_cases"] == 2 and figures["coverage"] == 0
    assert len(list((tmp_path / "b" / "update-000003" / "videos").iterdir())) == 2


def test_a_photo_without_a_face_is_left_out_and_said(checkpoint, tmp_path, caplog):
    base, cases = load_base(str(checkpoint)), write_cases(tmp_path, 3)
    write_image(Path(cases[1].references[0].images[0]), torch.zeros(3, 64, 64, dtype=torch.uint8))
    measure = held_out(cases, tmp_path / "heldout")
    with caplog.at_level(logging.WARNING):
        measure.prepare(base)
    assert [case.id for case in measure.cases] == ["case-0", "case-2"]
    assert "case-1" in caplog.text and "no face was found" in caplog.text
    with pytest.raises(DataError, match="sees nobody"):
        held_out(cases[1:2], tmp_path / "none").prepare(base)


def test_held_out_cases_are_dealt_over_the_ranks(checkpoint, tmp_path):
    base, cases = load_base(str(checkpoint)), write_cases(tmp_path, 3)
    shared: dict[int, list] = {}

    class Dealt(World):
        def gather(self, value):
            shared[self.rank] = value
            return [shared.get(rank, []) for rank in range(2)]

    told = {}
    for rank in (1, 0):
        config = EvaluationConfig(every=1, sampler={"num_steps": 2})
        world = Dealt(rank, 2, rank)
        measure = HeldOut(cases, [], tmp_path / "h", config=config, size=SIZE, world=world, finder=SeesColour())
        told[rank] = measure(base, 0)
    assert told[1] == {} and told[0]["num_cases"] == 3
    assert [len(shared[rank]) for rank in (0, 1)] == [2, 1]
