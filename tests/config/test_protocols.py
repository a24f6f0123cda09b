"""Official evaluations are found by name, and are what the papers and the official code say."""

from __future__ import annotations

import pytest

from vjepa_sdk.config.protocols import PROTOCOLS, find_protocol
from vjepa_sdk.config.registry import KNOWN_MODELS
from vjepa_sdk.errors import ConfigError


def test_every_data_set_of_the_papers_has_its_protocols() -> None:
    ours = {f"vjepa-{data}" for data in ("k400", "ssv2", "in1k")}
    second = {f"vjepa2-{data}" for data in ("k400", "ssv2", "coin", "diving48", "jester", "in1k")}
    assert set(PROTOCOLS) == ours | second | {f"{name}-384" for name in second}


def test_numbers_are_those_of_models_that_exist() -> None:
    for protocol in PROTOCOLS.values():
        assert protocol.published and protocol.published.keys() <= KNOWN_MODELS.keys()
        assert all(60 < top1 < 100 for top1 in protocol.published.values())


@pytest.mark.parametrize(
    ("name", "probes"), [("vjepa-k400", 1), ("vjepa2-ssv2", 20), ("vjepa2-jester", 3), ("vjepa2-in1k", 21)]
)
def test_grids_have_the_official_numbers_of_probes(name: str, probes: int) -> None:
    assert len(PROTOCOLS[name].grid) == len(set(PROTOCOLS[name].grid)) == probes


def test_four_blocks_end_with_the_last_one() -> None:
    for depth, layers in PROTOCOLS["vjepa2-diving48"].layers.items():
        assert len(layers) == 4 and layers[-1] == depth - 1


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown protocol 'vjepa2-ssv'; did you mean 'vjepa2-ssv2'"):
        find_protocol("vjepa2-ssv")
    assert find_protocol("simple") is None
