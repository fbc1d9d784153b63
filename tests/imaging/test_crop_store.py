import numpy as np
import pandas as pd
import pytest

from glomflow.errors import GlomflowError
from glomflow.imaging.crop_store import crop_writer, open_array, read_store, write_store
from glomflow.tables import CROPS, write_table


def index(count):
    values = {"string": "x", "int64": 0, "float64": 1.0, "bool": True}
    frame = pd.DataFrame({name: [values[column.dtype]] * count for name, column in CROPS.items()})
    frame["row"] = np.arange(count)
    return frame


def crops(count, channels=3):
    return np.random.default_rng(count).integers(0, 256, (count, 8, 9, channels), dtype=np.uint8)


@pytest.mark.parametrize(("count", "channels"), [(0, 3), (1, 1), (12, 3)])
def test_a_store_is_read_as_it_was_written(tmp_path, count, channels):
    paths = tmp_path / "deep" / "0.npy", tmp_path / "deep" / "0.parquet"
    write_store(*paths, crops(count, channels), index(count))
    stored, table = read_store(*paths)
    assert np.array_equal(stored, crops(count, channels))
    assert stored.dtype == np.uint8
    assert not stored.flags.writeable
    assert table["row"].tolist() == list(range(count))
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["0.npy", "0.parquet"]


@pytest.mark.parametrize("count", [0, 1, 11])
def test_the_writer_makes_the_same_file(tmp_path, count):
    write_store(tmp_path / "a.npy", tmp_path / "a.parquet", crops(count), index(count))
    with crop_writer(tmp_path / "b.npy", (8, 9, 3)) as writer:
        for crop in crops(count):
            writer.append(crop)
        assert writer.count == count
        assert not (tmp_path / "b.npy").exists()
    assert np.array_equal(np.load(tmp_path / "b.npy", allow_pickle=False), crops(count))
    assert (tmp_path / "b.npy").stat().st_size == (tmp_path / "a.npy").stat().st_size


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with (
        pytest.raises(ValueError, match=r"crop is uint8 of shape \(8, 8, 3\), the store's are \(8, 9, 3\)"),
        crop_writer(tmp_path / "b.npy", (8, 9, 3)) as writer,
    ):
        writer.append(np.zeros((8, 8, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_store(tmp_path):
    paths = tmp_path / "a.npy", tmp_path / "a.parquet"
    write_store(*paths, crops(2), index(2))
    with pytest.raises(GlomflowError):
        write_store(*paths, crops(3), index(2))
    assert len(read_store(*paths)[0]) == 2


def test_lengths_that_differ_name_both_files(tmp_path):
    paths = tmp_path / "a.npy", tmp_path / "a.parquet"
    message = r"crop store: .*a.npy holds 3 crops, but .*a.parquet 2 rows; delete both and run again"
    with pytest.raises(GlomflowError, match=message):
        write_store(*paths, crops(3), index(2))
    write_store(*paths, crops(3), index(3))
    write_table(paths[1], index(2), CROPS)
    with pytest.raises(GlomflowError, match=message):
        read_store(*paths)


def test_rows_must_count_from_zero(tmp_path):
    frame = index(3)
    frame["row"] = [0, 2, 1]
    with pytest.raises(GlomflowError, match=r"'row' of .*a.parquet does not count from 0 to 2; delete it"):
        write_store(tmp_path / "a.npy", tmp_path / "a.parquet", crops(3), frame)


def test_only_8_bit_crops_are_stored(tmp_path):
    with pytest.raises(GlomflowError, match=r"a.npy: crops are float32 of shape \(3, 8, 9, 3\), not uint8"):
        write_store(tmp_path / "a.npy", tmp_path / "a.parquet", crops(3).astype(np.float32), index(3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"a.npy: cannot be read \(.*\); delete it and run again"),
        (b"rubbish", r"a.npy: cannot be read \(.*\); delete it and run again"),
        (np.zeros((2, 3)), r"a.npy: holds float64 of shape \(2, 3\), not uint8 \(N, H, W, C\); delete it"),
        (np.array([{"a": 1}], dtype=object), r"a.npy: cannot be read \(.*\); delete it and run again"),
    ],
    ids=["absent", "rubbish", "other array", "pickle"],
)
def test_damaged_stores(tmp_path, content, message):
    if isinstance(content, bytes):
        (tmp_path / "a.npy").write_bytes(content)
    elif content is not None:
        np.save(tmp_path / "a.npy", content, allow_pickle=True)
    write_table(tmp_path / "a.parquet", index(2), CROPS)
    with pytest.raises(GlomflowError, match=message):
        read_store(tmp_path / "a.npy", tmp_path / "a.parquet")


def test_cut_features_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 7, 7, 4), np.float16))
    assert open_array(tmp_path / "a.npy", "features").shape == (2, 7, 7, 4)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-50])
    with pytest.raises(
        GlomflowError, match=r"features .*a.npy: cannot be read \(.*\); delete it and run again"
    ):
        open_array(tmp_path / "a.npy", "features")


def test_a_cut_store_is_refused(tmp_path):
    paths = tmp_path / "a.npy", tmp_path / "a.parquet"
    write_store(*paths, crops(3), index(3))
    paths[0].write_bytes(paths[0].read_bytes()[:-50])
    with pytest.raises(GlomflowError, match=r"a.npy: cannot be read"):
        read_store(*paths)
