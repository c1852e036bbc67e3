"""How pixels become latents and tokens: factors read from the models' own configuration, and the checks of sizes."""

from collections.abc import Mapping
from dataclasses import dataclass

from idgrpo.bases.contract import VideoSize
from idgrpo.errors import UsageError

VAE_CHUNK_FRAMES = 4
"""`AutoencoderKLWan` encodes one frame and then chunks of four, whatever its factor in time; a rest is dropped."""


@dataclass(frozen=True)
class Geometry:
    """Factors between pixels and latents (spatial, temporal), channels of the latent (z), patch of the transformer."""

    spatial: int
    temporal: int
    z: int
    patch: tuple[int, int, int]

    @staticmethod
    def of(vae_config: Mapping, transformer_config: Mapping) -> "Geometry":
        """Read the factors from the structure: downsamplings halve space, the marked ones time; a patch comes on top.

        `scale_factor_spatial` of the configuration is not used: older files lack it.
        """
        downsample = vae_config["temperal_downsample"]  # spelled so in the public files
        return Geometry(
            spatial=2 ** len(downsample) * (vae_config.get("patch_size") or 1),
            temporal=2 ** sum(bool(flag) for flag in downsample),
            z=vae_config["z_dim"],
            patch=tuple(transformer_config["patch_size"]),
        )

    @property
    def mask_channels(self) -> int:
        """Channels of VACE's mask: one for each pixel of a latent cell."""
        return self.spatial**2

    def latent_frames(self, frames: int) -> int:
        """Give the number of latent frames of a clip; the first frame stands alone."""
        return (frames - 1) // self.temporal + 1

    def encodable_frames(self, frames: int) -> int:
        """Give the smallest number of frames, at least `frames`, that the VAE encodes without dropping a rest."""
        step = max(VAE_CHUNK_FRAMES, self.temporal)
        return 1 + -(-(frames - 1) // step) * step

    def latent_size(self, size: VideoSize) -> tuple[int, int, int]:
        """Give (frame, height, width) of the latents of a clip."""
        return self.latent_frames(size.frames), size.height // self.spatial, size.width // self.spatial

    def num_tokens(self, size: VideoSize, num_references: int) -> int:
        """Give the length of the transformer's sequence, references included."""
        frames, height, width = self.latent_size(size)
        return ((frames + num_references) // self.patch[0]) * (height // self.patch[1]) * (width // self.patch[2])

    def check(self, size: VideoSize) -> None:
        """Refuse a size that the models cannot make: UsageError with the arithmetic and the nearest valid size."""
        problems, valid = [], {}
        for axis, step in (("width", self.spatial * self.patch[2]), ("height", self.spatial * self.patch[1])):
            value = getattr(size, axis)
            valid[axis] = max(step, round(value / step) * step)
            if value < step or value % step:
                factors = f"{self.spatial} (VAE) x {step // self.spatial} (patch)"
                problems.append(f"{axis} {value} is not a multiple of {step} = {factors}")
        steps = max(0, round((size.frames - 1) / self.temporal))
        valid["frames"] = steps * self.temporal + 1
        if size.frames < 1 or (size.frames - 1) % self.temporal:
            problems.append(f"frames {size.frames} is not {self.temporal} k + 1")
        if problems:
            nearest = VideoSize(valid["width"], valid["height"], valid["frames"])
            raise UsageError(f"size {size} does not fit: {'; '.join(problems)}", fix=f"use {nearest}")
