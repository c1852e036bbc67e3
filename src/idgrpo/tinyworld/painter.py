"""Repainting people by rendering the scene again: exact, so a distorted clip shows no trace of the work."""

import torch
from torch import Tensor

from idgrpo.errors import DataError
from idgrpo.people.painter import Identity, Mirrored, Script
from idgrpo.records.models import Sample
from idgrpo.run.draws import generator
from idgrpo.tinyworld.cases import scene_of
from idgrpo.tinyworld.people import ATTRIBUTES, attributes_of, code_of, draw_people, is_held_out, person_code, person_id
from idgrpo.tinyworld.render import portraits, render

PARTS: dict[str, tuple[str, ...]] = {
    "hair": ("hair colour", "hair shape"),
    "skin": ("skin",),
    "shirt": ("shirt colour", "shirt pattern"),
    "trousers": ("trousers",),
}


class TinyPainter:
    """An `IdentityPainter` for clips that the world itself drew (`Sample.sampler["scene"]` names the scene)."""

    parts = tuple(PARTS)

    def __init__(self, scene_seed: int, codes: list[int], clip: Tensor):
        self.clip = clip
        self.codes = codes
        self.scenes, _ = scene_of(scene_seed, len(codes))
        self.own = render(self.scenes, torch.tensor([codes]))

    @classmethod
    def open(cls, sample: Sample, clip: Tensor) -> "TinyPainter | None":
        """Return a painter, or None where the truth behind the clip is not known."""
        scene = sample.sampler.get("scene")
        if sample.sampler.get("painter") != "tiny" or not isinstance(scene, int):
            return None
        try:
            codes = [person_code(reference.person) for reference in sample.references]
        except DataError:
            return None
        return cls(scene, codes, clip)

    def regions(self) -> Tensor:
        """Give the visible masks float32 [frame, slot, height, width]."""
        return self.own.visible[0].transpose(0, 1)

    def stranger(self, slot: int, hardness: float, draw: int) -> str | None:
        """Choose a person of the same split who shares about `hardness` of the slot's attributes, never all."""
        own = torch.tensor(self.codes[slot])
        held_out = bool(is_held_out(own))
        draws = generator("stranger", slot, draw)
        keep = min(len(ATTRIBUTES) - 1, round(hardness * (len(ATTRIBUTES) - 1)))
        for _ in range(200):
            chosen = attributes_of(draw_people(draws, (), held_out=held_out))
            kept = torch.randperm(len(ATTRIBUTES), generator=draws)[:keep]
            chosen[kept] = attributes_of(own)[kept]
            code = code_of(chosen)
            if int(code) not in self.codes and bool(is_held_out(code)) == held_out:
                return person_id(int(code))
        return None

    def paint(self, script: Script) -> Tensor:
        """Render the scene as the script says and add the change to the clip, which keeps the clip's own noise."""
        weights = torch.from_numpy(script.weights).float()  # [frame, slot, identity]
        presence = weights.sum(-1)
        share = weights / presence.clamp(min=1e-6).unsqueeze(-1)
        top = share.topk(min(2, share.shape[-1]), dim=-1)
        looks = torch.tensor([self._code(identity) for identity in script.identities])
        codes = looks[top.indices].permute(2, 1, 0)  # [rank, slot, frame]
        mix = top.values[..., 1:].sum(-1).T / top.values.sum(-1).T.clamp(min=1e-6)
        painted = render(self.scenes, codes[:1], other=codes[-1:], mix=mix[None], presence=presence.T[None])
        change = ((painted.pixels - self.own.pixels)[0] * 255).round()
        touched = torch.from_numpy(script.touched()).any(1).view(-1, 1, 1, 1)
        return torch.where(touched, (self.clip.float() + change).clamp(0, 255).byte(), self.clip)

    def reblend(self, script: Script) -> Tensor:
        """Return the clip itself: rendering again leaves no trace."""
        return self.clip

    def mirrored(self, slot: int, stranger: str, prompt: str) -> Mirrored | None:
        """Describe the stranger as the person asked for; prompts of this world name people by number only."""
        code = torch.tensor(person_code(stranger))
        draws = generator("mirrored", slot, int(code))
        photos = [(portraits(code) * 255).round().byte(), (portraits(code, draws) * 255).round().byte()]
        return Mirrored(person=stranger, portraits=photos, prompt=prompt)

    def _code(self, identity: Identity) -> int:
        source = self._attributes(identity.source)
        if identity.donor is not None:
            donor = self._attributes(identity.donor)
            names = list(ATTRIBUTES)
            for part in identity.parts:
                for attribute in PARTS[part]:
                    source[names.index(attribute)] = donor[names.index(attribute)]
        return int(code_of(source))

    def _attributes(self, person: int | str) -> Tensor:
        code = self.codes[person] if isinstance(person, int) else person_code(person)
        return attributes_of(torch.tensor(code)).clone()
