"""What is measured, each as ways to do the same thing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from vjepa_sdk import VJEPA, sample_videos
from vjepa_sdk.config.choices import Precision
from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.video.reader import open_video

from .paired import Case

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from render_clips import DIRECTIONS, render_clip

# width, blocks, heads, clips, frames, side
SHAPES = {
    "ViT-T, 8 clips of 8 x 96 px": (192, 12, 3, 8, 8, 96),
    "ViT-S, 16 x 224 px": (384, 12, 6, 1, 16, 224),
    "ViT-L width, 3 blocks, 16 x 256 px": (1024, 3, 16, 1, 16, 256),
}
LOWER: tuple[Precision, ...] = ("bfloat16", "int8")


def _pixels(clips: int, frames: int, side: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(clips * frames, 3, side // 8, side // 8, generator=rng)
    smooth = F.interpolate(coarse, size=(side, side), mode="bilinear")
    return (255 * smooth).to(torch.uint8).view(clips, frames, 3, side, side)


def _transformers_model(directory: Path, shape: tuple[int, int, int, int, int, int]) -> torch.nn.Module:
    """Save a model of transformers with random weights, which ours then loads."""
    from transformers import VJEPA2Config, VJEPA2Model, VJEPA2VideoProcessor

    width, depth, heads, _, frames, side = shape
    config = VJEPA2Config(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        crop_size=side,
        frames_per_clip=frames,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    model = VJEPA2Model(config).eval()
    model.save_pretrained(directory)
    VJEPA2VideoProcessor(crop_size=side).save_pretrained(directory)
    return model


def encode() -> Iterator[Case]:
    """Pixels to tokens, beside transformers on the same weights."""
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as place:
            theirs = _transformers_model(Path(place), shape)
            ours = VJEPA.from_pretrained(place, device="cpu")
        pixels = _pixels(*shape[3:])
        normalized = ours._normalize(pixels).transpose(1, 2).contiguous()

        def run_theirs(*, skip: bool, theirs: torch.nn.Module = theirs, clips: torch.Tensor = normalized) -> None:
            with torch.no_grad():
                theirs(pixel_values_videos=clips, skip_predictor=skip)

        with torch.no_grad():
            tokens = theirs(pixel_values_videos=normalized, skip_predictor=True).last_hidden_state
        difference = (ours.embed_clips(pixels, pooling="none").flatten(1, 3) - tokens).abs().max().item()
        yield Case(
            name=f"encode: {name}",
            ways={
                "ours, from uint8": partial(_call, ours.embed_clips, pixels),
                "transformers, skip_predictor=True": partial(run_theirs, skip=True),
                "transformers, as its card shows": partial(run_theirs, skip=False),
            },
            notes=[f"Largest difference of tokens {difference:.1e}"],
        )


def precision() -> Iterator[Case]:
    """The same clips in fewer bits, with cosines."""
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        width, depth, heads, count, frames, side = shape
        config = ModelConfig(embed_dim=width, depth=depth, num_heads=heads, num_frames=frames, img_size=side)
        yield _precisions(f"precision: {name}", VJEPA.untrained(config, device="cpu"), _pixels(count, frames, side))
    model = VJEPA.from_pretrained("vjepa-tiny", device="cpu")
    load, names = model.clip_loader(), list(DIRECTIONS)
    frames = (render_clip(names[seed % len(names)], seed=60_000 + seed) for seed in range(100))
    shapes = torch.stack([torch.from_numpy(load(each)[0]) for each in frames])
    yield _precisions("precision: bundled model, 100 clips of moving shapes", model, shapes)


def _precisions(name: str, model: VJEPA, pixels: torch.Tensor) -> Case:
    exact, notes = model.embed_clips(pixels), []
    for each in (*LOWER, "float16"):  # whose time on a CPU nobody needs to know
        near = model.embed_clips(pixels, precision=each)
        cosine = F.cosine_similarity(near, exact, dim=-1)
        note = f"{each}: cosine with float32 {cosine.median():.6f}, at least {cosine.min():.6f}"
        notes.append(note + _agreement(exact, near))
    ways = {each: partial(_call, model.embed_clips, pixels, precision=each) for each in ("float32", *LOWER)}
    return Case(name=name, ways=ways, notes=notes)


def _agreement(exact: torch.Tensor, near: torch.Tensor) -> str:
    if len(exact) < 9:
        return ""
    nearest = []
    for features in (exact, near):
        centred = F.normalize(features - features.mean(0), dim=-1)
        nearest.append((centred @ centred.T).fill_diagonal_(-2).argmax(1))
    return f"; {(nearest[0] == nearest[1]).float().mean():.0%} of clips have the same nearest neighbour"


def reading() -> Iterator[Case]:
    """Sixteen frames of each sample clip, evenly spread."""
    paths = [str(path) for path in sample_videos()]

    def ours() -> None:
        for path in paths:
            with open_video(path) as video:
                video.get_frames(np.linspace(0, len(video) - 1, 16).round().astype(int))

    def with_decord() -> None:
        import decord

        for path in paths:
            video = decord.VideoReader(path, num_threads=1)
            video.get_batch(np.linspace(0, len(video) - 1, 16).round().astype(int)).asnumpy()

    def with_torchcodec() -> None:
        from torchcodec.decoders import VideoDecoder

        for path in paths:
            video = VideoDecoder(path, num_ffmpeg_threads=1)
            indices = np.linspace(0, video.metadata.num_frames - 1, 16).round().astype(int)
            video.get_frames_at(indices.tolist())

    ways: dict[str, Callable[[], None]] = {"ours": ours}
    ways |= {"decord": with_decord} if find_spec("decord") else {}
    ways |= {"torchcodec": with_torchcodec} if _torchcodec_works(paths[0]) else {}
    yield Case(name="reading: 16 frames of 12 sample clips", ways=ways)


def _torchcodec_works(path: str) -> bool:
    """Whether it finds the FFmpeg that it needs; the import alone does not tell."""
    if not find_spec("torchcodec"):
        return False
    from torchcodec.decoders import VideoDecoder

    try:
        VideoDecoder(path)
    except RuntimeError as error:
        print(f"torchcodec is left out: {error}".splitlines()[0], file=sys.stderr)
        return False
    return True


def embed() -> Iterator[Case]:
    """A directory to a file of features, from the start of the process."""
    clips = [str(path) for path in sample_videos()] * 8

    def job(workers: int) -> None:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "clips"
            folder.mkdir()
            for number, clip in enumerate(clips):
                (folder / f"{number:03d}.mp4").write_bytes(Path(clip).read_bytes())
            words = ["embed", str(folder), "--out", f"{place}/feats.npy", "--num-workers", str(workers), "-q"]
            subprocess.run([sys.executable, "-m", "vjepa_sdk", *words], check=True, stdout=subprocess.DEVNULL)

    loop = (
        "import sys, torch, numpy as np\nfrom vjepa_sdk import VJEPA\nfrom vjepa_sdk.video.clips import ClipLoader\n"
        "model = VJEPA.from_pretrained('vjepa-tiny'); load = model.clip_loader(decoder='decord')\n"
        "np.save(sys.argv[1], np.concatenate([model.embed_clips(torch.from_numpy(load(path)[0])[None]).cpu().numpy()"
        " for path in sys.argv[2:]]))"
    )

    def plain() -> None:
        with tempfile.TemporaryDirectory() as place:
            subprocess.run([sys.executable, "-c", loop, f"{place}/feats.npy", *clips], check=True)

    ways = {f"vjepa embed, {n} workers": partial(job, n) for n in (2, 0)} | {"plain loop, our encoder, decord": plain}
    yield Case(name=f"embed: {len(clips)} clips, bundled model", ways=ways, rounds=3)


def memory() -> Iterator[Case]:
    """The most that encoding one clip of 64 x 256 px takes, over the weights."""
    script = (
        "import sys, torch\nfrom vjepa_sdk import VJEPA, ModelConfig\n"
        "config = ModelConfig(embed_dim=1024, depth=4, num_heads=16, num_frames=64, predictor_depth=1)\n"
        "model = VJEPA.untrained(config, device='cpu'); clip = torch.zeros(1, 64, 3, 256, 256, dtype=torch.uint8)\n"
        "model.embed_clips(clip[:, :2], precision=sys.argv[1])\n"
        "now = lambda name: next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith(name))\n"
        "open('/proc/self/clear_refs', 'w').write('5'); before = now('VmRSS')\n"
        "model.embed_clips(clip, precision=sys.argv[1]); print((now('VmHWM') - before) / 1e3)"
    )

    def run(precision: str) -> float:
        return float(subprocess.run([sys.executable, "-c", script, precision], check=True, capture_output=True).stdout)

    ways = {each: partial(run, each) for each in ("float32", "bfloat16")}
    yield Case(name="memory: 64 x 256 px, 1024 wide, 4 blocks", ways=ways, unit="MB over the weights", rounds=1)


def _call(function: Callable[..., object], *given: object, **options: object) -> None:
    function(*given, **options)


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "encode": encode,
    "precision": precision,
    "reading": reading,
    "embed": embed,
    "memory": memory,
}
