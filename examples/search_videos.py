"""Find the videos most like one: cosine similarity of mean features.

    python examples/search_videos.py examples/clips/00_right.mp4 examples/clips
    python examples/search_videos.py examples/clips/00_right.mp4 feats.npy

The second argument is a directory of videos, which is encoded now, or an output of `vjepa embed`, whose model and
settings are used for the query too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vjepa_sdk import VJEPA, find_clips, load_embeddings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("query", help="a video")
    parser.add_argument("among", type=Path, help="directory of videos, or features written by `vjepa embed`")
    parser.add_argument("--model", default="vjepa-tiny", help="for a directory: name, model directory or hub id")
    parser.add_argument("--count", type=int, default=5, help="results to print")
    arguments = parser.parse_args()
    if arguments.among.is_dir():
        model = VJEPA.from_pretrained(arguments.model)
        paths = [clip.path for clip in find_clips(arguments.among, links="named").clips("frames")]
        features = model.encode(paths)
        query = model.encode(arguments.query)
    else:
        found = load_embeddings(arguments.among)
        settings = found.meta["settings"]
        if settings["pooling"] != "mean":
            parser.error(f"{arguments.among}: pooling={settings['pooling']} must be mean; embed the videos again")
        model = VJEPA.from_pretrained(found.meta["model"]["name"], weights=settings["weights"])
        paths, features = [entry["path"] for entry in found.index], found.features
        query = model.encode(
            arguments.query, num_frames=settings["num_frames"], fps=settings["fps"], decoder=settings["decoder"]
        )
    similarity = unit(features) @ unit(query)
    for place, row in enumerate(np.argsort(-similarity)[: arguments.count], start=1):
        print(f"{place:>3}  {similarity[row]:+.3f}  {paths[row]}")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


if __name__ == "__main__":
    main()
