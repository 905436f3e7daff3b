"""The highest pixel of maps enlarged by bicubic interpolation, found without enlarging them.

Between four neighbouring nodes of a map the interpolation is one bicubic polynomial, and a polynomial in Bernstein form
never exceeds its largest control point. The control points lie around the nodes, so that a few additions over whole
maps bound what can be reached near every node. Pixels are computed only in the few cells between nodes whose bound
reaches the best pixel known. The result is the exact maximum, however the map looks. Maps that hardly grow have few
pixels, and are enlarged after all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SHARPNESS = -0.75
"""Parameter of Keys' cubic kernel (IEEE Trans. ASSP 29, 1981) in PyTorch's interpolation."""

THIRD = -SHARPNESS / 3
"""Slope at a node per difference of its neighbours, times a third of a cell: how far control points lie from it."""

ROUNDING = 1e-5
"""How much of a map's largest magnitude sums in single precision may be wrong by; what bounds must reach is lowered."""

SMALL = 2
"""Maps that grow no more than so many times are enlarged: that takes less time than to bound their cells."""

PROMISING = 8
"""Lines of a map whose highest nodes are tried first, for a value that the others must reach."""

NODES_AT_ONCE = 131_072
"""Nodes bounded in one go, so that the intermediate results stay in the processor's cache."""

PIXELS_AT_ONCE = 1 << 22
"""Pixels computed in one go: maps without a clear maximum must not take more memory than there is."""

MARGIN = 2
"""Nodes that are repeated beyond a map's border, as far as the interpolation looks."""


def find_bicubic_maxima(maps: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The highest pixel of every map, resized as ``F.interpolate(mode="bicubic", align_corners=False)`` does.

    Args:
        maps: [R, K, h, w] float.
        sizes: [R, 2] long, (height, width) to which the maps of row r are resized; at least 1.

    Returns:
        pixels [R, K, 2] long, (x, y) in the resized map, and values [R, K]. Of equal pixels the first in reading order.
    """
    pixels, values = sizes.new_zeros(*maps.shape[:2], 2), maps.new_zeros(maps.shape[:2])
    small = (sizes <= SMALL * sizes.new_tensor(maps.shape[2:])).all(1)
    for rows, find in ((small, _among_all_pixels), (~small, _among_candidates)):
        if maps.numel() and bool(rows.any()):
            pixels[rows], values[rows] = find(maps[rows], sizes[rows])
    return pixels, values


def _among_all_pixels(maps: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`find_bicubic_maxima`; computes every pixel, by two matrix products."""
    rows, columns = (_Axis.of(sizes[:, axis], maps.shape[2 + axis], maps.dtype) for axis in (0, 1))
    nodes = F.pad(maps, (MARGIN,) * 4, mode="replicate")
    # Both products take all maps of a row at once.
    wide = (nodes.flatten(1, 2) @ columns.matrix().mT).view(*nodes.shape[:3], -1).transpose(1, 2)
    heights = (rows.matrix() @ wide.flatten(2)).unflatten(2, (maps.shape[1], -1))  # [R, y, K, x]
    # Line by line: much faster than to look for a maximum and its place in all pixels of a map at once.
    values, y = heights.amax(3).max(1)
    line = heights.gather(1, y[:, None, :, None].expand(-1, 1, -1, heights.shape[3]))[:, 0]
    return torch.stack([line.argmax(2), y], dim=-1), values


def _among_candidates(maps: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`find_bicubic_maxima`; computes pixels only where the highest can be."""
    k = maps.shape[1]
    rows, columns = (_Axis.of(sizes[:, axis], maps.shape[2 + axis], maps.dtype) for axis in (0, 1))
    grid = _Grid(F.pad(maps.flatten(0, 1), (MARGIN,) * 4, mode="replicate"), k, rows, columns)
    of_map, cell_y, cell_x = grid.candidates()
    values, pixels = grid.best_pixels(of_map, cell_y, cell_x)

    best = values.new_full((len(grid.nodes),), -torch.inf).scatter_reduce_(0, of_map, values, "amax")
    after_all = int(sizes.prod(1).max())
    pixels = torch.where(values == best[of_map], pixels, after_all)
    first = pixels.new_full(best.shape, after_all).scatter_reduce_(0, of_map, pixels, "amin").view(-1, k)
    across = sizes[:, 1:]
    return torch.stack([first % across, first // across], dim=-1), best.view(-1, k)


@dataclass(frozen=True)
class _Axis:
    """Where the pixels of resized maps lie among the nodes along one axis.

    Args:
        counts: [R] pixels.
        cells: [R, n], the cell between nodes that each pixel lies in; cell 0 lies before the first node. The n of the
            longest map; what is beyond a shorter one lies after all cells.
        weights: [R, n, 4], of the four nodes around every pixel.
        first: [R, cells + 1], the first pixel of each cell.
    """

    counts: Tensor
    cells: Tensor
    weights: Tensor
    first: Tensor

    @classmethod
    def of(cls, counts: Tensor, nodes: int, dtype: torch.dtype) -> _Axis:
        """The axis of ``counts`` [R] pixels over a number of nodes."""
        pixels = torch.arange(int(counts.max()), device=counts.device)
        positions = (nodes / counts.to(dtype))[:, None] * (pixels + 0.5) - 0.5
        before = positions.floor()
        cells = torch.where(pixels < counts[:, None], before.long() + 1, nodes + 1)
        edges = torch.arange(nodes + 2, device=counts.device).expand(len(counts), -1).contiguous()
        return cls(counts, cells, _cubic_weights(positions - before), torch.searchsorted(cells, edges))

    def matrix(self) -> Tensor:
        """[R, n, nodes + margins], by which nodes become pixels; a shorter map's last pixel is repeated."""
        nodes = self.first.shape[1] - 2
        pixels = torch.arange(self.cells.shape[1], device=self.cells.device)
        pixels = torch.minimum(pixels, self.counts[:, None] - 1)
        where = self.cells.gather(1, pixels)[..., None] + torch.arange(4, device=self.cells.device)
        weights = self.weights.gather(1, pixels[..., None].expand_as(self.weights))
        return weights.new_zeros(*pixels.shape, nodes + 2 * MARGIN).scatter_(2, where, weights)

    @property
    def most(self) -> int:
        """The most pixels in a cell."""
        return int((self.first[:, 1:] - self.first[:, :-1]).max())

    def nearest(self, row: Tensor, node: Tensor) -> Tensor:
        """The pixels nearest to nodes, of rows that broadcast against them."""
        counts, nodes = self.counts[row], self.first.shape[1] - 2
        pixels = ((node + 0.5) * counts / nodes).long()
        return torch.minimum(pixels, counts - 1)

    def filled(self, row: Tensor, cell: Tensor) -> Tensor:
        """Whether there are pixels in cells [C] of rows [C]."""
        return self.first[row, cell + 1] > self.first[row, cell]

    def pixels(self, row: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [C, most] of cells [C] of rows [C], and which of them exist."""
        pixels = self.first[row, cell][:, None] + torch.arange(self.most, device=row.device)
        inside = pixels < self.first[row, cell + 1][:, None]
        return pixels.clamp(max=self.cells.shape[1] - 1), inside


def _cubic_weights(fraction: Tensor) -> Tensor:
    """Keys' weights [..., 4] of the nodes at -1, 0, 1 and 2 for positions [...] in [0, 1]."""
    a = SHARPNESS

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return torch.stack([far(fraction + 1), near(fraction), near(1 - fraction), far(2 - fraction)], dim=-1)


@dataclass(frozen=True)
class _Grid:
    """Maps of R rows with K maps each, and the pixels between their nodes.

    Args:
        nodes: [R * K, h + 4, w + 4], with the margin.
        k: maps a row.
        rows, columns: where pixels lie.
    """

    nodes: Tensor
    k: int
    rows: _Axis
    columns: _Axis

    def candidates(self) -> tuple[Tensor, Tensor, Tensor]:
        """Maps [C] and, there, the cells (y [C], x [C]) in which the highest pixel can be."""
        # Two passes: aminmax is several times slower on a CPU.
        low, high = self.nodes.amin((1, 2)), self.nodes.amax((1, 2))
        reached = self._reached() - ROUNDING * torch.maximum(high, -low)
        step = max(1, NODES_AT_ONCE // self.nodes[0].numel())
        parts = zip(self.nodes.split(step), reached.split(step), strict=True)
        near = torch.cat([_reachable(nodes) >= least[:, None, None] for nodes, least in parts])
        return self._cells_around(*near.nonzero(as_tuple=True), reached)

    def best_pixels(self, of_map: Tensor, cell_y: Tensor, cell_x: Tensor) -> tuple[Tensor, Tensor]:
        """The highest pixel of each cell: values [C], and numbers [C] of the pixels in reading order of the map."""
        step = max(1, PIXELS_AT_ONCE // (self.rows.most * self.columns.most))
        split = zip(*(values.split(step) for values in (of_map, cell_y, cell_x)), strict=True)
        values, pixels = zip(*(self._best_pixels(*part) for part in split), strict=True)
        return torch.cat(values), torch.cat(pixels)

    def _best_pixels(self, of_map: Tensor, cell_y: Tensor, cell_x: Tensor) -> tuple[Tensor, Tensor]:
        row = of_map // self.k
        y, inside_y = self.rows.pixels(row, cell_y)
        x, inside_x = self.columns.pixels(row, cell_x)
        weights_y, weights_x = self.rows.weights[row[:, None], y], self.columns.weights[row[:, None], x]
        heights = weights_y @ (self._window(of_map, cell_y, cell_x, size=4) @ weights_x.mT)
        heights = heights.masked_fill(~(inside_y[:, :, None] & inside_x[:, None, :]), -torch.inf)
        values, best = heights.flatten(1).max(1)
        best_y = y.gather(1, (best // x.shape[1])[:, None])[:, 0]
        best_x = x.gather(1, (best % x.shape[1])[:, None])[:, 0]
        return values, best_y * self.columns.counts[row] + best_x

    def _reached(self) -> Tensor:
        """A value [R * K] that some pixel of each map has: of those nearest to the highest nodes of the best lines."""
        inner = self.nodes[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        lines = inner.amax(2).topk(min(PROMISING, inner.shape[1]), dim=1).indices
        of_map = torch.arange(len(inner), device=inner.device)[:, None].expand_as(lines)
        columns, row = inner[of_map, lines].argmax(2), of_map // self.k
        y, x = self.rows.nearest(row, lines), self.columns.nearest(row, columns)
        patches = self._window(of_map, self.rows.cells[row, y], self.columns.cells[row, x], size=4)
        weights = self.rows.weights[row, y][..., :, None] * self.columns.weights[row, x][..., None, :]
        return (patches * weights).sum((2, 3)).amax(1)

    def _cells_around(self, of_map: Tensor, y: Tensor, x: Tensor, reached: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the four cells around nodes those, each once, that have pixels and may reach what their map has."""
        around = self._window(of_map, y + 1, x + 1, size=3)
        middle, least = around[:, 1, 1], reached[of_map]
        across, down = THIRD * (around[:, 1, 2] - around[:, 1, 0]), THIRD * (around[:, 2, 1] - around[:, 0, 1])
        both = THIRD**2 * (around[:, 2, 2] - around[:, 2, 0] - around[:, 0, 2] + around[:, 0, 0])
        lines, columns = self.rows.first.shape[1], self.columns.first.shape[1]
        found = []
        for side_y, side_x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            along_y, along_x = (2 * side_y - 1) * down, (2 * side_x - 1) * across
            corner = along_y + along_x + (2 * side_y - 1) * (2 * side_x - 1) * both
            largest = middle + torch.maximum(torch.maximum(along_y, along_x), corner).clamp(min=0)
            own = (largest >= least).nonzero()[:, 0]
            found.append((of_map[own] * lines + y[own] + side_y) * columns + x[own] + side_x)
        cells = torch.cat(found).unique()
        of_map, y, x = cells // (lines * columns), cells // columns % lines, cells % columns
        filled = self.rows.filled(of_map // self.k, y) & self.columns.filled(of_map // self.k, x)
        return of_map[filled], y[filled], x[filled]

    def _window(self, of_map: Tensor, y: Tensor, x: Tensor, size: int) -> Tensor:
        """Nodes [..., size, size] from corners [...] on, which are counted from the margin's."""
        height, width = self.nodes.shape[1:]
        steps = torch.arange(size, device=self.nodes.device)
        corner = (of_map * height + y) * width + x
        return self.nodes.flatten()[corner[..., None, None] + steps[:, None] * width + steps]


def _reachable(nodes: Tensor) -> Tensor:
    """Bounds [B, h, w] of the interpolation in the cells around every node of maps with margins [B, h + 4, w + 4].

    The largest possible control point: the node's value carried along both slopes and the twist. Nodes are taken as one
    long line, in which neighbours are shifts; that is quick, and wrong in the margin alone.
    """
    height, width = nodes.shape[1:]
    line = nodes.flatten(1)
    across = line[:, 2:] - line[:, :-2]
    both = across[:, 2 * width :] - across[:, : -2 * width]
    slopes = (line[:, 2 * width + 1 : -1] - line[:, 1 : -2 * width - 1]).abs_()
    slopes = slopes.add_(across[:, width:-width].abs_()).add_(both.abs_(), alpha=THIRD)
    bounds = torch.add(line[:, width + 1 : -width - 1], slopes, alpha=THIRD)
    return F.pad(bounds, (1, 1)).view(-1, height - 2, width)[:, 1:-1, MARGIN:-MARGIN]
