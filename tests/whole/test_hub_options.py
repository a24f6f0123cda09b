"""Whatever loads from the hub has the same options, and they arrive."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from vjepa_sdk import VJEPA, Probe, load_embeddings
from vjepa_sdk.downstream import probe
from vjepa_sdk.hub import locate
from vjepa_sdk.hub.client import HubOptions
from vjepa_sdk.inference import vjepa


@pytest.mark.parametrize(
    ("load", "home", "lookup"),
    [
        (VJEPA.from_pretrained, vjepa, "locate_model"),
        (Probe.from_pretrained, probe, "locate_model"),
        (load_embeddings, locate, "fetch_output"),
    ],
    ids=["model", "probe", "embeddings"],
)
def test_whatever_loads_from_the_hub_hands_every_option_on(
    load: Callable[..., Any], home: ModuleType, lookup: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def record(name: str, hub: HubOptions, **_: Any) -> None:
        handed_on.append((name, hub))
        raise Stop

    handed_on: list[tuple[str, HubOptions]] = []
    options: dict[str, Any] = {
        "revision": "v1",
        "cache_dir": "c",
        "token": "t",
        "local_files_only": True,
        "force_download": True,
    }
    monkeypatch.setattr(home, lookup, record)
    for given in (options, {}):
        with pytest.raises(Stop):
            load("me/thing", **given)
    assert handed_on == [("me/thing", HubOptions(**options)), ("me/thing", HubOptions())]
    assert options.keys() == {field.name for field in dataclasses.fields(HubOptions)}


def test_a_token_is_in_no_text_about_the_options() -> None:
    assert "hf_secret" not in str(HubOptions(token="hf_secret"))
