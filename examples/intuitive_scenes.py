"""Render scenes in which something impossible happens, and their possible twins, made of the very same frames.

A scene has two possible videos, A and B. Each is cut at one frame, and the halves are exchanged: AB begins like A and
ends like B, and breaks a law of physics where it is joined; BA the other way round. Every frame occurs once in a
possible and once in an impossible video, so nothing that looks at single frames can tell them apart. In the scenes
named `hidden-...` the joint lies behind a screen: there every run of up to eight frames is balanced too, and only
memory can tell.

    from intuitive_scenes import render_scene
    render_scene("teleport", seed=0).videos["AB"]  # uint8 [48, 96, 96, 3]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NUM_FRAMES, SIZE, FPS = 48, 96, 15
"""Of every video: frames, height and width in pixels, frames a second."""
VISIBLE_SWITCH, HIDDEN_SWITCH = 24, 26
"""The first frame that comes from the ending."""

PAIRS = (("AA", "AB"), ("BB", "BA"))
"""A possible video, and the impossible one that begins like it."""


@dataclass(frozen=True)
class Scene:
    """A quadruplet of videos."""

    videos: dict[str, np.ndarray]
    """`AA` and `BB` are possible, `AB` and `BA` are not; uint8 [48, 96, 96, 3] each."""
    events: dict[str, int]
    """Of `AB` and `BA`: the first frame that differs from the possible video which begins alike."""


def render_scene(name: str, *, seed: int) -> Scene:
    """Render a quadruplet.

    Args:
        name: one of `SCENES`.
        seed: decides sizes, places, colours, textures and speed; odd ones are mirrored left to right.
    """
    rng = np.random.default_rng(seed)
    a, b = (np.stack(frames) for frames in SCENES[name](rng))
    if seed % 2:
        a, b = a[:, :, ::-1].copy(), b[:, :, ::-1].copy()
    switch = HIDDEN_SWITCH if name.startswith("hidden") else VISIBLE_SWITCH
    videos = {
        "AA": a,
        "BB": b,
        "AB": np.concatenate([a[:switch], b[switch:]]),
        "BA": np.concatenate([b[:switch], a[switch:]]),
    }
    events = {
        impossible: int(np.flatnonzero((videos[possible] != videos[impossible]).any(axis=(1, 2, 3)))[0])
        for possible, impossible in PAIRS
    }
    return Scene(videos, events)


Frames = list[np.ndarray]


@dataclass(frozen=True)
class _Ball:
    """A textured disc."""

    radius: int
    texture: np.ndarray
    colour: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Ball:
        radius = round(rng.uniform(8, 11))
        return cls(radius, 0.5 * value_noise(rng, 2 * radius + 1, cell=5), rng.uniform(0, 255, 3))

    def painted(self, colour: np.ndarray) -> _Ball:
        return _Ball(self.radius, self.texture, colour)

    def put(self, frame: np.ndarray, x: float, y: float) -> None:
        """Draw it around a centre; what lies outside the frame is cut off."""
        offsets = np.arange(-self.radius, self.radius + 1)
        mask = np.hypot(*np.meshgrid(offsets, offsets, indexing="ij")) <= self.radius
        paste(frame, self.texture + 0.5 * self.colour, x - self.radius, y - self.radius, mask)


def _vanish(rng: np.random.Generator) -> tuple[Frames, Frames]:
    ball, v, background = _Ball.draw(rng), rng.uniform(1.2, 1.8), quiet_noise(rng)
    y = rng.uniform(24, 72)
    return _crossing(background, ball, v, y), [_finished(background)] * NUM_FRAMES


def _permanence(rng: np.random.Generator) -> tuple[Frames, Frames]:
    ball, v, background = _Ball.draw(rng), rng.uniform(1.2, 1.8), quiet_noise(rng)
    y, width = rng.uniform(24, 72), int(np.ceil(2 * ball.radius + 6 * v))
    occluder = value_noise(rng, SIZE, cell=8)[:, :width]
    left = SIZE // 2 - width // 2

    def hidden(frame: np.ndarray) -> None:
        paste(frame, occluder, left, 0)

    return _crossing(background, ball, v, y, over=hidden), [_finished(background, hidden)] * NUM_FRAMES


def _teleport(rng: np.random.Generator) -> tuple[Frames, Frames]:
    ball, v, background, h = _Ball.draw(rng), rng.uniform(1.2, 1.8), quiet_noise(rng), rng.uniform(18, 24)
    a, b = (_crossing(background, ball, v, y) for y in (SIZE / 2 - h, SIZE / 2 + h))
    return a, b


def _colour(rng: np.random.Generator) -> tuple[Frames, Frames]:
    ball, v, background = _Ball.draw(rng), rng.uniform(1.2, 1.8), quiet_noise(rng)
    y, other = rng.uniform(24, 72), ball.painted(_other_colour(rng, ball.colour))
    return _crossing(background, ball, v, y), _crossing(background, other, v, y)


def _solidity(rng: np.random.Generator, *, wall: bool = True) -> tuple[Frames, Frames]:
    ball, v, background = _Ball.draw(rng), rng.uniform(1.2, 1.8), quiet_noise(rng)
    y = rng.uniform(24, 72)
    if wall:
        paste(background, value_noise(rng, SIZE, cell=8)[:, :4], 46, 0)
    a, b = [], []
    for t in range(NUM_FRAMES):
        distance = round_up(ball.radius + v * abs(t - VISIBLE_SWITCH))
        for frames, x in ((a, 45 - distance), (b, 50 + distance)):
            frame = background.copy()
            ball.put(frame, x, y)
            frames.append(_finished(frame))
    return a, b


def _solidity_control(rng: np.random.Generator) -> tuple[Frames, Frames]:
    return _solidity(rng, wall=False)


@dataclass(frozen=True)
class _Box:
    """A textured square at rest."""

    texture: np.ndarray
    x: int
    y: int


def _hidden(
    change: Callable[[np.random.Generator, _Box], _Box | None],
) -> Callable[[np.random.Generator], tuple[Frames, Frames]]:
    """Return a scene in which a screen rises, and falls over an object that has changed."""

    def render(rng: np.random.Generator) -> tuple[Frames, Frames]:
        background, screen = _dim(rng, 12) + 64, _dim(rng, 24)
        size = int(rng.integers(14, 21))
        y, x = int(rng.integers(30, 92 - size)), int(rng.integers(6, 30))
        before = _Box(_box_texture(rng, size, rng.uniform(0, 255, 3)), x, y)
        tops = np.interp(np.arange(NUM_FRAMES), (14, 22, 30, 38), (96, 24, 24, 96))
        both: list[Frames] = []
        for box in (before, change(rng, before)):
            still = background.copy()
            if box is not None:
                paste(still, box.texture, box.x, box.y)
            frames = []
            for top in map(round_up, tops):
                frame = still.copy()
                frame[top:] = screen[top:]
                frames.append(_finished(frame))
            both.append(frames)
        return both[0], both[1]

    return render


def _nothing(rng: np.random.Generator, box: _Box) -> _Box | None:
    return None


def _moved(rng: np.random.Generator, box: _Box) -> _Box | None:
    return _Box(box.texture, box.x + int(rng.integers(24, 41)), box.y)


def _exchanged(rng: np.random.Generator, box: _Box) -> _Box | None:
    colour = _other_colour(rng, box.texture.mean(axis=(0, 1)))
    return _Box(_box_texture(rng, len(box.texture), colour), box.x, box.y)


def _hidden_solidity(rng: np.random.Generator) -> tuple[Frames, Frames]:
    """A wall stands behind the screen, or not; what went in must come out only if there is none."""
    background, screen = _dim(rng, 12) + 64, _dim(rng, 24)
    size, v = int(rng.integers(14, 21)), rng.uniform(1.6, 2.6)
    texture, y = _box_texture(rng, size, rng.uniform(0, 255, 3)), 88 - size
    tops = np.interp(np.arange(NUM_FRAMES), (14, 22), (y - 4, 24))
    walled = background.copy()
    walled[36:96, 54:60] = (90, 60, 40)
    a, b = [], []
    for t, top in enumerate(map(round_up, tops)):
        inside = min(34.0, -size + (34 + size) * t / 18)
        outside = inside if t < 38 else SIZE - 26 - size + v * (t - 38)
        for frames, back, x in ((a, walled, inside), (b, background, outside)):
            frame = back.copy()
            paste(frame, texture, x, y)
            frame[top:, 28:70] = screen[top:, 28:70]
            frames.append(_finished(frame))
    return a, b


SCENES: dict[str, Callable[[np.random.Generator], tuple[Frames, Frames]]] = {
    "vanish": _vanish,
    "permanence": _permanence,
    "teleport": _teleport,
    "colour": _colour,
    "solidity": _solidity,
    "solidity-control": _solidity_control,
    "hidden-vanish": _hidden(_nothing),
    "hidden-teleport": _hidden(_moved),
    "hidden-change": _hidden(_exchanged),
    "hidden-solidity": _hidden_solidity,
}
"""`vanish`: a crossing ball is gone; `permanence`: it goes behind an occluder and never comes out; `teleport`: it
jumps; `colour`: it changes colour; `solidity`: it passes through the wall off which it should bounce;
`solidity-control`: the same without a wall, where passing on is what should happen. Behind a screen: `hidden-...`."""


def value_noise(rng: np.random.Generator, size: int, *, cell: int) -> np.ndarray:
    """Return random colours between which is blended over `cell` pixels, float64 [size, size, 3] in 0..255."""
    coarse = rng.uniform(0, 255, (size // cell + 2, size // cell + 2, 3))
    places = np.arange(size) / cell
    low, part = places.astype(int), places % 1.0
    rows = coarse[low] * (1 - part)[:, None, None] + coarse[low + 1] * part[:, None, None]
    mixed: np.ndarray = rows[:, low] * (1 - part)[:, None] + rows[:, low + 1] * part[:, None]
    return mixed


def quiet_noise(rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """Return noise of three sizes, its contrast halved, float64 [size, size, 3]."""
    noise = sum(share * value_noise(rng, size, cell=cell) for share, cell in ((0.5, 24), (0.3, 10), (0.2, 4)))
    mean = np.mean(noise, axis=(0, 1))
    background: np.ndarray = mean + (noise - mean) / 2
    return background


def paste(frame: np.ndarray, patch: np.ndarray, x: float, y: float, mask: np.ndarray | None = None) -> None:
    """Put a patch into a frame, its upper left corner at a rounded place; what lies outside is cut off."""
    left, top = round_up(x), round_up(y)
    height, width = patch.shape[:2]
    rows = slice(max(top, 0), max(0, min(top + height, SIZE)))
    columns = slice(max(left, 0), max(0, min(left + width, SIZE)))
    inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    part = frame[rows, columns]
    part[...] = patch[inside] if mask is None else np.where(mask[inside][..., None], patch[inside], part)


def round_up(value: float) -> int:
    """Round to the nearest whole number, halves up."""
    return int(np.floor(value + 0.5))


def _crossing(
    background: np.ndarray,
    ball: _Ball,
    v: float,
    y: float,
    *,
    over: Callable[[np.ndarray], None] = lambda frame: None,
) -> Frames:
    """Draw the ball on its way from left to right, and what stands before it."""
    frames = []
    for t in range(NUM_FRAMES):
        frame = background.copy()
        ball.put(frame, SIZE / 2 + v * (t - VISIBLE_SWITCH), y)
        frames.append(_finished(frame, over))
    return frames


def _dim(rng: np.random.Generator, cell: int) -> np.ndarray:
    half: np.ndarray = 0.5 * value_noise(rng, SIZE, cell=cell)
    return half


def _box_texture(rng: np.random.Generator, size: int, colour: np.ndarray) -> np.ndarray:
    texture: np.ndarray = 0.4 * value_noise(rng, size, cell=5) + 0.6 * colour
    return texture


def _other_colour(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Draw a colour that is at least 120 away."""
    while True:
        other = rng.uniform(0, 255, 3)
        if np.linalg.norm(other - colour) >= 120:
            return other


def _finished(frame: np.ndarray, over: Callable[[np.ndarray], None] = lambda frame: None) -> np.ndarray:
    frame = frame.copy()
    over(frame)
    return frame.round().astype(np.uint8)
