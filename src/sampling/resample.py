"""Images interpolated on the device that they are on: of augmentation and of a view in mm."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from src.sampling.slices import centre_crop
from src.sampling.view import View

CHUNK = 2**24  # pixels of prepared images that are interpolated at once: 64 MB as float32


def above_background(
    images: Tensor, matrix: Tensor, columns: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return images interpolated, less their background, and that background (B, C, 1, 1).

    The background of each image is its lowest intensity; it continues beyond the image.

    images: (B, C, S, S) float32.
    matrix: (B, 2, 3) maps (column, row, 1) to x and y in the image; pixel centres are integers.
    columns, rows: (B, w) and (B, h), of the pixels that are returned: (B, C, h, w).
    """
    size = images.shape[-1]
    matrix = matrix[:, None, None]  # (B, 1, 1, 2, 3)
    columns, rows = columns[:, None, :, None], rows[:, :, None, None]  # (B, 1, w, 1), (B, h, 1, 1)
    grid = matrix[..., 0] * columns + matrix[..., 1] * rows + matrix[..., 2]  # (B, h, w, 2)
    grid = (grid * 2 + 1) / size - 1  # -1..1, as grid_sample wants it
    background = images.amin(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
    return grid_sample(images - background, grid, align_corners=False), background


def seen(images: Tensor, matrix: Tensor, crop: int) -> Tensor:
    """Return what the network sees, (B, C, crop, crop), rounded to float16 as in its input files.

    images: (B, C, S, S) float16 or float32. matrix: (B, 2, 3), see `View.matrix`.
    """
    pixels = torch.arange(crop, dtype=torch.float32, device=images.device)[None]  # (1, crop)
    above, background = above_background(images.float(), matrix, pixels, pixels)
    return (above + background).half()


def seen_volume(volume: Tensor, view: View, device: torch.device) -> Tensor:
    """Return what the network sees of prepared images (n, S, S) float16: (n, crop, crop) float16.

    Without a view in mm it is a view of the same memory. Else it is on the device; each slice
    depends on itself alone, however many are interpolated at once.
    """
    if not view.in_mm:
        return centre_crop(volume, view.crop)
    matrix = torch.from_numpy(view.matrix)[None].to(device)
    at_once = max(1, CHUNK // volume[0].numel())
    out = torch.empty(len(volume), view.crop, view.crop, dtype=torch.float16, device=device)
    for first in range(0, len(volume), at_once):
        part = volume[first : first + at_once].to(device)[None]  # (1, k, S, S)
        out[first : first + at_once] = seen(part, matrix, view.crop)[0]
    return out
