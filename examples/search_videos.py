"""Find the videos most like one: cosine similarity of mean features.

    python examples/search_videos.py examples/clips/00_right.mp4 examples/clips
    python examples/search_videos.py examples/clips/00_right.mp4 feats.npy

The second argument is a directory of videos, which is encoded now, or an output of `vjepa embed`, whose model and
settings are used for the query too. `vjepa search` does the second with more options.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vjepa_sdk import VJEPA, SearchIndex, find_clips, semantic_search


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
        (hits,) = semantic_search(model.encode(arguments.query), model.encode(paths), top_k=arguments.count)
        found = [(hit["score"], paths[int(hit["corpus_id"])]) for hit in hits]
    else:
        index = SearchIndex.open(arguments.among)
        found = [(hit.score, hit.path) for hit in index.search(arguments.query, k=arguments.count)]
    for place, (score, path) in enumerate(found, start=1):
        print(f"{place:>3}  {score:+.3f}  {path}")


if __name__ == "__main__":
    main()
