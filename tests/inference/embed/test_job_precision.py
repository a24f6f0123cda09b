"""What features are computed in belongs to a job: it is kept, said, and never mixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpora import Embed, contents, interrupt

from vjepa_sdk.config.choices import Precision
from vjepa_sdk.errors import OutputError, ResumeError
from vjepa_sdk.hub.locate import load_embeddings
from vjepa_sdk.inference import computation


def settle(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` find this one quicker."""
    monkeypatch.setattr(computation, "fastest_precision", lambda encoder: precision)


def test_features_are_near_those_in_float32_and_the_meta_file_says_in_what(run: Embed, tmp_path: Path) -> None:
    run(tmp_path / "a.npy")
    run(tmp_path / "b.npy", precision="bfloat16")
    exact, near = (load_embeddings(tmp_path / name) for name in ("a.npy", "b.npy"))
    assert near.meta["settings"]["precision"] == "bfloat16" and exact.meta["settings"]["precision"] is None
    error = np.linalg.norm(near.features - exact.features) / np.linalg.norm(exact.features)
    assert 0 < error < 0.01


@pytest.mark.parametrize(("first", "second"), [("int8", "float32"), ("float32", "int8"), ("auto", "float32")])
def test_unfinished_work_in_another_precision_is_refused(
    run: Embed, tmp_path: Path, first: Precision, second: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle("float32", monkeypatch)
    out = interrupt(run, tmp_path / "feats.npy", monkeypatch, precision=first)
    with pytest.raises(ResumeError, match=r"another plan \(precision: \w+ -> \w+\)"):
        run(out, precision=second)


def test_what_auto_chose_is_kept_by_a_run_that_goes_on(
    run: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle("bfloat16", monkeypatch)
    run(tmp_path / "whole.npy", precision="auto")
    out = interrupt(run, tmp_path / "feats.npy", monkeypatch, precision="auto")
    settle("float32", monkeypatch)  # this time the machine is busy otherwise
    run(out, precision="auto")
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert load_embeddings(out).meta["environment"]["precision"] == "bfloat16"


def test_what_auto_chose_is_kept_by_an_extension(
    run: Embed, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle("bfloat16", monkeypatch)
    out, first = tmp_path / "feats.npy", sorted(clips.glob("*.mp4"))[:4]
    run(out, first, precision="auto")
    settle("float32", monkeypatch)
    run(out, precision="auto", extend=True)
    assert load_embeddings(out).meta["environment"]["precision"] == "bfloat16"


def test_an_output_made_before_there_was_a_choice_is_complete(run: Embed, tmp_path: Path) -> None:
    out = tmp_path / "feats.npy"
    run(out)
    meta = out.with_name("feats.meta.json")
    older = meta.read_text().replace('"precision":null,', "").replace('"precision": null,', "")
    assert older != meta.read_text()
    meta.write_text(older)
    before = contents(out)
    assert run(out).already_complete and contents(out) == before
    with pytest.raises(OutputError, match="precision: None -> int8"):
        run(out, precision="int8")
