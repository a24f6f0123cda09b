"""What looks like a secret is not published; what only looks odd is."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path

import pytest

from vjepa_sdk.errors import ConfigError
from vjepa_sdk.hub import secrets
from vjepa_sdk.hub.secrets import refuse_secret_text, refuse_secrets

ROOT = Path(__file__).parents[2]
A1 = "a1B2c3D4e5F6g7H8i9J0" * 8
HEX = hashlib.sha256(b"nothing").hexdigest() * 2

# put together here, so that scanners of this repository stay quiet
FOUND = {
    "a hub token": "hf_" + A1[:34],
    "a GitHub token": "github_pat_" + A1[:82],
    "a GitLab token": "glpat-" + A1[:20],
    "an AWS key": "aws_secret_access_key = " + A1[:40],
    "a Google key": "AIza" + A1[:35],
    "an Azure key": "AccountName=x;AccountKey=" + A1[:86] + "==",
    "an OpenAI key": "sk-proj-" + A1[:40],
    "an Anthropic key": "sk-ant-" + "api03-" + A1[:90],
    "a key of a model service": "gsk_" + A1[:52],
    "a Weights & Biases key": "WANDB_API_KEY=" + HEX[:40],
    "a Slack token": "https://hooks.slack.com/" + "services/T0000/B0000/" + A1[:24],
    "a Discord webhook": "https://discord.com/api/webhooks/123456789/" + A1[:60],
    "a Telegram token": "123456789:" + "AA" + A1[:33],
    "a Stripe key": "sk_live_" + A1[:24],
    "a SendGrid key": "SG." + A1[:22] + "." + A1[:43],
    "a Twilio key": "SK" + HEX[:32],
    "an npm token": "npm_" + A1[:36],
    "a PyPI token": "pypi-" + "AgEIcHlwaS5vcmc" + A1[:80],
    "a key of a cloud service": "dapi" + HEX[:32],
    "a JSON web token": "eyJ" + A1[:20] + ".eyJ" + A1[:20] + "." + A1[:40],
    "a private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "a URL with a password": "postgres://me:" + "hunter2@db.example/clips",
    "a signed URL": "https://b.s3.amazonaws.com/a.mp4?X-Amz-Signature=" + HEX[:64],
    "an authorization header": '"Authorization": "Bearer ' + A1[:30] + '"',
    "a password or key": '"password": "' + 'correct-horse"',
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the scanner that may be installed."""
    monkeypatch.setattr(secrets, "_scanners", lambda: ())


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", FOUND)
@pytest.mark.parametrize("name", ["README.md", "config.json", "feats.index.jsonl", "labels.csv", "LICENSE", "a.toml"])
def test_a_secret_is_named_by_file_line_and_kind_and_not_repeated(kind: str, name: str) -> None:
    text = f"# Clips\n\nMade with {FOUND[kind]} by me\n"
    with pytest.raises(ConfigError, match=f"^{name}: line 3 holds what looks like {kind}; remove it, then push$") as it:
        refuse_secrets(name, text.encode())
    assert FOUND[kind][8:30] not in str(it.value)


def test_every_kind_has_an_example() -> None:
    assert {form.kind for form in secrets._FORMS} == set(FOUND)


@pytest.mark.parametrize("kind", FOUND)
def test_a_keyword_is_in_every_secret_of_its_kind(kind: str) -> None:
    forms = [form for form in secrets._FORMS if form.is_in(FOUND[kind].encode())]
    assert all(any(word in FOUND[kind].lower() for word in form.keywords) for form in forms) and forms


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        "sha256:" + HEX[:64],
        base64.b64encode(bytes(range(256)) * 20).decode(),
        "mask_token = per_mask, num_mask_tokens=10",
        "password: see the wiki of your group",
        "The secret: consistency over time",
        'token = "<your token>", api_key=$API_KEY, password = "********", {"api_key": "your-key-here"}',
        "https://example.com:8080/a@b/c.mp4 and me@example.com, data:2024-01-01.mp4",
        "git@github.com:me/clips.git, s3://bucket/clips/a.mp4, https://user@host/a",
        "/data/asia/AKIA/clip_hf_short.mp4 sk-learn scikit-learn task-based risk-free disk-1234567890",
        json.dumps({"path": "clips/eyJ.mp4", "frames": [0, 2, 4], "sha256": HEX[:64]}),
        "key-frame 00 and sig=0, key=0123456789abcdef",
    ],
)
def test_digests_base64_placeholders_and_prose_are_no_secrets(text: str) -> None:
    refuse_secrets("README.md", text.encode())


def test_no_text_of_this_package_looks_like_a_secret() -> None:
    texts = [path for pattern in ("*.md", "docs/*.md", "vjepa_sdk/pretrained/*/*") for path in ROOT.glob(pattern)]
    assert len(texts) > 15
    for path in texts:
        refuse_secrets(path.name, path)


def test_a_secret_far_down_in_a_large_file_is_found(tmp_path: Path) -> None:
    path, lines = tmp_path / "feats.index.jsonl", 60_000
    line = json.dumps({"id": "a.mp4", "path": "a.mp4", "size": 12345, "frames": [0, 1]}) + "\n"
    path.write_text(line * lines + FOUND["a hub token"] + "\n")
    with pytest.raises(ConfigError, match=f"line {lines + 1} holds what looks like a hub token"):
        refuse_secrets(path.name, path)


def test_texts_in_the_header_of_weights_are_read_and_weights_are_not() -> None:
    token = FOUND["a hub token"].encode()
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    refuse_secrets("model.safetensors", struct.pack("<Q", len(header)) + header + token)
    header = json.dumps({"__metadata__": {"token": token.decode()}}).encode()
    with pytest.raises(ConfigError, match="model.safetensors: line 1 holds what looks like a hub token"):
        refuse_secrets("model.safetensors", struct.pack("<Q", len(header)) + header)


def test_a_commit_message_is_published_too() -> None:
    with pytest.raises(ConfigError, match="^commit_message holds what looks like a hub token; remove it, then push$"):
        refuse_secret_text("commit_message", f"pushed with {FOUND['a hub token']}")
    refuse_secret_text("commit_message", "better motion")


def test_an_installed_scanner_finds_what_has_no_form_here() -> None:
    pytest.importorskip("detect_secrets")
    key = HEX[:32] + "-us12"  # of Mailchimp
    with pytest.raises(ConfigError, match=r"line 2 holds what looks like a secret \(Mailchimp Access Key\)"):
        refuse_secrets("README.md", f"a\nmailchimp {key}\n".encode())
