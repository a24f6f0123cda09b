"""Files of features are read back as written, by us and by the libraries that own the formats."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vjepa_sdk.errors import ConfigError, InputError
from vjepa_sdk.features import parquet
from vjepa_sdk.features.embeddings import Embeddings, sidecar
from vjepa_sdk.features.formats import Row, iter_rows, write_features
from vjepa_sdk.hub.locate import load_embeddings

FORMATS = [".npy", ".npz", ".safetensors", ".parquet"]
RAGGED = [".npz", ".safetensors", ".parquet"]


def _entry(row: int) -> dict[str, Any]:
    return {"row": row, "id": f"clip-{row}", "path": f"{row}.mp4", "start_seconds": 0.5, "end_seconds": None}


def _write(path: Path, values: list[np.ndarray], dtype: Any = "float32") -> Path:
    rows = [Row(_entry(number), array) for number, array in enumerate(values)]
    with open(path, "wb") as file:
        write_features(file, rows, suffix=path.suffix, shapes=[row.shape for row in values], dtype=dtype, columns={})
    sidecar(path, "index.jsonl").write_text("".join(json.dumps(row.entry) + "\n" for row in rows))
    sidecar(path, "meta.json").write_text(json.dumps({"output": path.name}))
    return path


def _rows(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape, dtype=np.float32) for shape in shapes]


@settings(max_examples=50, deadline=None)
@given(
    features=arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=5, max_side=4)),
    suffix=st.sampled_from(FORMATS),
)
def test_what_is_written_is_read_back_bit_for_bit(
    features: np.ndarray, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _write(tmp_path_factory.mktemp("features") / f"feats{suffix}", list(features))
    loaded = load_embeddings(path).features
    assert loaded.dtype == np.float32
    assert loaded.shape == features.shape
    assert loaded.tobytes() == features.tobytes()


@pytest.mark.parametrize("shapes", [[(2, 3), (4, 3), (1, 3)], [(2, 3), (2, 4)], [(3,), (3, 1)]])
@pytest.mark.parametrize("suffix", RAGGED)
def test_rows_may_differ_in_shape(tmp_path: Path, suffix: str, shapes: list[tuple[int, ...]]) -> None:
    rows = _rows(*shapes)
    features = load_embeddings(_write(tmp_path / f"feats{suffix}", rows)).features
    assert features.dtype == object
    assert all(np.array_equal(row, loaded) for row, loaded in zip(rows, features, strict=True))


@settings(max_examples=50, deadline=None)
@given(
    features=arrays.arrays(np.float16, arrays.array_shapes(min_dims=2, max_dims=4, max_side=4)),
    suffix=st.sampled_from(FORMATS),
)
def test_half_precision_is_read_back_bit_for_bit(
    features: np.ndarray, suffix: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _write(tmp_path_factory.mktemp("features") / f"feats{suffix}", list(features), dtype="float16")
    loaded = load_embeddings(path).features
    assert loaded.dtype == np.float16
    assert loaded.tobytes() == features.tobytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_are_read_one_by_one_as_they_are_in_one_piece(tmp_path: Path, suffix: str) -> None:
    rows = _rows((2, 3), (2, 3), (2, 3))
    read = list(iter_rows(_write(tmp_path / f"feats{suffix}", rows)))
    assert all(np.array_equal(row, given) for row, given in zip(read, rows, strict=True))


def test_parquet_is_a_table_that_databases_take(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet as pq

    rows = _rows((3,), (3,))
    table = pq.read_table(_write(tmp_path / "feats.parquet", rows))
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table.column_names == [
        *("row", "id", "path", "start_seconds", "end_seconds", "frames", "decoder", "embedding")
    ]
    assert table["id"].to_pylist() == ["clip-0", "clip-1"]
    assert table["end_seconds"].to_pylist() == [None, None]
    assert np.array_equal(np.stack(table["embedding"].to_numpy()), np.stack(rows))


def test_parquet_says_how_flattened_rows_were_shaped(tmp_path: Path) -> None:
    from pyarrow import parquet as pq

    table = pq.read_table(_write(tmp_path / "feats.parquet", _rows((2, 3), (4, 3))))
    assert table["shape"].to_pylist() == [[2, 3], [4, 3]]


def test_parquet_groups_do_not_need_all_rows_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet as pq

    monkeypatch.setattr(parquet, "_GROUP_BYTES", 30)
    path = _write(tmp_path / "feats.parquet", rows := _rows(*[(3,)] * 5))
    assert pq.ParquetFile(path).num_row_groups == 3
    assert np.array_equal(load_embeddings(path).features, np.stack(rows))


def test_names_that_are_not_utf8_are_escaped_in_parquet(tmp_path: Path) -> None:
    from pyarrow import parquet as pq

    entry = _entry(0) | {"path": os.fsdecode(b"\xff.mp4")}
    with open(path := tmp_path / "feats.parquet", "wb") as file:
        write_features(file, [Row(entry, np.zeros(3))], suffix=".parquet", shapes=[(3,)], dtype="float32", columns={})
    assert pq.read_table(path)["path"].to_pylist() == ["\\udcff.mp4"]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"\.parquet needs pyarrow; install it with `pip install 'vjepa-sdk\[parquet"):
        load_embeddings(tmp_path / "feats.parquet")


def test_npy_is_what_numpy_itself_writes(tmp_path: Path) -> None:
    features = np.stack(_rows((3,), (3,)))
    own = io.BytesIO()
    np.save(own, features)
    assert _write(tmp_path / "feats.npy", list(features)).read_bytes() == own.getvalue()


def test_npz_and_safetensors_open_with_their_libraries(tmp_path: Path) -> None:
    from safetensors import safe_open

    rows = _rows((3,), (3,))
    with np.load(_write(tmp_path / "feats.npz", rows), allow_pickle=False) as archive:
        assert sorted(archive.files) == ["00000000", "00000001"]
    with safe_open(_write(tmp_path / "feats.safetensors", rows), framework="np") as file:
        assert sorted(file.keys()) == ["00000000", "00000001"]
        assert np.array_equal(file.get_tensor("00000001"), rows[1])


@pytest.mark.parametrize("suffix", FORMATS)
def test_bytes_depend_on_the_rows_alone(tmp_path: Path, suffix: str) -> None:
    rows = _rows((2, 3), (2, 3))
    assert _write(tmp_path / f"a{suffix}", rows).read_bytes() == _write(tmp_path / f"b{suffix}", rows).read_bytes()


def test_index_and_meta_come_with_the_features(tmp_path: Path) -> None:
    loaded = load_embeddings(_write(tmp_path / "feats.npy", _rows((3,), (3,))))
    assert loaded.index == [_entry(0), _entry(1)]
    assert loaded.meta == {"output": "feats.npy"}


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"feats\.csv: the suffix '\.csv' must be one of \.npy, \.npz, \.safetensors"):
        load_embeddings(tmp_path / "feats.csv")


@pytest.mark.parametrize("name", ["feats.npy", "feats.index.jsonl", "feats.meta.json"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    _write(tmp_path / "feats.npy", _rows((3,)))
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: does not exist; `vjepa embed --out .*feats\.npy` writes it"):
        load_embeddings(tmp_path / "feats.npy")


def test_an_index_of_another_length_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "feats.npy", _rows((3,), (3,)))
    sidecar(path, "index.jsonl").write_text('{"row": 0}\n')
    with pytest.raises(InputError, match=r"feats\.npy: has 2 rows, but its index has 1 lines"):
        load_embeddings(path)


def test_an_index_of_another_output_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "feats.npy", _rows((3,)))
    sidecar(path, "meta.json").write_text('{"output": "feats.npz"}')
    with pytest.raises(InputError, match=r"belongs to 'feats\.npz'; keep the files of one run together"):
        load_embeddings(path)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff", b"\xff" * 64])
def test_damaged_features_are_an_input_error(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = _write(tmp_path / f"feats{suffix}", _rows((3,)))
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged or not written by `vjepa embed`"):
        load_embeddings(path)


@pytest.mark.parametrize(("suffix", "other"), [(".npy", ".npz"), (".npz", ".npy")])
def test_a_suffix_that_names_another_format_is_an_input_error(tmp_path: Path, suffix: str, other: str) -> None:
    path, wrong = _write(tmp_path / f"a{suffix}", _rows((3,))), _write(tmp_path / f"b{other}", _rows((3,)))
    path.write_bytes(wrong.read_bytes())
    with pytest.raises(InputError, match="its suffix names another format"):
        load_embeddings(path)


@pytest.mark.parametrize(("name", "text"), [("index.jsonl", "{\n"), ("meta.json", "{"), ("meta.json", "[]")])
def test_damaged_sidecars_are_an_input_error(tmp_path: Path, name: str, text: str) -> None:
    path = _write(tmp_path / "feats.npy", _rows((3,)))
    sidecar(path, name).write_text(text)
    with pytest.raises(InputError, match=r"feats\.npy: "):
        load_embeddings(path)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = _write(tmp_path / "feats.npy", _rows((3,)))
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="Object arrays cannot be loaded"):
        load_embeddings(path)


def test_what_is_loaded_says_in_a_line_what_it_is(tmp_path: Path) -> None:
    assert repr(load_embeddings(_write(tmp_path / "a.npy", _rows((3,), (3,))))) == "Embeddings(2 rows of [3] float32)"
    found = load_embeddings(_write(tmp_path / "b.npz", _rows((3,), (2, 3))))
    assert repr(found) == "Embeddings(2 rows of arrays)" and len(found) == 2
    assert found.ids == ["clip-0", "clip-1"] and found.paths == ["0.mp4", "1.mp4"]


@pytest.mark.parametrize("shapes", [[(3,), (3,)], [(2, 3), (4, 3)]])
def test_features_become_an_arrow_table(tmp_path: Path, shapes: list[tuple[int, ...]]) -> None:
    pytest.importorskip("pyarrow")
    found = load_embeddings(_write(tmp_path / "a.npz", _rows(*shapes)))
    table = found.to_arrow()
    assert table.column("id").to_pylist() == found.ids
    for row, expected in enumerate(found.features):
        given = np.array(table.column("embedding")[row].as_py(), np.float32)
        shape = table.column("shape")[row].as_py() if len(shapes[0]) > 1 else shapes[row]
        np.testing.assert_array_equal(given.reshape(shape), expected)


def test_features_become_a_data_frame(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    found = load_embeddings(_write(tmp_path / "a.npy", _rows((3,), (3,))))
    frame = found.to_pandas()
    assert list(frame["id"]) == found.ids and list(frame["start_seconds"]) == [0.5, 0.5]
    np.testing.assert_array_equal(np.stack(list(frame["embedding"])), found.features)


def test_without_pandas_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_embeddings(_write(tmp_path / "a.npy", _rows((3,))))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="needs pandas; install it with `pip install pandas`"):
        found.to_pandas()


def test_a_table_takes_columns_of_several_kinds() -> None:
    index = [{"id": "a", "path": "a", "mixed": 1, "n": 2}, {"id": "b", "path": "b", "mixed": ["x"], "n": 0.5}]
    table = Embeddings(np.zeros((2, 3), np.float32), index, {}).to_arrow()
    assert table["mixed"].to_pylist() == ["1", '["x"]']
    assert table["n"].to_pylist() == [2.0, 0.5]
