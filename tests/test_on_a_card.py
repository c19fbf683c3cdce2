"""Code for cards, run on a card that is none (tests/device/pretend.py): no tensor of the CPU meets one of the card."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from device.noise import same_noise
from device.pretend import CARD, CardGenerator, MixedDevicesError, OnCard, pretended_card
from device.worlds import batch_of, built, world_on
from torch.nn.utils import parametrize

import recbole_derrd.runtime.processes as processes
from recbole_derrd.errors import OptionError
from recbole_derrd.ops.experts import _rows_at_once
from recbole_derrd.ops.full_softmax import users_at_once
from recbole_derrd.recbole_compat.reading import read_archive
from recbole_derrd.registry import METHODS, method_class
from recbole_derrd.runtime.randomness import random_state, set_random_state
from recbole_derrd.student.codewords import CodewordRows
from recbole_derrd.student.model import DistilledMixin
from recbole_derrd.training.attributes import put_back

CPU = torch.device("cpu")


@pytest.fixture
def card() -> Iterator[torch.device]:
    """Pretend that there is a card."""
    with pretended_card() as device:
        yield device


# -- the pretence itself


def test_the_pretended_card_computes_and_differentiates(card: torch.device) -> None:
    values = torch.arange(6.0).view(2, 3)
    there = values.to(card).requires_grad_()
    assert there.device.type == "cuda" and isinstance(torch.zeros(2, device=card), OnCard)
    (there @ there.T).square().sum().backward()
    here = values.clone().requires_grad_()
    (here @ here.T).square().sum().backward()
    assert isinstance(there.grad, OnCard) and torch.equal(there.grad.cpu(), here.grad)
    there = values.to(card)
    there[0] = 7
    there[torch.tensor([1]), torch.tensor([2])] = -torch.inf  # a card takes indices of the CPU
    assert there.cpu().tolist() == [[7, 7, 7], [3, 4, -torch.inf]] and values[0, 1] == 1


@pytest.mark.parametrize(
    "mixing",
    [
        lambda here, there: here + there,
        lambda here, there: here[there.long()],
        lambda here, there: there.index_select(0, here.long()),
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here.add_(there),
    ],
)
def test_the_pretended_card_refuses_tensors_of_the_cpu(card: torch.device, mixing: Any) -> None:
    with pytest.raises(MixedDevicesError):
        mixing(torch.arange(3.0), torch.arange(3.0).to(card))


def test_the_pretended_card_reads_its_own_files(card: torch.device, tmp_path: Path) -> None:
    written = torch.arange(6.0, device=card).view(2, 3)
    torch.save({"state_dict": {"weight": written}}, tmp_path / "file.pth")
    for device, kind in ((card, OnCard), ("cpu", torch.Tensor)):
        read = read_archive(tmp_path / "file.pth", device)["state_dict"]["weight"]
        assert type(read) is kind and read.cpu().tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_the_pretended_card_has_no_numpy(card: torch.device) -> None:
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu"):
        torch.ones(3, device=card).numpy()


# -- every method


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_works_on_a_card(card: torch.device, method: str, tmp_path: Path) -> None:
    """Its loss and gradients are those of the CPU; whatever is mixed raises an error."""
    options = dict(method_class(method).test_settings)
    found = []
    for device in (CPU, card):
        world = world_on(tmp_path, "tiny", method, device)
        loss = built(method, options, world, 0)(batch_of(world, device))
        loss.backward()
        found.append((loss.item(), world.student.model.items.weight.grad.cpu()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1])


def test_noise_of_the_cpu_is_drawn_for_a_card(card: torch.device) -> None:
    here, there = torch.Generator().manual_seed(5), torch.Generator(device=card).manual_seed(5)
    assert isinstance(there, CardGenerator)
    torch.rand(3, generator=there, device=card)  # the card's own stream has gone on
    with same_noise():
        drawn = torch.rand(4, generator=there, device=card)
    assert isinstance(drawn, OnCard) and torch.equal(drawn.cpu(), torch.rand(4, generator=here))


# -- blocks


def test_an_accelerator_gets_larger_blocks() -> None:
    assert users_at_once(1000, CARD) > users_at_once(1000, CPU) == (1 << 20) // 1000
    assert _rows_at_once(CARD, 3000) > _rows_at_once(CPU, 3000) == 192


# -- from one device to another


def test_a_training_goes_on_with_attributes_where_the_model_has_them(card: torch.device) -> None:
    model = SimpleNamespace(device=card, centroids=torch.zeros(2, device=card), order=torch.zeros(2))
    put_back(model, {"centroids": torch.ones(2), "order": torch.ones(2), "lost": torch.ones(2), "count": 3})
    assert isinstance(model.centroids, OnCard) and isinstance(model.lost, OnCard)
    assert not isinstance(model.order, OnCard) and model.count == 3


def test_a_state_of_another_device_seeds_the_generator(caplog: pytest.LogCaptureFixture) -> None:
    """A card's state has 16 bytes, the CPU's 5,056."""
    drawn = []
    for state in (torch.arange(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)):
        model = SimpleNamespace(distillers=[SimpleNamespace(name="de", generator=torch.Generator())])
        with caplog.at_level(logging.WARNING):
            DistilledMixin.load_sampling_state(model, {"de": state})  # type: ignore[arg-type]
        drawn.append(torch.rand(3, generator=model.distillers[0].generator).tolist())
    assert drawn[0] != drawn[1] and "draws of de start anew" in caplog.text
    caplog.clear()
    kept = torch.Generator().manual_seed(3).get_state()
    DistilledMixin.load_sampling_state(model, {"de": kept})  # type: ignore[arg-type]
    assert torch.equal(model.distillers[0].generator.get_state(), kept) and not caplog.text


def test_random_states_of_more_cards_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, index: set_to.append((int(state), index)))
    set_random_state({**random_state(), "cuda": [torch.tensor(8), torch.tensor(9)]})
    assert set_to == [(8, 0)]


# -- several processes


def test_what_the_cpu_has_collected_is_joined_by_cards(card: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(parts: list[torch.Tensor], own: torch.Tensor) -> None:
        assert isinstance(own, OnCard), "nccl takes nothing from the CPU"
        for part in parts:
            part.copy_(own)

    monkeypatch.setattr(processes, "is_distributed", lambda: True)
    monkeypatch.setattr(processes, "all_gather", lambda value: [value, value])
    monkeypatch.setattr(processes.dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(processes.dist, "all_gather", gather)
    joined = processes.gather_rows(torch.tensor([[1, 2]]))
    assert not isinstance(joined, OnCard) and joined.tolist() == [[1, 2], [1, 2]]
    assert isinstance(processes.gather_rows(torch.ones(2, device=card)), OnCard)


def test_more_processes_than_cards_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(OptionError, match=r"gpu_id = 0,1 and nproc = 2 ask for more GPUs than the 1 that torch finds"):
        processes.join(1, {"gpu_id": "0,1", "nproc": 2})


def test_a_table_in_codebooks_lives_on_the_card(card: torch.device) -> None:
    """Codes are found on the CPU, and come from a checkpoint of either."""
    table = torch.nn.Embedding(30, 4).to(card)
    reader, table.weight = CodewordRows.of(table.weight, 2, seed=0)
    parametrize.register_parametrization(table, "weight", reader, unsafe=True)
    latent = table.parametrizations.weight.original
    table.weight.square().sum().backward()
    assert isinstance(latent.grad, OnCard) and isinstance(reader.codes, OnCard)
    rows, entry = table.weight.detach(), reader.entry(latent)
    for given in (entry, {key: value.cpu() for key, value in entry.items()}, None):
        reader.load(latent, rows, given, "table")
        assert isinstance(reader.codes, OnCard) and torch.allclose(table.weight.detach().cpu(), rows.cpu(), atol=1e-3)
