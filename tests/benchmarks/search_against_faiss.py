"""Compare exact search with FAISS's flat index, in one run.

    python tests/benchmarks/search_against_faiss.py [ROWS DIM]

Features lie on disk as float16. `nearest_rows` reads them block by block; FAISS gets them as float32, all at once.
Times are medians of three interleaved rounds, after one that is not counted; memory is what the process grew by.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from vjepa_sdk.downstream.nearest import nearest_rows


def main() -> None:
    count, dim = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (1_000_000, 1024)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "rows.npy"
        rng = np.random.default_rng(0)
        with open(path, "wb") as file:  # not through a map, whose pages would count as memory of this process
            header = {"descr": "<f2", "fortran_order": False, "shape": (count, dim)}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, count, 10_000):
                part = rng.standard_normal((min(10_000, count - first), dim), np.float32)
                file.write(part.astype(np.float16).tobytes())
        queries = rng.standard_normal((100, dim), np.float32)
        on_disk = np.load(path, mmap_mode="r")
        before = _peak()
        ours_found, _ = nearest_rows(queries, on_disk, k=10)
        grown = _peak() - before
        index = faiss.IndexFlatIP(dim)
        for first in range(0, count, 10_000):
            block = np.asarray(on_disk[first : first + 10_000], np.float32)
            faiss.normalize_L2(block)
            index.add(block)
        faiss.normalize_L2(queries)
        times: dict[str, list[float]] = {"ours": [], "faiss": []}
        for _ in range(3):
            start = time.perf_counter()
            nearest_rows(queries, on_disk, k=10)
            times["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            _, theirs_found = index.search(queries, 10)
            times["faiss"].append(time.perf_counter() - start)
        ours, theirs = (float(np.median(times[name])) for name in ("ours", "faiss"))
        same = float(np.mean(ours_found == theirs_found))
        print(f"{count:,} x {dim} float16, 100 queries, top 10")
        print(f"{ours:.2f} s against {theirs:.2f} s, {ours / theirs:.2f} x")
        print(f"the same rows at {same:.1%} of places; grew by {grown / 2**20:.0f} MiB, mapped pages included")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
