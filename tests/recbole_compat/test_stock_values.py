"""What torch.save writes comes back the same: tensors of every kind, arrays, numbers, by every protocol."""

from __future__ import annotations

import collections
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.utils import ModelType

from recbole_derrd.errors import CheckpointError
from recbole_derrd.recbole_compat import Inert, read_archive

from .same import same

TABLE = torch.arange(24, dtype=torch.float32).reshape(4, 6)
KINDS = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8,
         torch.bool, torch.complex64, torch.complex128]  # fmt: skip
COO = torch.sparse_coo_tensor(torch.tensor([[0, 2, 2], [1, 0, 1]]), torch.tensor([1.0, 2.0, 3.0]), (3, 4))

VALUES: dict[str, Any] = {
    "plain values": [None, True, False, 0, -1, 255, 256, 65536, -(2**31), 2**40, -(2**100), 1.5, float("nan"), "é", ""],
    "many numbers": [list(range(-300, 3000)), [0.5 * n for n in range(3000)], [1, "a", 2.5, 70000] * 300],
    "containers": {"a": (1, (2, [3])), 5: {}, 1.5: [], (1, "b"): ()},
    "bytes": {"short": b"abc", "long": b"\xff" * 300, "none": b""},
    "sets": {"a": {1, 2}, "b": set()},
    "tensors": [torch.ones(3, 2).to(kind) for kind in KINDS],
    "views": [TABLE, TABLE[1:, ::2], TABLE.t(), TABLE[2], torch.tensor(3.0), torch.empty(0, 5), TABLE[:0]],
    "a parameter": torch.nn.Parameter(TABLE.clone()),
    "a tensor with a gradient": TABLE.clone().requires_grad_(),
    "sparse tensors": [COO, COO.coalesce(), COO.to_sparse_csr(), COO.to_sparse_csc()],
    "an empty sparse tensor": torch.sparse_coo_tensor(torch.empty(2, 0, dtype=torch.long), torch.empty(0), (3, 4)),
    "sparse rows of embeddings": torch.sparse_coo_tensor(torch.tensor([[2, 0]]), TABLE[:2].clone(), (5, 6)),
    "torch's words": [torch.Size([2, 3]), torch.float32, torch.device("cpu"), torch.device("cuda", 1)],
    "a model's weights": torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)).state_dict(),
    "numpy's numbers": [np.float64(0.1), np.float32(0.1), np.int64(-5), np.bool_(True), np.complex64(1j)],
    "arrays": [np.arange(6).reshape(2, 3), np.arange(6.0).reshape(2, 3).T, np.empty((0, 4), np.int8), np.array(2.5),
               np.array([True, False]), np.arange(3, dtype=">i4").astype("=i4")],
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("case", VALUES)
def test_comes_back_the_same(tmp_path: Path, case: str, protocol: int) -> None:
    torch.save(VALUES[case], tmp_path / "a.pth", pickle_protocol=protocol)
    assert same(read_archive(tmp_path / "a.pth"), VALUES[case])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_is_no_number_stays_inert(tmp_path: Path, protocol: int) -> None:
    matrix = sp.csr_matrix(np.eye(3))
    written = [matrix, matrix.tolil(), matrix.tocsc(), ModelType.GENERAL, yaml.FullLoader, pathlib.PurePosixPath("a"),
               np.array(["a"]), np.array([None])]  # fmt: skip
    torch.save(written, tmp_path / "a.pth", pickle_protocol=protocol)
    found = read_archive(tmp_path / "a.pth")
    assert [type(one) for one in found] == [Inert] * len(written)
    assert found[3].path == "recbole.utils.enum_type.ModelType"
    with pytest.raises(CheckpointError, match=r"ModelType.*cannot be saved again"):
        torch.save(found[3], tmp_path / "b.pth")


def test_arrays_of_the_other_order_and_matrices_come_as_arrays(tmp_path: Path) -> None:
    turned = np.arange(6, dtype=np.float64).astype(">f8").reshape(2, 3)
    torch.save([turned, np.matrix([[1.0, 2.0]])], tmp_path / "a.pth", pickle_protocol=4)
    first, second = read_archive(tmp_path / "a.pth")
    assert same(first, np.arange(6, dtype=np.float64).reshape(2, 3)) and same(second, np.array([[1.0, 2.0]]))
    first[0, 0] = 5  # RecBole's models write into theirs


def test_shared_parts_stay_shared(tmp_path: Path) -> None:
    part = [1]
    torch.save([part, part, TABLE, TABLE[1]], tmp_path / "a.pth")
    first, second, table, row = read_archive(tmp_path / "a.pth")
    assert first is second
    table[1, 0] = -1
    assert row[0] == -1


def test_versions_of_a_models_parts_are_kept(tmp_path: Path) -> None:
    weights = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).state_dict()
    torch.save(weights, tmp_path / "a.pth")
    found = read_archive(tmp_path / "a.pth")
    assert type(found) is collections.OrderedDict
    assert found._metadata == weights._metadata == {"": {"version": 1}, "0": {"version": 2}}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300) | st.binary(max_size=300),
    lambda part: st.lists(part, max_size=8) | st.dictionaries(st.text(max_size=5), part, max_size=5) | st.tuples(part),
    max_leaves=30,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(PLAIN, st.sampled_from([2, 4, 5]))
def test_plain_values_come_back_the_same(tmp_path: Path, value: Any, protocol: int) -> None:
    torch.save(value, tmp_path / "a.pth", pickle_protocol=protocol)
    assert same(read_archive(tmp_path / "a.pth"), value)
