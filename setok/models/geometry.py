"""Where a cluster lies, how large it is and what shape it has, told to its token.

Averaging patches keeps what they look like and loses how they lie. Both remedies here see a cluster in its own frame: from its
centre, in units of its extent, so that a shape reads the same wherever it stands and however large it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

HARMONICS = (0.5, 1.0, 2.0)
RELATIVE = 2 + 4 * len(HARMONICS)
"""Numbers that say where a patch lies in its cluster."""
REACH = 2.2
"""Half the side of the crop in units of the extent: a square of side 1 has extent 0.41, so this sees all of it."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Centre and extent of every cluster, in shares of the picture's side."""

    centre: Float[Tensor, "batch clusters 2"]
    """x and y."""
    extent: Float[Tensor, "batch clusters"]
    """Root of the mean variance over both axes, at least that of one patch."""
    area: Float[Tensor, "batch clusters"]
    """Share of the patches."""
    places: Float[Tensor, "batch patches 2"]
    """Middles of the patches."""
    cells: Int[Tensor, "batch 2"]
    """Columns and rows of patches that the picture has, without padding."""
    grid: tuple[int, int]
    """Rows and columns, with padding."""

    @classmethod
    def of(
        cls,
        members: Float[Tensor, "batch clusters patches"],
        grid: tuple[int, int],
        real: Bool[Tensor, "batch patches"] | None = None,
    ) -> Frame:
        """The frames of clusters that have these patches.

        Args:
            members: 1 for the patches of a cluster.
            grid: rows and columns of patches.
            real: False for patches of padding, below and to the right of a picture; they change no frame.
        """
        if real is None:
            real = torch.ones(len(members), grid[0] * grid[1], dtype=torch.bool, device=members.device)
        own = real.view(-1, *grid)
        cells = torch.stack([own.any(1).sum(-1), own.any(2).sum(-1)], -1).clamp_min(1)
        places = patch_places(grid).to(members.device) / cells.unsqueeze(1)
        mass = members.sum(-1, keepdim=True).clamp_min(1e-6)
        share = members / mass
        centre = share @ places
        variance = share @ places.square() - centre.square()
        patch = 1 / (12 * cells.amax(-1, keepdim=True) ** 2)  # of places inside one patch
        extent = (variance.clamp_min(0).mean(-1) + patch).sqrt()
        area = mass.squeeze(-1) / cells.prod(-1, keepdim=True)
        return cls(centre=centre, extent=extent, area=area, places=places, cells=cells, grid=grid)

    def relative(self, assignment: Int[Tensor, "batch patches"]) -> Float[Tensor, "batch patches numbers"]:
        """Where every patch lies in its own cluster: offsets from its centre and their sines and cosines."""
        own = assignment.clamp_min(0)
        centre = self.centre.gather(1, own.unsqueeze(-1).expand(-1, -1, 2))
        offset = (self.places - centre) / self.extent.gather(1, own).unsqueeze(-1)
        waves = [wave(offset * torch.pi * h) for h in HARMONICS for wave in (torch.sin, torch.cos)]
        return torch.cat([offset, *waves], -1)


class Outline(nn.Module):
    """Place, size and a crop of the mask of every cluster, as something to add to its token.

    The crop is centred, scaled by the cluster's extent, and reads the mask between patches by linear interpolation.
    """

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.Sequential(nn.Linear(side**2 + 4, width), nn.GELU(), nn.Linear(width, width))

    def forward(
        self, members: Float[Tensor, "batch clusters patches"], frame: Frame
    ) -> Float[Tensor, "batch clusters width"]:
        """``members`` says how much every patch belongs to a cluster, up to a factor."""
        known = torch.cat(
            [
                self.crop(members, frame),
                frame.centre,
                frame.extent.log().unsqueeze(-1),
                frame.area.clamp_min(1e-6).log().unsqueeze(-1),
            ],
            -1,
        )
        return self.layers(known.to(next(self.layers.parameters()).dtype))

    def crop(
        self, members: Float[Tensor, "batch clusters patches"], frame: Frame
    ) -> Float[Tensor, "batch clusters cells"]:
        """Mask in [0, 1] at the cells of a lattice in the cluster's frame."""
        step = torch.linspace(-REACH, REACH, self.side, device=members.device) * frame.extent.unsqueeze(-1)
        # Linear interpolation as two products with hats: no gather, and gradients reach the mask.
        rows, columns = frame.grid
        at = [
            (centre + step) * cells
            for centre, cells in zip(frame.centre.split(1, -1), _per_axis(frame.cells), strict=True)
        ]
        across, down = hats(at[0], columns), hats(at[1], rows)
        mask = members / members.amax(-1, keepdim=True).clamp_min(1e-6)
        picture = rearrange(mask, "b k (h w) -> b k h w", h=rows)
        return rearrange(down @ picture @ across.transpose(-1, -2), "b k i j -> b k (i j)")


def _per_axis(cells: Int[Tensor, "batch 2"]) -> tuple[Int[Tensor, "batch 1 1"], ...]:
    return tuple(number.unsqueeze(-1) for number in cells.split(1, -1))


def patch_places(grid: tuple[int, int]) -> Float[Tensor, "patches 2"]:
    """Middle (x, y) of every patch, in patches."""
    rows, columns = grid
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], -1)


def hats(at: Float[Tensor, "*batch points"], num: int) -> Float[Tensor, "*batch points n"]:
    """Weights of linear interpolation at ``at`` in [0, num] between values in the middles of ``num`` cells; zero outside."""
    middles = torch.arange(num, device=at.device) + 0.5
    return (1 - (at.unsqueeze(-1) - middles).abs()).clamp_min(0)
