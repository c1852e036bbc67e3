"""Repaint people of real videos: cut out, align, match colours, feather, put back."""

from collections.abc import Callable

import numpy as np
import torch

from idgrpo.distort.contract import NotPossible
from idgrpo.distort.located import Located, smoothed
from idgrpo.distort.material import (
    CUT_PARTS,
    PARTS,
    Gallery,
    Material,
    canonical_mask,
    crop_size,
    cut,
    fitted,
    material_of,
    part_mask,
    placed,
    points_in_square,
    pose_at,
)
from idgrpo.distort.pixels import composite, gaussian
from idgrpo.distort.plate import MAX_FRAMES, around, column, usable_plate
from idgrpo.people.painter import Identity, Mirrored, Script

# Light belongs to the scene, complexion to the person: brightness is matched almost fully, hue only a little.
MATCH_LIGHT, MATCH_HUE = 0.7, 0.2
Crop = tuple[torch.Tensor, torch.Tensor, np.ndarray | None]  # pixels, mask, map from the slot's square to the crop


class MaskPainter:
    """Composite people of a clip through masks that follow their tracks.

    `located` says where they are (slot k = reference k); strangers come from `gallery`, which knows other clips' people.
    """

    def __init__(self, clip: torch.Tensor, located: Located, persons: list[str], gallery: Gallery | None = None):
        self.clip, self.located, self.persons, self.gallery = clip, located, persons, gallery
        self.parts = tuple(PARTS[located.covers])
        self._placed: dict[tuple[int, int], tuple[torch.Tensor, tuple[slice, slice]] | None] = {}
        self._materials: dict[int | str, Material] = {}
        self._regions: torch.Tensor | None = None

    def regions(self) -> torch.Tensor:
        """Give the soft masks of faces (or people, as the finder has it), float32 [frame, slot, height, width]."""
        if self._regions is not None:
            return self._regions
        num_frames, _, height, width = self.clip.shape
        masks = torch.zeros(num_frames, self.located.num_slots, height, width)
        for slot in range(self.located.num_slots):
            for frame in range(num_frames):
                put = self._region(slot, frame)
                if put is not None:
                    masks[frame, slot][put[1]] = put[0]
        self._regions = masks
        return masks

    def bodies(self) -> torch.Tensor:
        """Give where anybody of the case is, head to feet, float32 [frame, 1, height, width].

        Where a track has a gap, or has not begun, the person is taken to be where the track is next.
        """
        num_frames, _, height, width = self.clip.shape
        everywhere = (slice(0, height), slice(0, width))
        masks = torch.zeros(num_frames, 1, height, width)
        for slot in range(self.located.num_slots):
            known = np.flatnonzero(~np.isnan(self.located.boxes[slot]).any(-1))
            for frame in range(num_frames if len(known) else 0):
                nearest = int(known[np.abs(known - frame).argmin()])
                masks[frame, 0] = torch.maximum(masks[frame, 0], self._body(slot, nearest, *everywhere))
        return torch.maximum(masks, self.regions().amax(1, keepdim=True))

    def share_changed(self, change: torch.Tensor, script: Script) -> float:
        """Return how much of the parts that a script recolours differs, 0..1: of the part that changes most, averaged over frames.

        `change` float32 0..1 [frame, height, width]. Hair and clothes lie outside of a face's region.
        """
        weights = script.weights.max(0)  # [slot, identity]
        worn = {(s, part) for s, k in zip(*np.nonzero(weights), strict=True) for part in script.identities[k].parts}
        shares = [0.0]
        for slot, part in sorted(worn):
            put = [part_mask(self.located, int(slot), t, part, *change.shape[1:]) for t in range(len(change))]
            sizes = [0.0 if one is None else float(one[0].sum()) for one in put]
            seen = [0.0 if one is None else float((change[t][one[1]] * one[0]).sum()) for t, one in enumerate(put)]
            shares.append(sum(seen) / len(change) / max(*sizes, 1.0))
        return max(shares)

    def _region(self, slot: int, frame: int) -> tuple[torch.Tensor, tuple[slice, slice]] | None:
        """Give one person's mask in one frame and where that is, made once."""
        if (slot, frame) not in self._placed:
            pose = pose_at(self.located, slot, frame)
            put = None
            if pose is not None:
                mask = canonical_mask(self.located, slot, frame, crop_size(pose.side))
                put = placed(mask[None], pose, *self.clip.shape[-2:])
            self._placed[slot, frame] = None if put is None else (put[0][0], put[1])
        return self._placed[slot, frame]

    def _region_in(self, slot: int, frame: int, rows: slice, columns: slice) -> torch.Tensor | None:
        """Give a person's mask inside a part of a frame; None where the person is elsewhere."""
        put = self._region(slot, frame)
        if put is None:
            return None
        mask, (own_rows, own_columns) = put
        top, bottom = max(rows.start, own_rows.start), min(rows.stop, own_rows.stop)
        left, right = max(columns.start, own_columns.start), min(columns.stop, own_columns.stop)
        if top >= bottom or left >= right:
            return None
        part = torch.zeros(rows.stop - rows.start, columns.stop - columns.start)
        inside = mask[
            top - own_rows.start : bottom - own_rows.start, left - own_columns.start : right - own_columns.start
        ]
        part[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = inside
        return part

    def _unhidden(self, mask: torch.Tensor, slots: list[int], frame: int, where: tuple[slice, slice]) -> torch.Tensor:
        """Take the regions of some slots out of a mask."""
        for slot in slots:
            other = self._region_in(slot, frame, *where)
            if other is not None:
                mask = mask * (1 - other)
        return mask

    def stranger(self, slot: int, hardness: float, draw: int) -> str | None:
        """Choose from the gallery by embedding; people of this case are never chosen."""
        if self.gallery is None:
            return None
        return self.gallery.choose(self.persons, self.located.embeddings[slot], hardness, draw)

    def mirrored(self, slot: int, stranger: str, prompt: str) -> Mirrored | None:
        """Give None: the right words for a stranger in a free prompt are not known."""
        return None

    def material(self, who: int | str) -> Material:
        """Give the crops of a slot of this clip or of a stranger, cut once."""
        if who not in self._materials:
            if isinstance(who, int):
                self._materials[who] = material_of(self.clip, self.located, who, max_crops=len(self.clip))
            else:
                assert self.gallery is not None  # strangers come from it
                self._materials[who] = self.gallery.material(who)
        return self._materials[who]

    def paint(self, script: Script) -> torch.Tensor:
        """Composite the clip as the script says."""
        return self._worked(script, self._crop, with_absence=True)

    def reblend(self, script: Script) -> torch.Tensor:
        """Send every touched person through the same cut at the donor's resolution and back, with the own look."""

        def own(who: int | str, slot: int, frame: int) -> Crop:
            pose = pose_at(self.located, slot, frame)
            assert pose is not None  # `_put` asks only for frames with a pose
            size = self.material(who).crops.shape[-1]
            return cut(self.clip[frame], pose, size), canonical_mask(self.located, slot, frame, size), None

        return self._worked(script, own, with_absence=False)

    def _crop(self, who: int | str, slot: int, frame: int) -> Crop:
        """Choose a person's crop for a frame: the same moment in this clip, a to-and-fro through a stranger's.

        The map lays its eyes, nose and mouth on those of the slot: at half strength there are two brows, not four.
        """
        material = self.material(who)
        if isinstance(who, int):
            index = int(np.abs(material.frames - frame).argmin())
        else:
            period = max(1, 2 * (len(material.crops) - 1))
            index = min(frame % period, period - frame % period)
        warp = fitted(points_in_square(self.located, slot, frame), material.points[index])
        return material.crops[index].float(), material.masks[index], warp

    def _worked(self, script: Script, source: Callable, with_absence: bool) -> torch.Tensor:
        result = self.clip.clone()
        for slot in self._back_to_front():
            touched = np.flatnonzero(script.touched()[:, slot])
            for index, identity in enumerate(script.identities):
                if index == slot:
                    continue
                frames = [int(t) for t in touched if script.weights[t, slot, index] > 0]
                shares = {t: float(script.weights[t, slot, index]) for t in frames}
                if frames and not (identity.parts and identity.source == slot):
                    self._put(result, slot, identity.source, shares, source)
                if identity.donor is not None:
                    for part in identity.parts:
                        if frames and part in CUT_PARTS:
                            self._put(result, slot, identity.donor, shares, source, part)
                if frames and identity.parts and with_absence:
                    self._recolor(result, slot, identity, shares)
            if with_absence:
                presence = script.weights[:, slot].sum(-1)
                gone = {int(t): float(1 - presence[t]) for t in touched if presence[t] < 1 - 1e-6}
                if gone:
                    self._remove(result, slot, gone)
        return result

    def _back_to_front(self) -> list[int]:
        """Order slots by size: the larger face or person is nearer."""
        sides = [
            np.nanmean(self.located.boxes[s, :, 3] - self.located.boxes[s, :, 1]) for s in range(self.located.num_slots)
        ]
        return [int(s) for s in np.argsort(sides)]

    def _nearer(self, slot: int) -> list[int]:
        """List those who stand before a slot."""
        order = self._back_to_front()
        return order[order.index(slot) + 1 :]

    def _put(
        self,
        result: torch.Tensor,
        slot: int,
        who: int | str,
        shares: dict[int, float],
        source: Callable,
        part: str | None = None,
    ) -> None:
        """Mix a person's crops over a slot, in place; all of the face or one part of it."""
        height, width = result.shape[-2:]
        poses = {t: pose_at(self.located, slot, t) for t in shares if self.located.seen[slot, t]}
        patches = {}
        for frame, pose in poses.items():
            if pose is None:
                continue
            crop, mask, warp = source(who, slot, frame)
            put = placed(torch.cat([crop, mask[None]]), pose, height, width, warp)
            if put is None:
                continue
            if part is not None and (region := part_mask(self.located, slot, frame, part, height, width)) is not None:
                shown = torch.zeros(height, width)
                shown[region[1]] = region[0]
                put[0][3] *= shown[put[1]]
            patches[frame] = put
        offsets = self._light(patches)
        for frame, (patch, (rows, columns)) in patches.items():
            mask = self._unhidden(patch[3] * shares[frame], self._nearer(slot), frame, (rows, columns))
            # Resampling dims a crop towards the border of its square; there the mask is 0 already.
            inside, rim = (offset[:, None, None] for offset in offsets[frame])
            layer = (patch[:3] + torch.lerp(rim, inside, patch[3])).clamp(0, 255)
            below = result[frame, :, rows, columns]
            result[frame, :, rows, columns] = composite(below[None], layer[None], mask[None])[0]

    def _light(
        self, patches: dict[int, tuple[torch.Tensor, tuple[slice, slice]]]
    ) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Say how much to add to each patch's RGB so that it sits in the light of the scene, inside and at its rim; smooth over time.

        The rim takes all of the colour around it, or the cut would show; the complexion returns towards the middle.
        """
        if not patches:
            return {}
        gaps: list[list[np.ndarray]] = [[], []]
        for frame, (patch, (rows, columns)) in patches.items():
            gap = self.clip[frame, :, rows, columns].float() - patch[:3]
            for held, weight in zip(gaps, (patch[3], patch[3] * (1 - patch[3])), strict=True):
                held.append((gap * weight).sum((1, 2)).div(weight.sum().clamp(min=1e-6)).numpy())
        inside, rim = (torch.from_numpy(smoothed(np.stack(gap), radius=4)) for gap in gaps)
        light = inside.mean(1, keepdim=True)
        offsets = MATCH_LIGHT * light + MATCH_HUE * (inside - light)
        return dict(zip(patches, zip(offsets, rim, strict=True), strict=True))

    def _recolor(self, result: torch.Tensor, slot: int, identity: Identity, shares: dict[int, float]) -> None:
        """Move the mean colour of each part to that of its wearer, keeping shading and texture, in place."""
        height, width = result.shape[-2:]
        assert identity.donor is not None  # a recoloured person takes somebody's colours
        for part in self.parts:
            if part in CUT_PARTS:
                continue
            wearer = identity.donor if part in identity.parts else identity.source
            # Who is put over a slot brings the parts that lie in the crop.
            shown = identity.source if self.located.covers == "person" or part == "skin" else slot
            worn, now = self.material(wearer).colors, self.material(shown).colors
            if wearer == shown or part not in worn or part not in now:
                continue
            shift = torch.tensor(worn[part]) - torch.tensor(now[part])
            for frame, share in shares.items():
                put = part_mask(self.located, slot, frame, part, height, width)
                if put is None:
                    continue
                mask, (rows, columns) = put
                mask = self._unhidden(mask * share, self._nearer(slot), frame, (rows, columns))
                below = result[frame, :, rows, columns]
                painted = below.float() + shift[:, None, None]
                result[frame, :, rows, columns] = composite(below[None], painted[None], mask[None])[0]

    def _body(self, slot: int, frame: int, rows: slice, columns: slice) -> torch.Tensor:
        """Mask a whole person generously in a part of a frame: from a face, a column down to the feet."""
        if self.located.covers == "person":
            mask = self._region_in(slot, frame, rows, columns)
            empty = torch.zeros(rows.stop - rows.start, columns.stop - columns.start)
            return empty if mask is None else (gaussian(mask[None, None], 1.0)[0, 0] * 2).clamp(0, 1)
        pose = pose_at(self.located, slot, frame)
        if pose is None:
            return torch.zeros(rows.stop - rows.start, columns.stop - columns.start)
        return column(pose, rows, columns)

    def _remove(self, result: torch.Tensor, slot: int, gone: dict[int, float]) -> None:
        """Show what is behind a person, in place."""
        poses = [pose for frame in gone if (pose := pose_at(self.located, slot, frame)) is not None]
        rows, columns = around(poses, self.located.covers, *self.clip.shape[-2:])
        step = max(1, len(self.clip) // MAX_FRAMES)
        sampled = range(0, len(self.clip), step)
        masks = {t: self._body(slot, t, rows, columns) for t in {*gone, *sampled}}
        hidden = torch.stack([masks[t] > 0 for t in sampled])
        others = [s for s in range(self.located.num_slots) if s != slot]
        for other in others:
            hidden |= torch.stack([self._body(other, t, rows, columns) > 0 for t in sampled])
        needed = torch.stack([masks[t] > 0 for t in gone]).any(0)
        try:
            plate = usable_plate(self.clip[::step, :, rows, columns], hidden, needed)
        except NotPossible as error:
            raise NotPossible(str(error), slot) from None
        for frame, share in gone.items():
            mask = self._unhidden(masks[frame] * share, others, frame, (rows, columns))
            below = result[frame, :, rows, columns]
            result[frame, :, rows, columns] = composite(below[None], plate[None], mask[None])[0]
