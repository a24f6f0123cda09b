"""Merged shares are the job without shares, byte for byte; what does not belong together is refused by name."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpora import FILES, NUM_CLIPS, Embed, contents, copy_clips, interrupt, lines
from faults import die, faults
from tiny_models import save_tiny

from vjepa_sdk.cli import app
from vjepa_sdk.errors import ConfigError, InputError, OutputError, ResumeError, VideoDecodeError
from vjepa_sdk.features.embeddings import sidecar
from vjepa_sdk.hub.locate import load_embeddings
from vjepa_sdk.inference.embed import environment
from vjepa_sdk.inference.embed.job import EmbedResult, embed_files
from vjepa_sdk.inference.embed.merge import MergeResult, merge_embeddings
from vjepa_sdk.inference.vjepa import VJEPA
from vjepa_sdk.runtime.files import sha256_of, write_json

SUFFIXES = [".npy", ".npz", ".safetensors", ".parquet"]


def listed(clips: Path, path: Path, *, first: int = 0) -> Path:
    """Write a list that gives clips ids, and with them shares, which do not depend on where they lie."""
    path.write_text("path,id\n" + "".join(f"{clips / str(n)}.mp4,clip-{n}\n" for n in range(first, NUM_CLIPS)))
    return path


@pytest.fixture
def run(run: Embed, clips: Path, tmp_path: Path) -> Embed:
    """Embed the shared clips under ids of their own."""

    def embed(out: Path, inputs: Any = None, **options: Any) -> EmbedResult:
        return run(out, [listed(clips, tmp_path / "clips.csv")] if inputs is None else inputs, **options)

    return embed


@pytest.fixture(scope="session")
def expected(model: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the job without shares writes."""
    out = tmp_path_factory.mktemp("whole") / "feats.npy"
    embed_files([listed(clips, out.with_name("clips.csv"))], out, model=model, batch_size=4, num_workers=0)
    return contents(out)


@pytest.fixture
def shares(run: Embed, tmp_path: Path) -> Callable[..., list[Path]]:
    """Make all shares of a job."""

    def make(count: int, inputs: Any = None, *, suffix: str = ".npy", **options: Any) -> list[Path]:
        outs = [tmp_path / f"part{index}{suffix}" for index in range(1, count + 1)]
        for index, out in enumerate(outs, start=1):
            run(out, inputs, shard=f"{index}/{count}", **options)
        return outs

    return make


@pytest.fixture
def slots_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let features depend on where a clip stands in a batch, and on how long that is."""
    encode = VJEPA.embed_clips

    def embed_clips(self: VJEPA, batch: torch.Tensor, **options: Any) -> torch.Tensor:
        features = encode(self, batch, **options)
        slots = torch.arange(1, len(batch) + 1) * 100 + len(batch)
        return features + slots.reshape(-1, *[1] * (features.ndim - 1))

    monkeypatch.setattr(VJEPA, "embed_clips", embed_clips)


def damaged(clips: Path, directory: Path, *names: str) -> Path:
    """Return a copy of the clips in which some cannot be decoded."""
    copy_clips(clips, directory)
    for name in names:
        (directory / name).write_bytes((clips / name).read_bytes()[:400])
        os.utime(directory / name, (1, 1))
    return directory


def forge(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a part says of itself, checksums included."""
    meta = json.loads(sidecar(out, "meta.json").read_bytes())
    change(meta)
    meta["lists_sha256"] = {name: sha256_of(sidecar(out, name)) for name in meta["lists_sha256"]}
    write_json(sidecar(out, "meta.json"), meta)


class TestSameBytes:
    @pytest.mark.usefixtures("slots_show")
    @pytest.mark.parametrize("count", [1, 2, 5, 16])
    def test_any_number_of_shares_in_any_order_is_the_job_without_shares(
        self, shares: Callable[..., list[Path]], run: Embed, tmp_path: Path, count: int
    ) -> None:
        parts = shares(count)
        for suffix in SUFFIXES:
            whole, merged = tmp_path / f"whole-{suffix[1:]}{suffix}", tmp_path / f"merged-{suffix[1:]}{suffix}"
            run(whole)
            for seed in range(3):
                random.Random(seed).shuffle(parts)
                result = merge_embeddings(parts, merged, overwrite=True)
                assert result == MergeResult(out=merged, parts=count, rows=NUM_CLIPS, failed=0)
                assert contents(merged) == contents(whole)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("pooling", ["mean", "none"])
    def test_parts_of_every_format_give_every_format(
        self, shares: Callable[..., list[Path]], run: Embed, tmp_path: Path, suffix: str, pooling: str
    ) -> None:
        # of six shares one has no clip
        parts, whole = shares(6, suffix=suffix, pooling=pooling, dtype="float16"), tmp_path / "whole.parquet"
        assert 0 in [load_embeddings(part).meta["clips"] for part in parts]
        run(whole, pooling=pooling, dtype="float16")
        merge_embeddings(parts, tmp_path / "merged.parquet")
        assert contents(tmp_path / "merged.parquet") == contents(whole)

    @pytest.mark.parametrize("options", [{}, {"window_seconds": 0.4, "stride_seconds": 0.2}], ids=["clips", "windows"])
    def test_clips_that_fail_are_listed_as_the_whole_job_lists_them(
        self, shares: Callable[..., list[Path]], run: Embed, clips: Path, tmp_path: Path, options: dict[str, float]
    ) -> None:
        directory = damaged(clips, tmp_path / "clips", "3.mp4", "4.mp4", "8.mp4")
        run(tmp_path / "whole.npy", [directory], **options)
        result = merge_embeddings(shares(4, [directory], **options), tmp_path / "merged.npy")
        assert result.failed == 3
        assert contents(tmp_path / "merged.npy") == contents(tmp_path / "whole.npy")

    def test_parts_of_a_video_may_lie_in_different_shares(
        self, shares: Callable[..., list[Path]], run: Embed, clips: Path, tmp_path: Path
    ) -> None:
        table = tmp_path / "list.csv"
        rows = [f"{clips}/8.mp4,id-{9 - n},{n / 5},{n / 5 + 0.4}" for n in range(9)]
        table.write_text("\n".join(["path,id,start_seconds,end_seconds", *rows]))
        run(tmp_path / "whole.npy", [table])
        merge_embeddings(shares(3, [table]), tmp_path / "merged.npy")
        assert contents(tmp_path / "merged.npy") == contents(tmp_path / "whole.npy")

    def test_a_share_that_was_stopped_goes_on(
        self,
        shares: Callable[..., list[Path]],
        run: Embed,
        tmp_path: Path,
        expected: dict[str, bytes],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options = {"shard": "1/2", "batch_size": 1}
        interrupt(run, tmp_path / "part1.npy", monkeypatch, rows=2, **options)
        parts = shares(2, batch_size=1)
        run(tmp_path / "whole.npy", batch_size=1)
        merge_embeddings(parts, tmp_path / "merged.npy")
        assert contents(tmp_path / "merged.npy") == contents(tmp_path / "whole.npy")

    def test_the_meta_file_says_what_was_merged(self, shares: Callable[..., list[Path]], tmp_path: Path) -> None:
        parts = shares(2)
        merge_embeddings(parts, tmp_path / "feats.npy")
        meta = load_embeddings(tmp_path / "feats.npy").meta
        assert [(part["shard"], part["output"]) for part in meta["merged_from"]] == [
            ("1/2", "part1.npy"),
            ("2/2", "part2.npy"),
        ]
        assert [part["sha256"] for part in meta["merged_from"]] == [sha256_of(part) for part in parts]
        assert "share" not in meta["plan"]
        assert (meta["clips"], meta["rows"], meta["failed"]) == (NUM_CLIPS, NUM_CLIPS, 0)


class TestAfterwards:
    def test_the_job_without_shares_takes_it_for_its_own(
        self, shares: Callable[..., list[Path]], run: Embed, clips: Path, tmp_path: Path
    ) -> None:
        directory = copy_clips(clips, tmp_path / "clips")
        merge_embeddings(shares(2, [directory]), tmp_path / "feats.npy")
        assert run(tmp_path / "feats.npy", [directory]).already_complete
        shutil.copy(clips / "1.mp4", directory / "new.mp4")
        assert run(tmp_path / "feats.npy", [directory], extend=True).rows == NUM_CLIPS + 1

    def test_merging_again_is_already_complete(self, shares: Callable[..., list[Path]], tmp_path: Path) -> None:
        parts, out = shares(2), tmp_path / "feats.npy"
        assert not merge_embeddings(parts, out).already_complete
        inode = out.stat().st_ino
        assert merge_embeddings(reversed(parts), out).already_complete
        assert out.stat().st_ino == inode

    def test_nothing_else_is_left(self, shares: Callable[..., list[Path]], tmp_path: Path) -> None:
        merge_embeddings(shares(1), tmp_path / "feats.npy")
        assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("part1")} == FILES | {"clips.csv"}

    @pytest.mark.parametrize("at", range(1, 26))
    def test_a_merge_that_is_killed_leaves_nothing_or_all_and_runs_again(
        self, shares: Callable[..., list[Path]], run: Embed, tmp_path: Path, expected: dict[str, bytes], at: int
    ) -> None:
        parts, out = shares(2), tmp_path / "feats.npy"
        child = os.fork()
        if child == 0:
            with faults(at, die):
                merge_embeddings(parts, out)
            os._exit(0)
        was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert was_killed or at > 15  # so many places there are at least
        if out.exists():
            assert contents(out) == expected
        merge_embeddings(parts, out)
        assert contents(out) == expected
        assert not out.with_name("feats.npy.work").exists()


class TestShareOfAJob:
    def test_a_share_again_is_already_complete(self, run: Embed, tmp_path: Path) -> None:
        rows = run(tmp_path / "a.npy", shard="1/2").rows
        again = run(tmp_path / "a.npy", shard="1/2")
        assert (again.already_complete, again.rows) == (True, rows)

    @pytest.mark.parametrize(("shard", "message"), [(None, "shard: 1/2 -> None"), ("2/2", "shard: 1/2 -> 2/2")])
    def test_another_share_does_not_take_its_place(
        self, run: Embed, tmp_path: Path, shard: str | None, message: str
    ) -> None:
        run(tmp_path / "a.npy", shard="1/2")
        with pytest.raises(OutputError, match=f"made differently .*{message}"):
            run(tmp_path / "a.npy", shard=shard)

    def test_a_share_is_not_extended(self, run: Embed, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="extend and shard exclude each other"):
            run(tmp_path / "a.npy", shard="1/2", extend=True)
        run(tmp_path / "a.npy", shard="1/2")
        with pytest.raises(ResumeError, match="shard: 1/2 -> None"):
            run(tmp_path / "a.npy", extend=True)

    def test_unfinished_work_of_a_share_is_not_taken_for_another(
        self, run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt(run, tmp_path / "a.npy", monkeypatch, rows=2, shard="1/2", batch_size=1)
        with pytest.raises(ResumeError, match="shard: 1/2 -> 2/2"):
            run(tmp_path / "a.npy", shard="2/2", batch_size=1)
        with pytest.raises(ResumeError, match="shard: 1/2 -> None"):
            run(tmp_path / "a.npy", batch_size=1)

    def test_a_share_in_which_all_fail_is_a_part_and_a_job_in_which_all_fail_is_an_error(
        self, run: Embed, shares: Callable[..., list[Path]], clips: Path, tmp_path: Path
    ) -> None:
        directory = damaged(clips, tmp_path / "clips", *(f"{number}.mp4" for number in range(NUM_CLIPS)))
        parts = shares(2, [directory])
        assert [load_embeddings(part).meta["rows"] for part in parts] == [0, 0]
        with pytest.raises(VideoDecodeError, match="all 9 clips failed, for example .*0.mp4"):
            merge_embeddings(parts, tmp_path / "feats.npy")
        assert len(lines(tmp_path / "feats.npy", "errors.jsonl")) == NUM_CLIPS


class TestRefusals:
    """Each by name and in one line; nothing is written."""

    @pytest.fixture
    def refused(self, tmp_path: Path) -> Callable[..., None]:
        def check(parts: list[Path] | list[str], message: str, **options: Any) -> None:
            with pytest.raises((InputError, OutputError, ConfigError), match=message) as caught:
                merge_embeddings(parts, tmp_path / "feats.npy", **options)
            assert "\n" not in str(caught.value)
            assert not list(tmp_path.glob("feats*"))

        return check

    @pytest.fixture
    def parts(self, shares: Callable[..., list[Path]]) -> list[Path]:
        return shares(3)

    def test_a_missing_share(self, parts: list[Path], refused: Callable[..., None]) -> None:
        refused(parts[:1], r"part1\.npy: 2 of its job's 3 shares are missing \(2/3, 3/3\)")

    def test_a_file_that_does_not_exist(self, parts: list[Path], refused: Callable[..., None]) -> None:
        refused([*parts, parts[0].with_name("part4.npy")], r"part4\.npy: does not exist")

    def test_a_pattern_of_nothing(self, refused: Callable[..., None], tmp_path: Path) -> None:
        refused([f"{tmp_path}/none*.npy"], r"none\*\.npy: no file matches this pattern")

    def test_no_part(self, refused: Callable[..., None]) -> None:
        refused([], "parts is empty")

    def test_a_doubled_share(self, run: Embed, parts: list[Path], refused: Callable[..., None], tmp_path: Path) -> None:
        run(tmp_path / "twin.npy", shard="2/3")
        refused([*parts, tmp_path / "twin.npy"], r"part2\.npy and .*twin\.npy: both are share 2/3; leave one out")

    def test_a_share_of_another_number(
        self, run: Embed, parts: list[Path], refused: Callable[..., None], tmp_path: Path
    ) -> None:
        run(tmp_path / "other.npy", shard="2/2")
        refused(
            [*parts, tmp_path / "other.npy"], r"other\.npy: is not of the same job as .*part\d\.npy \(shares: 3 -> 2\)"
        )

    def test_a_share_of_fewer_inputs(
        self, run: Embed, parts: list[Path], refused: Callable[..., None], clips: Path
    ) -> None:
        fewer = listed(clips, parts[0].with_name("fewer.csv"), first=1)
        run(parts[1], [fewer], shard="2/3", overwrite=True)
        refused(parts, r"part2\.npy: is not of the same job as .*all_inputs: 9 -> 8")

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"pooling": "temporal"}, "pooling: mean -> temporal"), ({"batch_size": 2}, "batch_size: 4 -> 2")],
    )
    def test_another_setting(
        self, run: Embed, parts: list[Path], refused: Callable[..., None], options: dict[str, Any], message: str
    ) -> None:
        run(parts[0], shard="1/3", overwrite=True, **options)
        refused(parts, rf"part1\.npy: is not of the same job as .*part2\.npy \({message}\)")

    def test_another_model(self, run: Embed, parts: list[Path], refused: Callable[..., None], tmp_path: Path) -> None:
        run(parts[2], shard="3/3", overwrite=True, model=save_tiny(tmp_path / "other", seed=1))
        refused(parts, r"part3\.npy: is not of the same job as .*\(model_sha256: \w{12}… -> \w{12}…\)")

    def test_another_environment_unless_it_is_allowed(
        self,
        run: Embed,
        parts: list[Path],
        refused: Callable[..., None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(environment, "version", lambda name: "9.9")
        run(parts[1], shard="2/3", overwrite=True)
        refused(
            parts, r"part2\.npy: was made in another environment than .*part1\.npy \(av: .* -> 9\.9;.*--allow-mixed"
        )
        merge_embeddings(parts, tmp_path / "mixed.npy", allow_mixed=True)
        torches = [part["environment"]["torch"] for part in load_embeddings(tmp_path / "mixed.npy").meta["merged_from"]]
        assert torches.index("9.9") == 1

    def test_an_output_without_shares(
        self, run: Embed, parts: list[Path], refused: Callable[..., None], tmp_path: Path
    ) -> None:
        run(tmp_path / "whole.npy")
        refused([*parts, tmp_path / "whole.npy"], r"whole\.npy: is no share, it was made without --shard")

    def test_a_file_of_something_else(self, parts: list[Path], refused: Callable[..., None], tmp_path: Path) -> None:
        np.save(tmp_path / "mine.npy", np.zeros(3))
        refused([*parts, tmp_path / "mine.npy"], r"mine\.npy: exists and was not made by `vjepa embed`; leave it out")

    def test_a_list_instead_of_features(self, parts: list[Path], refused: Callable[..., None], tmp_path: Path) -> None:
        refused([f"{tmp_path}/part*"], r"part1\.errors\.jsonl: the suffix '\.jsonl' must be one of")

    @pytest.mark.parametrize("name", ["part2.npy", "part2.index.jsonl", "part2.inputs.jsonl", "part2.errors.jsonl"])
    def test_a_changed_file(self, parts: list[Path], refused: Callable[..., None], tmp_path: Path, name: str) -> None:
        with (tmp_path / name).open("ab") as file:
            file.write(b"\n")
        refused(parts, rf"{name}: is not the file that part2\.meta\.json describes; make share 2/3 again")

    def test_a_renamed_part(self, parts: list[Path], refused: Callable[..., None], tmp_path: Path) -> None:
        for name in ("npy", "index.jsonl", "errors.jsonl", "inputs.jsonl", "meta.json"):
            (tmp_path / f"part2.{name}").rename(tmp_path / f"new.{name}")
        refused([parts[0], tmp_path / "new.npy", parts[2]], r"new\.npy: new\.meta\.json belongs to part2\.npy")

    def test_a_part_that_is_not_finished(
        self, run: Embed, parts: list[Path], refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt(run, parts[0], monkeypatch, rows=2, shard="1/3", batch_size=1, overwrite=True)
        refused(parts, r"part1\.npy: is not finished; run its `vjepa embed` again")

    def test_a_clip_in_the_wrong_share(self, parts: list[Path], refused: Callable[..., None]) -> None:
        forge(parts[0], lambda meta: meta["plan"]["share"].update(shard="2/3"))
        forge(parts[1], lambda meta: meta["plan"]["share"].update(shard="1/3"))
        refused(parts, r"part2\.npy: holds clip-5, which belongs to share 2/3")

    def test_a_clip_that_is_gone_from_a_list(self, parts: list[Path], refused: Callable[..., None]) -> None:
        path = sidecar(parts[0], "inputs.jsonl")
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
        forge(parts[0], lambda meta: None)
        refused(parts, r"part1\.npy: the parts hold 8 clips that are not the 9 inputs of its job")

    def test_a_video_that_changed_between_two_shares(
        self, run: Embed, shares: Callable[..., list[Path]], refused: Callable[..., None], clips: Path, tmp_path: Path
    ) -> None:
        video, table = tmp_path / "video.mp4", tmp_path / "list.csv"
        shutil.copy(clips / "8.mp4", video)
        table.write_text("path,id,start_seconds\n" + "".join(f"video.mp4,id-{n},{n / 5}\n" for n in range(4)))
        parts = shares(2, [table])
        shutil.copy(clips / "7.mp4", video)
        run(parts[1], [table], shard="2/2", overwrite=True)
        refused(parts, r"part\d\.npy: was made of another state of .*video\.mp4 than .*part\d\.npy")

    def test_an_output_that_is_a_part(self, parts: list[Path]) -> None:
        with pytest.raises(InputError, match=r"part1\.npy: is the output and a part at once"):
            merge_embeddings(parts, parts[0], overwrite=True)

    def test_an_output_that_was_made_of_something_else(self, run: Embed, parts: list[Path], tmp_path: Path) -> None:
        run(tmp_path / "feats.npy")
        with pytest.raises(OutputError, match=r"feats\.npy: exists and was made of something else; .*--overwrite"):
            merge_embeddings(parts, tmp_path / "feats.npy")

    def test_unfinished_work_in_its_place(
        self, run: Embed, parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
    ) -> None:
        out = interrupt(run, tmp_path / "feats.npy", monkeypatch)
        with pytest.raises(ResumeError, match=r"feats\.npy\.work: holds unfinished work of `vjepa embed`"):
            merge_embeddings(parts, out)
        merge_embeddings(parts, out, overwrite=True)
        assert contents(out) == expected


def test_the_commands(
    model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def vjepa(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vjepa", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out + printed.err

    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        out = tmp_path / f"part{rank}.npy"
        assert vjepa("embed", clips, "-o", out, "--shard", "auto", "-m", model, "--num-workers", 0, "-q")[0] == 0
    pattern, merged = tmp_path / "part*.npy", tmp_path / "feats.npy"
    assert vjepa("merge", pattern, "--out", merged) == (0, f"{merged}: 9 rows of 2 shares\n")
    assert vjepa("merge", pattern, "--out", merged) == (0, f"{merged}: already complete, 9 rows of 2 shares\n")
    code, said = vjepa("merge", out, "--out", tmp_path / "other.npy")
    assert (code, said) == (
        2,
        f"vjepa: {out}: 1 of its job's 2 shares are missing (1/2); pass them too, or make them with "
        "`vjepa embed --shard 1/2`\n",
    )
