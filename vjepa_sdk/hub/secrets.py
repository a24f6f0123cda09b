"""Find secrets in text that is about to be published: by the forms that services give to their keys.

The forms are those of gitleaks' default rules and of the services' own documentation. Entropy is not looked at: by it
digests, base64 and names of files would raise alarms, and an alarm that is usually false is switched off. What has no
form, such as a password in a sentence, cannot be found. Where the scanner `detect-secrets` is installed, what it knows
by form is looked for as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol

from ..errors import ConfigError, printable
from ..weights.layout import LICENCES

_TEXTS = (".json", ".jsonl", ".md", ".txt", ".toml", ".csv", ".tsv", ".yaml", ".yml")
_BLOCK_BYTES = 1 << 20
_MAX_HEADER_BYTES = 100 << 20


@dataclass(frozen=True)
class _Form:
    """How a kind of secret looks."""

    kind: str
    pattern: str
    keywords: tuple[str, ...]
    """In lower case: one of them is in every secret of this kind, which is faster to find than the pattern."""

    def is_in(self, line: bytes) -> bool:
        return re.search(self.pattern.encode(), line) is not None


_WORD = r"(?<![A-Za-z0-9_-])"
_FORMS = (
    _Form("a hub token", _WORD + r"(hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z]{34})", ("hf_", "api_org_")),
    _Form(
        "a GitHub token",
        _WORD + r"(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    _Form("a GitLab token", _WORD + r"gl(pat|dt|ptt|rt|soat|ft|oas|cbt|agent)-[\w-]{20,}", ("gl",)),
    _Form("an AWS key", _WORD + r"(AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Za-z])", ("akia", "asia", "abia", "acca")),
    _Form(
        "an AWS key", r"(?i)aws.{0,20}secret.{0,30}[:=]\s*[\"']?[A-Za-z0-9/+=]{40}(?![A-Za-z0-9/+=])", ("aws",)
    ),
    _Form("a Google key", _WORD + r"(AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,})", ("aiza", "gocspx-", "ya29.")),
    _Form("an Azure key", r"(AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40,}=", ("accountkey=", "sharedaccesskey=")),
    _Form("an OpenAI key", _WORD + r"sk-((proj|svcacct|admin)-[\w-]{20,}|[\w-]{20,}T3BlbkFJ[\w-]{20,})", ("sk-",)),
    _Form("an Anthropic key", _WORD + r"sk-ant-[a-z0-9]+-[\w-]{20,}", ("sk-ant-",)),
    _Form(
        "a key of a model service",
        _WORD + r"(sk-or-v1-[0-9a-f]{64}|sk-[0-9a-f]{32}(?![0-9A-Za-z])|gsk_[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{37}"
        r"|xai-[A-Za-z0-9]{60,}|pplx-[A-Za-z0-9]{40,}|nvapi-[\w-]{50,})",
        ("sk-", "gsk_", "r8_", "xai-", "pplx-", "nvapi-"),
    ),
    _Form(
        "a Weights & Biases key",
        r"(?i)wandb.{0,30}[:=]\s*[\"']?[0-9a-f]{40}(?![0-9a-z])|\bwandb_v1_\w{20,}",
        ("wandb",),
    ),
    _Form(
        "a Slack token",
        _WORD + r"(xox[abeoprs]-|xapp-\d-)[\w-]{10,}|hooks\.slack\.com/(services|workflows)/\w+/\w+",
        ("xox", "xapp-", "hooks.slack.com"),
    ),
    _Form("a Discord webhook", r"discord(app)?\.com/api/webhooks/\d+/[\w-]{30,}", ("/api/webhooks/",)),
    _Form("a Telegram token", r"(?<!\d)\d{8,10}:AA[\w-]{33}(?![\w-])", (":aa",)),
    _Form("a Stripe key", _WORD + r"((sk|rk)_(live|test|prod)_|whsec_)[A-Za-z0-9]{16,}", ("sk_", "rk_", "whsec_")),
    _Form("a SendGrid key", _WORD + r"SG\.[\w-]{20,}\.[\w-]{40,}", ("sg.",)),
    _Form("a Twilio key", _WORD + r"SK[0-9a-f]{32}(?![0-9a-zA-Z])", ("sk",)),
    _Form("an npm token", _WORD + r"npm_[A-Za-z0-9]{36}", ("npm_",)),
    _Form("a PyPI token", r"pypi-AgE[\w-]{50,}", ("pypi-age",)),
    _Form(
        "a key of a cloud service",
        _WORD + r"(dapi[0-9a-f]{32}|do[opr]_v1_[0-9a-f]{64}|dckr_(pat|oat)_[\w-]{20,}|shp(at|ca|pa|ss)_[0-9a-fA-F]{32}"
        r"|hvs\.[\w-]{24,}|dp\.(pt|st|ct)\.[A-Za-z0-9.]{40,}|glsa_\w{32,}|lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,}"
        r"|PMAK-[0-9a-f]{24}-[0-9a-f]{34}|tskey-[a-z]+-[\w-]{20,}|sbp_[0-9a-f]{40}|NRAK-[A-Z0-9]{27}|sntrys_eyJ[\w=]{40,}"
        r"|HRKU-[\w-]{36,}|ops_eyJ[\w=]{100,}|figd_[\w-]{40,}|key-[0-9a-f]{32})(?![0-9A-Za-z])",
        (
            "dapi", "_v1_", "dckr_", "shp", "hvs.", "dp.", "glsa_", "lin_api_", "ntn_", "pmak-", "tskey-", "sbp_",
            "nrak-", "sntrys_", "hrku-", "ops_", "figd_", "key-",
        ),
    ),
    _Form("a JSON web token", _WORD + r"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}", ("eyj",)),
    _Form(
        "a private key",
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|PuTTY-User-Key-File-\d|AGE-SECRET-KEY-1[0-9A-Z]{50,}",
        ("private key", "putty-user-key-file", "age-secret-key-1"),
    ),
    _Form("a URL with a password", r"[A-Za-z][\w+.-]*://[^\s/:@\"'<>]*:[^\s/@\"'<>$*{]{3,}@[\w.-]", ("://",)),
    _Form(
        "a signed URL",
        r"(X-Amz-Signature|X-Goog-Signature)=[0-9a-f]{40,}|[?&]sig=[A-Za-z0-9%+/]{40,}",
        ("-signature=", "sig="),
    ),
    _Form(
        "an authorization header",
        r"(?i)authorization[\"']?\s*[:=]\s*[\"']?(bearer|basic|token)\s+[\w.+/=~-]{12,}",
        ("authorization",),
    ),
    _Form(
        "a password or key",
        # a name that says so, and a value in quotes or of letters and digits: prose and placeholders have neither
        r"(?i)(password|passwd|passphrase|client_?secret|secret_?key|api_?key|access_?key|auth_?token|access_?token)"
        r"[\"']?\s*[:=]\s*(?![\"']?(your|my|xxx|none|null|true|false|change|example|\$|<|\*|\{))"
        r"([\"'][^\s\"']{8,}[\"']|(?=[^\s\"',;]*\d)(?=[^\s\"',;]*[a-z])[^\s\"',;]{8,})",
        ("passw", "passphrase", "secret", "key", "token"),
    ),
)  # fmt: skip


def refuse_secrets(name: str, source: Path | bytes) -> None:
    """Raise ConfigError if a file that is about to be published holds what looks like a secret, which is not repeated.

    Text is looked at line by line, and of safetensors the header, which may hold texts beside names and shapes.
    """
    is_text = name.endswith(_TEXTS) or name in LICENCES
    if not is_text and not name.endswith(".safetensors"):
        return
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
        if found := _first(file if is_text else io.BytesIO(_header(file))):
            raise ConfigError(
                f"{printable(name)}: line {found[0]} holds what looks like {found[1]}; remove it, then push"
            )


def refuse_secret_text(what: str, text: str) -> None:
    """Raise ConfigError if a text that is about to be published holds what looks like a secret."""
    if found := _first(io.BytesIO(text.encode(errors="replace"))):
        raise ConfigError(f"{what} holds what looks like {found[1]}; remove it, then push")


def _header(file: BinaryIO) -> bytes:
    return file.read(min(int.from_bytes(file.read(8), "little"), _MAX_HEADER_BYTES))


def _first(file: BinaryIO) -> tuple[int, str] | None:
    """Return number and kind of the first line that holds a secret."""
    first = 1
    while block := file.readlines(_BLOCK_BYTES):
        text = b"".join(block)
        lower, plain = text.lower(), text.decode("utf-8", "replace")
        forms = [form for form in _FORMS if any(word.encode() in lower for word in form.keywords)]
        scanners = [scanner for scanner in _scanners() if any(scanner.analyze_string(plain))]
        for number, line in enumerate(block, first):
            for form in forms:
                if form.is_in(line):
                    return number, form.kind
            for scanner in scanners:
                if any(scanner.analyze_string(line.decode("utf-8", "replace"))):
                    return number, f"a secret ({scanner.secret_type})"
        first += len(block)
    return None


class _Scanner(Protocol):
    """What a detector of `detect-secrets` is, as far as it is used."""

    secret_type: str

    def analyze_string(self, string: str, /) -> Iterator[str]: ...


@cache
def _scanners() -> tuple[_Scanner, ...]:
    """Return the detectors of `detect-secrets` that go by form; none where it is not installed."""
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
        from detect_secrets.plugins.base import RegexBasedDetector
    except ImportError:
        return ()
    found = get_mapping_from_secret_type_to_class().values()
    # addresses of machines are no secrets of their own, and stand in lists of cameras
    wanted = [each for each in found if issubclass(each, RegexBasedDetector) and each.__name__ != "IPPublicDetector"]
    return tuple(each() for each in sorted(wanted, key=lambda each: each.__name__))
