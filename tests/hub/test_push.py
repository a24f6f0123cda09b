"""Publishing is as easy as loading: one call, one commit, exactly the files of a model, and no secret."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback_hub import OWNER_TOKEN, LoopbackHub, Response
from tiny_models import VIDEO, save_tiny

import vjepa_sdk
from vjepa_sdk import VJEPA, push
from vjepa_sdk.cli import app
from vjepa_sdk.config.model import PreprocessConfig
from vjepa_sdk.errors import ConfigError, InputError, WeightsError, WriteError
from vjepa_sdk.hub import client as hub_client
from vjepa_sdk.hub.client import HubOptions
from vjepa_sdk.hub.locate import locate_model
from vjepa_sdk.models.encoder import VideoEncoder
from vjepa_sdk.models.predictor import Predictor
from vjepa_sdk.weights.convert import convert
from vjepa_sdk.weights.directory import save_model_directory

NAME = "me/model"
FILES = {"README.md", "config.json", "model.safetensors"}
ROOT = Path(vjepa_sdk.__file__).parents[1]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def publish(path: Path, repository: str = NAME, **options: Any) -> Any:
    return push(path, repository, **{"token": OWNER_TOKEN, **options})


def tree(hub: LoopbackHub, branch: str = "main", name: str = NAME) -> dict[str, bytes]:
    repository = hub.repositories["model", name]
    return {path: blob.content for path, blob in repository.commits[repository.branches[branch]].items()}


def history(hub: LoopbackHub) -> int:
    return len(hub.repositories["model", NAME].commits)


def test_what_is_pushed_is_what_another_cache_pulls(hub: LoopbackHub, model: Path, tmp_path: Path) -> None:
    report = publish(model)
    assert report.changed and report.url.startswith(f"{hub.url}/me/model/commit/")
    assert set(report.files) == FILES and not report.left_out
    assert set(tree(hub)) - {".gitattributes"} == FILES
    pulled, local = (VJEPA.from_pretrained(place, device="cpu", cache_dir=tmp_path / "c") for place in (NAME, model))
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(pulled.forward_features(clip), local.forward_features(clip))
    assert pulled.provenance["commit"] == report.commit
    again = VJEPA.from_pretrained(NAME, device="cpu", cache_dir=tmp_path / "c", local_files_only=True)
    assert torch.equal(again.forward_features(clip), local.forward_features(clip))


def test_a_push_gives_our_name_and_its_token_to_the_hub_alone(hub: LoopbackHub, model: Path) -> None:
    publish(model)
    uploads = hub.requested("/large/", method="PUT", origin="cdn")
    assert uploads and not any("authorization" in request.headers for request in uploads)
    others = [request for request in hub.requests if request.origin == "hub"]
    assert all(request.token == OWNER_TOKEN for request in others)
    assert {request.headers["user-agent"].split(";")[0] for request in others} == {f"vjepa-sdk/{vjepa_sdk.__version__}"}


def test_an_unchanged_push_makes_no_commit(hub: LoopbackHub, model: Path) -> None:
    first, before = publish(model), history(hub)
    second = publish(model)
    assert not second.changed and second.commit == first.commit
    assert history(hub) == before


def test_a_change_is_one_commit_with_what_differs(hub: LoopbackHub, model: Path) -> None:
    publish(model)
    before = history(hub)
    (model / "README.md").write_text("---\nlicense: mit\n---\nbetter\n")
    hub.requests.clear()
    assert publish(model, commit_message="Say more").changed
    assert history(hub) == before + 1
    assert tree(hub)["README.md"].endswith(b"better\n")
    sent = [json.loads(line)["value"] for line in hub.requested("/commit/", method="POST")[0].body.splitlines()]
    assert sent[0]["summary"] == "Say more" and [entry["path"] for entry in sent[1:]] == ["README.md"]


def test_a_branch_is_made_and_main_stays(hub: LoopbackHub, model: Path) -> None:
    publish(model)
    shutil.copy(model / "config.json", model / "LICENSE")
    publish(model, branch="v2")
    assert "LICENSE" in tree(hub, "v2") and "LICENSE" not in tree(hub)
    assert not publish(model, branch="v2").changed
    assert VJEPA.from_pretrained(NAME, revision="v2", device="cpu").provenance["commit"] != publish(model).commit


def test_a_pull_request_can_be_opened_at_a_strangers_repository(hub: LoopbackHub, model: Path) -> None:
    hub.add("you/model", {"README.md": b"theirs"})
    report = publish(model, "you/model", create_pr=True)
    assert report.url == f"{hub.url}/you/model/discussions/1"
    assert tree(hub, name="you/model") == {"README.md": b"theirs"}
    assert FILES <= set(tree(hub, "refs/pr/1", name="you/model"))
    with pytest.raises(ConfigError, match="branch and create_pr exclude each other"):
        publish(model, branch="x", create_pr=True)
    with pytest.raises(ConfigError, match="you/other: no such repository"):
        publish(model, "you/other", create_pr=True)


def test_a_private_push_makes_a_private_repository_and_never_uses_a_public_one(hub: LoopbackHub, model: Path) -> None:
    publish(model, "me/secret", private=True)
    assert hub.repositories["model", "me/secret"].is_private
    assert not publish(model, "me/secret", private=True).changed
    publish(model, "me/open")
    with pytest.raises(ConfigError, match="me/open: is there and public; make it private in its settings"):
        publish(model, "me/open", private=True)


SECRETS = (".env", ".env.local", "key.pem", "server.key", "id_rsa", ".netrc", "hf_token.txt", "credentials.json")
PICKLES = ("optimizer.pkl", "pytorch_model.bin", "last.ckpt")


def test_secrets_pickles_and_strangers_stay_here(hub: LoopbackHub, model: Path) -> None:
    for name in (*SECRETS, *PICKLES, "notes.txt"):
        (model / name).write_bytes(b"x")
    for name in (".git", "checkpoints"):
        (model / name).mkdir()
        (model / name / "config.json").write_text("{}")
    report = publish(model)
    assert set(tree(hub)) - {".gitattributes"} == FILES
    assert all(report.left_out[name] == "may hold secrets" for name in (*SECRETS, ".git"))
    assert all("pickle" in report.left_out[name] for name in PICKLES)
    assert report.left_out["notes.txt"] == "not part of what is pushed"
    assert report.left_out["checkpoints"] == "a directory"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (OWNER_TOKEN, "a hub token"),
        ("ghp_" + "a1" * 18, "a GitHub token"),
        ("AKIA" + "ABCDEFGH12345678", "an AWS key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "a private key"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_secret_in_a_file_is_refused_and_not_repeated(
    text: str, kind: str, dry_run: bool, hub: LoopbackHub, model: Path
) -> None:
    (model / "README.md").write_text(f"---\nlicense: mit\n---\nmy key is {text}\n")
    with pytest.raises(ConfigError, match=f"README.md: line 4 holds what looks like {kind}") as caught:
        publish(model, dry_run=dry_run)
    assert text not in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "evaluation.json"])
def test_a_link_to_a_file_elsewhere_is_refused(name: str, hub: LoopbackHub, model: Path, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("x")
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(tmp_path / "private")
    with pytest.raises(ConfigError, match=f"{name}: is a link to a file elsewhere"):
        publish(model)
    assert not hub.requests


def test_a_link_out_of_what_looks_like_a_cache_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("x")
    (tmp_path / "snapshots").mkdir()
    directory = model.rename(tmp_path / "snapshots" / "model")
    (directory / "LICENSE").symlink_to(tmp_path / "private")
    with pytest.raises(ConfigError, match="LICENSE: is a link to a file elsewhere"):
        publish(directory, dry_run=True)


def test_a_fetched_copy_can_be_pushed_elsewhere(hub: LoopbackHub, model: Path) -> None:
    publish(model)
    from huggingface_hub import snapshot_download

    publish(Path(snapshot_download(NAME)), "me/copy")
    assert tree(hub, name="me/copy")["model.safetensors"] == tree(hub)["model.safetensors"]


def test_a_dry_run_lists_and_sends_nothing(hub: LoopbackHub, model: Path) -> None:
    report = publish(model, dry_run=True, token=None)
    assert report.dry_run and not report.changed
    assert report.files["model.safetensors"] == (model / "model.safetensors").stat().st_size
    assert not hub.requests


def test_a_push_that_meets_another_is_refused_whole(hub: LoopbackHub, model: Path) -> None:
    publish(model)
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    hub.fail("/preupload/", method="POST", answer=lambda response: (hub.add(NAME, {"other.txt": b"x"}), response)[1])
    with pytest.raises(WriteError, match="was changed by somebody else meanwhile; nothing was pushed; push again"):
        publish(model)
    assert not tree(hub)["README.md"].startswith(b"---\nlicense: mit\n---\n")
    assert publish(model).changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"token": None},
            r"the hub does not know who pushes \(401\); pass token= or run `hf auth login`, with the right",
        ),
        ({"token": "hf_wrong"}, r"does not accept the token \(401\)"),
        ({"repository": "you/model"}, r"the token has no right to write it \(403\)"),
        ({"repository": "model"}, "'model' must be a hub id such as owner/name"),
        ({"repository": "me/../x"}, "must be a hub id"),
    ],
)
def test_who_may_not_push_is_told_why(options: dict[str, Any], message: str, hub: LoopbackHub, model: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        publish(model, **{"repository": NAME, **options})


@pytest.mark.parametrize(
    ("method", "path", "tries"),
    [
        ("GET", "^/api/models/", hub_client.TRIES),
        ("POST", "/repos/create", hub_client.TRIES),
        ("POST", "/branch/", hub_client.TRIES),
        ("POST", "/validate-yaml", hub_client.TRIES),
        ("POST", "/preupload/", 6),
        ("POST", "/objects/batch", 6),
        ("PUT", "/large/", 6),
        ("POST", "/commit/", hub_client.TRIES),
    ],
)
def test_a_busy_hub_is_asked_again_and_given_up_if_it_stays_so(
    method: str, path: str, tries: int, hub: LoopbackHub, model: Path
) -> None:
    hub.fail(path, method=method, status=503, times=99, body=b"{}")
    with pytest.raises(WeightsError, match=r"cannot be reached \(HTTP 503\)"):
        publish(model, branch="v1")
    assert len(hub.requested(path, method=method)) == tries, "ours and those of the hub's client must not multiply"
    hub.recover()
    hub.fail(path, method=method, status=503, body=b"{}")
    assert publish(model, branch="v1").changed


def test_a_commit_whose_answer_was_lost_is_found(hub: LoopbackHub, model: Path) -> None:
    hub.fail("/commit/", method="POST", answer=lambda _: Response(503))  # after it was made
    report = publish(model)
    assert report.changed and report.commit == hub.repositories["model", NAME].branches["main"]
    assert FILES <= set(tree(hub))
    assert history(hub) == 2  # the empty repository, and ours


@pytest.mark.parametrize("path", ["/repos/create", "/preupload/", "/objects/batch", "/commit/"])
def test_a_push_that_is_redirected_keeps_its_token(path: str, hub: LoopbackHub, model: Path) -> None:
    hub.fail(path, method="POST", times=9, status=307, headers={"Location": f"{hub.cdn}/elsewhere"})
    with pytest.raises(ConfigError):
        publish(model)
    (request, *_) = hub.requested("/elsewhere", method="POST", origin="cdn")
    assert "authorization" not in request.headers


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_quiet_push_shows_no_bar(
    is_quiet: bool, hub: LoopbackHub, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    for _ in range(2):
        assert run_push(monkeypatch, str(model), NAME, "--new-card", *(["-q"] if is_quiet else [])) == 0
    assert ("model.safetensors" in capsys.readouterr().err) != is_quiet


def test_offline_pushes_are_refused_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE=1 keeps the hub away"):
        publish(model)


def test_only_models_that_would_load_are_pushed(hub: LoopbackHub, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        publish(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="holds no config.json"):
        publish(tmp_path)
    (model / "model.safetensors").write_bytes(b"\x80\x02not weights")
    with pytest.raises(WeightsError, match="not a valid safetensors file"):
        publish(model)
    assert not hub.requests


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_pushed(value: float, hub: LoopbackHub, model: Path) -> None:
    loaded = VJEPA.from_pretrained(model, device="cpu")
    assert loaded.predictor is not None
    loaded.predictor.state_dict()["predictor_norm.bias"][0] = value
    with pytest.raises(WeightsError, match="holds NaN or infinity"):
        loaded.push_to_hub(NAME, token=OWNER_TOKEN)
    assert not hub.requests


def test_a_missing_card_is_asked_for_and_can_be_written(hub: LoopbackHub, model: Path) -> None:
    (model / "README.md").unlink()
    with pytest.raises(ConfigError, match=r"holds no README.md; pass new_card=True \(--new-card\)"):
        publish(model)
    publish(model, new_card=True)
    assert b'from_pretrained("me/model")' in tree(hub)["README.md"]
    assert "path/to/this/directory" in (model / "README.md").read_text()


def test_a_card_without_a_licence_is_warned_of(hub: LoopbackHub, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="vjepa_sdk"):
        publish(model, dry_run=True)
        assert "names no licence, so nobody may use it" in caplog.text
        caplog.clear()
        VJEPA.from_pretrained(model, device="cpu").save_pretrained(model, licence="MIT")
        publish(model, dry_run=True)
        assert not caplog.text


def test_a_model_pushes_itself_and_keeps_a_card_that_is_there(hub: LoopbackHub, model: Path) -> None:
    loaded = VJEPA.from_pretrained(model, device="cpu")
    assert loaded.push_to_hub(NAME, token=OWNER_TOKEN, licence="MIT").changed
    assert not loaded.push_to_hub(NAME, token=OWNER_TOKEN, licence="MIT").changed
    hub.add(NAME, {"README.md": b"written on the web"})
    loaded.push_to_hub(NAME, token=OWNER_TOKEN, licence="Apache-2.0")
    assert tree(hub)["README.md"] == b"written on the web"
    loaded.push_to_hub(NAME, token=OWNER_TOKEN, licence="Apache-2.0", keep_card=False)
    assert b"license: apache-2.0" in tree(hub)["README.md"]


def test_a_copy_names_what_it_was_made_from(hub: LoopbackHub, model: Path) -> None:
    first = publish(model)
    VJEPA.from_pretrained(NAME, device="cpu").push_to_hub("me/copy", token=OWNER_TOKEN)
    provenance = VJEPA.from_pretrained("me/copy", device="cpu").provenance
    assert (provenance["base_model"], provenance["base_commit"]) == (NAME, first.commit)
    assert provenance["repository"] == "me/copy"
    assert b"base_model: me/model" in tree(hub, name="me/copy")["README.md"]


def test_a_conversion_of_a_fetched_model_names_its_source(hub: LoopbackHub, model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "theirs", layout="transformers")
    hub.add_directory("me/theirs", tmp_path / "theirs")
    fetched = locate_model("me/theirs", HubOptions())
    convert(fetched, tmp_path / "ours")
    provenance = json.loads((tmp_path / "ours" / "config.json").read_text())["provenance"]
    assert (provenance["base_model"], provenance["base_commit"]) == ("me/theirs", fetched.name)
    assert "repository" not in provenance


def test_weights_for_non_commercial_use_stay_so(model: Path, tmp_path: Path) -> None:
    loaded = VJEPA.from_pretrained(model, device="cpu")
    loaded.save_pretrained(tmp_path / "nc", licence="CC-BY-NC-4.0")
    with pytest.raises(ConfigError, match="licence='MIT' gives more rights than the weights' own, CC-BY-NC-4.0"):
        VJEPA.from_pretrained(tmp_path / "nc", device="cpu").save_pretrained(tmp_path / "free", licence="MIT")


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A model directory with both encoders."""
    torch.manual_seed(1)
    modules = {"encoder": VideoEncoder(VIDEO), "context_encoder": VideoEncoder(VIDEO), "predictor": Predictor(VIDEO)}
    return save_model_directory(
        tmp_path / "both", config=VIDEO, preprocess=PreprocessConfig.for_crop(32), modules=modules,
        encoder_weights="target", provenance={}, card="",
    )  # fmt: skip


@pytest.mark.parametrize("weights", ["target", "context"])
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_a_copy_has_both_encoders_and_the_predictor(
    weights: Any, max_shard_size: str, both: Path, tmp_path: Path
) -> None:
    loaded = VJEPA.from_pretrained(both, weights=weights, device="cpu")
    copy = loaded.save_pretrained(tmp_path / "copy", max_shard_size=max_shard_size)
    assert ((copy / "model.safetensors.index.json").is_file()) == (max_shard_size == "20KB")
    for name in ("target", "context"):
        ours, theirs = (VJEPA.from_pretrained(place, weights=name, device="cpu") for place in (both, copy))
        for part in ("encoder", "predictor"):
            pairs = zip(
                getattr(ours, part).state_dict().items(), getattr(theirs, part).state_dict().items(), strict=True
            )
            assert all(key == other and torch.equal(value, same) for (key, value), (other, same) in pairs)


def test_one_encoder_can_be_kept_alone(both: Path, tmp_path: Path) -> None:
    loaded = VJEPA.from_pretrained(both, weights="context", device="cpu")
    alone = VJEPA.from_pretrained(loaded.save_pretrained(tmp_path / "one", both_encoders=False), device="cpu")
    assert alone.encoder_weights == "context"
    shutil.rmtree(both)
    with pytest.raises(WeightsError, match="no such directory"):
        loaded.save_pretrained(tmp_path / "two")


def test_a_copy_replaces_older_weights_whatever_their_files(model: Path, tmp_path: Path) -> None:
    other = VJEPA.untrained(VIDEO, seed=7, device="cpu")
    for size in ("20KB", "5GB", "40KB", "20KB", 20_000):
        for source in (VJEPA.from_pretrained(model, device="cpu"), other):
            source.save_pretrained(tmp_path / "out", max_shard_size=size)
            found = VJEPA.from_pretrained(tmp_path / "out", device="cpu")
            assert torch.equal(found.encoder.patch_embed.proj.weight, source.encoder.patch_embed.proj.weight)
    names = {path.name for path in (tmp_path / "out").glob("model*")}
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert names == {*index["weight_map"].values(), "model.safetensors.index.json"}


@pytest.mark.parametrize("size", ["big", 0, -1, "5 parsecs", None])
def test_a_shard_size_that_is_none_is_refused(size: Any, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_shard_size=.* must be a size such as '5GB'"):
        VJEPA.from_pretrained(model, device="cpu").save_pretrained(tmp_path / "out", max_shard_size=size)


def test_shards_that_one_file_replaces_are_deleted_on_the_hub(hub: LoopbackHub, model: Path) -> None:
    loaded = VJEPA.from_pretrained(model, device="cpu")
    loaded.push_to_hub(NAME, token=OWNER_TOKEN, max_shard_size="20KB")
    shards = [name for name in tree(hub) if name.startswith("model-")]
    assert len(shards) > 1 and "model.safetensors.index.json" in tree(hub)
    assert torch.equal(VJEPA.from_pretrained(NAME, device="cpu").encoder.norm.weight, loaded.encoder.norm.weight)
    report = loaded.push_to_hub(NAME, token=OWNER_TOKEN)
    assert set(report.deleted) == {*shards, "model.safetensors.index.json"}
    assert set(tree(hub)) - {".gitattributes"} == FILES


def run_push(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `vjepa push` in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["vjepa", "push", *arguments])
    with pytest.raises(SystemExit) as caught:
        app.main()
    return int(caught.value.code or 0)


def test_the_command_pushes_and_lists(
    hub: LoopbackHub, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / ".env").write_text("x")
    (model / "\x1b]0;title").write_text("x")
    assert run_push(monkeypatch, str(model), NAME, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert ".env  left out: may hold secrets\n" in printed and printed.endswith("me/model: would be pushed\n")
    assert "\x1b" not in printed
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    assert run_push(monkeypatch, str(model), NAME, "--json", "--branch", "v1") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["changed"] and set(report["files"]) == FILES and FILES <= set(tree(hub, "v1"))
    assert run_push(monkeypatch, str(model), NAME, "--branch", "v1", "-q") == 0
    assert capsys.readouterr().out.endswith("me/model: unchanged, no commit\n")
    assert run_push(monkeypatch, str(model), "you/model") == 2
    assert "vjepa: you/model: the token has no right to write it (403)" in capsys.readouterr().err


PUSH_TWICE = """
import sys
from vjepa_sdk import push
print(*(push(sys.argv[1], "me/model").changed for _ in range(2)))
"""
PULL = """
from vjepa_sdk.hub.client import HubOptions
from vjepa_sdk.hub.download import fetch
from vjepa_sdk.hub.locate import choose_model_files
print(fetch("me/model", HubOptions(), choose=choose_model_files).directory)
"""


def run(hub: LoopbackHub, home: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with this package, the hub and another cache, as a user's shell would."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": OWNER_TOKEN, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)


def test_xet_uploads_and_downloads(hub: LoopbackHub, model: Path, tmp_path: Path) -> None:
    """The real xet client, with a store in a local directory instead of a server."""
    pytest.importorskip("hf_xet")
    hub.serves_xet = True
    pushed = run(hub, tmp_path / "one", PUSH_TWICE, str(model))
    if "local://" in pushed.stderr:
        pytest.skip("this xet client takes no local store")
    assert pushed.stdout == "True False\n", pushed.stderr
    assert hub.requested("/xet-write-token/") and not hub.requested("/objects/batch", method="POST")
    pulled = run(hub, tmp_path / "two", PULL)
    assert pulled.returncode == 0, pulled.stderr
    assert hub.requested("/xet-read-token/") and not hub.requested("/large/", origin="cdn")
    directory = Path(pulled.stdout.strip())
    assert (directory / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
