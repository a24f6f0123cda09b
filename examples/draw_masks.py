"""Draw what the x-encoder sees: the masks of one training step, on two clips of a batch.

    python examples/draw_masks.py docs/masks.png

Tokens in colour are visible; grey ones are hidden, and their features are what the predictor must guess. Black ones are
left out, since all samples of a batch need lists of one length. The masks come from the class that training uses, for
16 frames of 224 x 224 pixels.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from vjepa_sdk import read_video, sample_indices
from vjepa_sdk.config.training import MaskConfig, paper_masks
from vjepa_sdk.models.masks import draw_mask_set

PATCH, TUBELET = 16, 2
GRID = (8, 14, 14)
SHOWN = (0, 2, 5, 7)
"""Tubelets that are drawn, of the eight."""
CLIPS = ("00_right.mp4", "05_up-left.mp4")
SEED = 0
LEFT_OUT, HIDDEN, VISIBLE = range(3)

SIDE, GAP, LEFT, TOP, BOTTOM = 126, 5, 196, 60, 56
SPLIT = 30
"""Pixels between the two samples."""
INK, FAINT, PAPER = (20, 20, 20), (90, 90, 90), (255, 255, 255)
NOTES = (
    "Grey: hidden; the predictor guesses their features. Black: left out, so that all samples have equally many.",
    "Every frame of a clip has the same mask.",
)


def main() -> None:
    """Write the picture to the path given, or to docs/masks.png."""
    root = Path(__file__).parent.parent
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else root / "docs" / "masks.png"
    clips = [_load(root / "examples" / "clips" / name) for name in CLIPS]
    everything = torch.full(GRID, VISIBLE)
    rows = [("whole clip", "what the y-encoder sees:", [everything] * len(clips))]
    for number, mask in enumerate(paper_masks("columns")):
        title = f"{mask.num_blocks} blocks of {mask.spatial_scale[0]:.0%}"
        rows.append((title, "what the x-encoder sees:", _draw_masks(mask, seed=SEED + number)))
    _draw(clips, rows).quantize(160).save(out, optimize=True)
    print(f"{out}: {out.stat().st_size} bytes")


def _load(path: Path) -> np.ndarray:
    """Return 16 frames, uint8 [16, 224, 224, 3]."""
    frames, rows, columns = GRID
    clip = read_video(path)
    clip = clip[sample_indices(len(clip), frames * TUBELET)]
    size = (columns * PATCH, rows * PATCH)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in clip])


def _draw_masks(mask: MaskConfig, *, seed: int) -> list[torch.Tensor]:
    """Draw one mask set for a batch; return what becomes of each sample's tokens, int64 [frames, rows, columns]."""
    generator = torch.Generator().manual_seed(seed)
    context, target = draw_mask_set(mask, grid=GRID, batch_size=len(CLIPS), generator=generator)
    roles = torch.full((len(CLIPS), math.prod(GRID)), LEFT_OUT)
    roles.scatter_(1, context, VISIBLE).scatter_(1, target, HIDDEN)
    return list(roles.view(-1, *GRID))


def _draw(clips: list[np.ndarray], rows: list[tuple[str, str, list[torch.Tensor]]]) -> Image.Image:
    block = len(SHOWN) * (SIDE + GAP) - GAP
    width, height = LEFT + 2 * block + SPLIT + 12, TOP + len(rows) * (SIDE + GAP) + BOTTOM
    image = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(image)
    large, small = ImageFont.load_default(size=17), ImageFont.load_default(size=14)
    for sample, clip in enumerate(clips):
        left = LEFT + sample * (block + SPLIT)
        draw.text((left, 8), f"sample {sample + 1} of the batch", fill=INK, font=large)
        for place, tubelet in enumerate(SHOWN):
            x = left + place * (SIDE + GAP)
            draw.text((x, 36), f"frame {tubelet * TUBELET + 1}", fill=FAINT, font=small)
            for number, (_, _, roles) in enumerate(rows):
                frame = _mask(clip[tubelet * TUBELET], roles[sample][tubelet].numpy())
                image.paste(frame.resize((SIDE, SIDE), Image.Resampling.BOX), (x, TOP + number * (SIDE + GAP)))
    total = math.prod(GRID)
    for number, (title, subtitle, roles) in enumerate(rows):
        y = TOP + number * (SIDE + GAP) + SIDE // 2
        draw.text((12, y - 32), title, fill=INK, font=large)
        draw.text((12, y - 8), subtitle, fill=FAINT, font=small)
        draw.text((12, y + 10), f"{int((roles[0] == VISIBLE).sum())} of {total} tokens", fill=FAINT, font=small)
    for line, note in enumerate(NOTES):
        draw.text((LEFT, height - BOTTOM + 6 + 20 * line), note, fill=FAINT, font=small)
    return image


def _mask(frame: np.ndarray, roles: np.ndarray) -> Image.Image:
    """Grey out the hidden patches of one frame, where a ghost of the picture stays, and blacken those left out."""
    grey = np.repeat(frame.mean(axis=2, keepdims=True) * 0.12 + 190, 3, axis=2)
    role = np.kron(roles, np.ones((PATCH, PATCH), int))[..., None]
    return Image.fromarray(np.select([role == VISIBLE, role == HIDDEN], [frame, grey], 0).astype(np.uint8))


if __name__ == "__main__":
    main()
