"""Each adapter against the model it wraps: the same ranking, the same logits, gradients that reach the weights."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_derrd.adapters import (
    ADAPTERS,
    Adapter,
    EmbeddingAdapter,
    FactorAdapter,
    RowAdapter,
    adapter_class,
    adapter_of,
    register_adapter,
)
from recbole_derrd.adapters import factors as factors_module
from recbole_derrd.adapters import pairs as pairs_module
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data, prepare_data
from recbole_derrd.errors import OptionError
from recbole_derrd.model_cache.building import build_model
from recbole_derrd.recbole_compat.models import general_models, model_class
from recbole_derrd.student.model import distilled

MODELS = sorted(general_models())
TRAINABLE = [name for name in MODELS if ADAPTERS[name].trainable]
WITH_VECTORS = [name for name in MODELS if ADAPTERS[name].hints]
DOT_PRODUCT = [name for name in MODELS if issubclass(ADAPTERS[name], EmbeddingAdapter)]
#: Models whose full_sort_predict is no strictly monotone map of the logits: why, instead.
OWN_RANKING = {"Random": "draws anew at each call"}
USERS = torch.tensor([3, 30, 1, 17])


@pytest.fixture(scope="module")
def prepared() -> dict[str, tuple[DistillConfig, Data]]:
    """Data by model and settings, which no test changes."""
    return {}


@pytest.fixture
def built(tiny_settings: Any, prepared: dict[str, tuple[DistillConfig, Data]]) -> Callable[..., tuple[Any, Data]]:
    """Return a function that builds a model in evaluation mode with weights far from their start."""

    def build(name: str, kind: type[Any] | None = None, **settings: Any) -> tuple[Any, Data]:
        key = f"{name} {sorted(settings.items())}"
        if key not in prepared:
            config = DistillConfig(name, "tiny", config_dict=tiny_settings(name, **settings))
            prepared[key] = config, prepare_data(config)
        config, data = prepared[key]
        model = build_model(config, data, kind)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                # Some models start at 0.01, where every score is the same to a float.
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        if name == "Pop":
            for batch in data.train:
                model.calculate_loss(batch)
        return model.eval(), data

    return build


@torch.no_grad()
def own_scores(model: Any, users: torch.Tensor) -> torch.Tensor:
    """What stock evaluation ranks by: full_sort_predict, or predict of each pair where there is none."""
    interaction = Interaction({model.USER_ID: users})
    try:
        scores = model.full_sort_predict(interaction)
    except NotImplementedError:
        pairs = Interaction(
            {
                model.USER_ID: users.repeat_interleave(model.n_items),
                model.ITEM_ID: torch.arange(model.n_items).repeat(len(users)),
            }
        )
        scores = model.predict(pairs)
    return torch.as_tensor(scores).reshape(len(users), model.n_items).double()


def strictly_ordered_alike(ours: torch.Tensor, own: torch.Tensor, *, slack: float = 1e-5) -> None:
    """Pairs of items that one side tells apart clearly, the other orders the same way."""
    scale = ours.std(dim=1, keepdim=True).clamp(min=1e-12)
    ours = (ours / scale).double()
    ours_gap = ours.unsqueeze(2) - ours.unsqueeze(1)
    own_gap = own.unsqueeze(2) - own.unsqueeze(1)
    clearly = ours_gap.abs() > slack
    assert clearly.any()
    assert (ours_gap.sign() * own_gap.sign() >= 0)[clearly].all()
    # Float32 makes ties out of near equals under a sigmoid, but not out of clear differences.
    wide = ours_gap.abs() > 0.05
    assert (ours_gap.sign() == own_gap.sign())[wide].all()


@pytest.mark.parametrize("name", MODELS)
def test_scores_rank_as_the_model_does(name: str, built: Any) -> None:
    model, _ = built(name)
    adapter = adapter_of(model)
    with torch.no_grad():
        ours = adapter.score_all(USERS)
    assert ours.shape == (len(USERS), model.n_items)
    assert ours.dtype == torch.float32
    assert torch.isfinite(ours[:, 1:]).all()
    if name in OWN_RANKING:
        pytest.skip(f"{name} {OWN_RANKING[name]}")
    # ADMM-SLIM's own scores carry noise of up to 1e-5.
    own = own_scores(model, USERS)
    if name == "ADMMSLIM":
        assert (own - ours).abs().max() <= 1.1e-5
    else:
        strictly_ordered_alike(ours[:, 1:], own[:, 1:])


@pytest.mark.parametrize("name", ["CDAE", "DMF", "NAIS", "NNCF", "NeuMF"])
def test_scores_are_what_the_model_puts_through_a_sigmoid(name: str, built: Any) -> None:
    model, _ = built(name)
    with torch.no_grad():
        ours = adapter_of(model).score_all(USERS)
    torch.testing.assert_close(ours.double().sigmoid(), own_scores(model, USERS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("share", [False, True])
def test_listed_items_score_as_in_the_whole_catalogue(name: str, share: bool, built: Any) -> None:
    model, _ = built(name)
    adapter = adapter_of(model)
    items = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(int(user)))[:7] for user in USERS])
    items = items + 1
    with torch.no_grad():
        if share:
            with adapter.shared():
                listed, everything = adapter.score(USERS, items), adapter.score_all(USERS)
        else:
            listed, everything = adapter.score(USERS, items), adapter.score_all(USERS)
        alone = adapter.score_all(USERS[1:2])
    assert listed.shape == items.shape
    torch.testing.assert_close(listed, everything.gather(1, items), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, everything[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_one_user_and_one_item(name: str, built: Any) -> None:
    model, _ = built(name)
    adapter = adapter_of(model)
    with torch.no_grad():
        assert adapter.score(torch.tensor([5]), torch.tensor([[9]])).shape == (1, 1)
        assert adapter.score_all(torch.tensor([5])).shape == (1, 41)


@pytest.mark.parametrize("name", MODELS)
def test_scoring_twice_gives_the_same_and_draws_no_random_number(name: str, built: Any) -> None:
    model, _ = built(name)
    adapter = adapter_of(model)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    with torch.no_grad():
        first, second = adapter.score_all(USERS), adapter.score_all(USERS)
    assert torch.equal(first, second)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])


@pytest.mark.parametrize("name", DOT_PRODUCT)
def test_score_is_the_product_of_the_vectors(name: str, built: Any) -> None:
    model, _ = built(name)
    adapter = adapter_of(model)
    with torch.no_grad():
        users, items = adapter.user_embeddings(), adapter.item_embeddings()
        everything = adapter.score_all(torch.arange(1, model.n_users))
    assert users.shape[0] == model.n_users and items.shape[0] == model.n_items
    torch.testing.assert_close((users @ items.T)[1:], everything, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_vectors_of_some_are_rows_of_all(name: str, built: Any) -> None:
    model, _ = built(name)
    adapter = adapter_of(model)
    items = torch.tensor([40, 2, 2, 9])
    for hint in (None, *adapter.hints):
        with torch.no_grad():
            torch.testing.assert_close(adapter.user_embeddings(USERS, hint), adapter.user_embeddings(None, hint)[USERS])
            torch.testing.assert_close(adapter.item_embeddings(items, hint), adapter.item_embeddings(None, hint)[items])
    with pytest.raises(OptionError, match=f"{name} has no hint layer 'nonsense'. It has: {adapter.hints[0]}"):
        adapter.user_embeddings(USERS, "nonsense")
    with pytest.raises(OptionError, match="has no hint layer"):
        adapter.item_embeddings(items, "nonsense")


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(WITH_VECTORS)))
def test_without_embeddings_the_error_says_what_works(name: str, built: Any) -> None:
    adapter = adapter_of(built(name)[0])
    for read in (adapter.user_embeddings, adapter.item_embeddings):
        with pytest.raises(OptionError, match=rf"{name} has no user and item embeddings, .*rankings or scores"):
            read()


def moved(model: Any) -> set[str]:
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


#: Weights that scoring does not read, so that no gradient of a score can reach them.
UNREAD = {
    "LINE": {"user_context_embedding.weight", "item_context_embedding.weight"},
    "RaCT": {"critic_net."},
    "RecVAE": {"encoder.fc_logvar.", "prior."},
}


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("method", ["score", "score_all"])
def test_gradients_reach_every_weight_that_scores(name: str, method: str, built: Any) -> None:
    model, _ = built(name)
    model.train()
    adapter = adapter_of(model)
    torch.manual_seed(0)
    for _ in range(5):  # relu units may be dead under one draw of dropout
        if method == "score":
            scores = adapter.score(USERS, torch.arange(1, 41).expand(len(USERS), -1))
        else:
            scores = adapter.score_all(USERS)
        assert scores.requires_grad
        (scores * torch.randn(scores.shape)).sum().backward()
    unread = tuple(UNREAD.get(name, ()))
    wanted = {weight for weight, value in model.named_parameters() if value.requires_grad}
    if unread:
        wanted = {weight for weight in wanted if not weight.startswith(unread)}
    # A bias that all of a user's scores share cancels in no single score, so every weight counts.
    assert wanted - moved(model) == set()


@pytest.mark.parametrize("name", sorted(set(TRAINABLE) & set(WITH_VECTORS)))
def test_gradients_reach_the_weights_from_the_vectors(name: str, built: Any) -> None:
    model, _ = built(name)
    model.train()
    adapter = adapter_of(model)
    for hint in adapter.hints:
        for embeddings in (adapter.user_embeddings(USERS, hint), adapter.item_embeddings(USERS, hint)):
            model.zero_grad()
            embeddings.square().sum().backward()
            assert moved(model)


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(TRAINABLE)))
def test_models_without_gradients_say_so(name: str, built: Any) -> None:
    with torch.no_grad():
        assert not adapter_of(built(name)[0]).score_all(USERS).requires_grad


# -- training mode: the terms see the dropout that the model's own loss sees


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("NeuMF", {"dropout_prob": 0.5}),
        ("NNCF", {"dropout": 0.5}),
        ("ConvNCF", {"dropout_prob": 0.5}),
        ("NGCF", {"message_dropout": 0.5}),
        ("GCMC", {"dropout_prob": 0.5}),
        ("CDAE", {"corruption_ratio": 0.5}),
        ("MultiVAE", {}),
        ("RecVAE", {}),
        ("ENMF", {"dropout_prob": 0.5}),
        ("SimpleX", {"dropout_prob": 0.5}),
    ],
)
def test_dropout_acts_in_training_only(name: str, settings: dict[str, Any], built: Any) -> None:
    model, _ = built(name, **settings)
    adapter = adapter_of(model)
    items = torch.arange(1, 41).expand(len(USERS), -1)
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(adapter.score(USERS, items), adapter.score(USERS, items))
        model.train()
        assert not torch.allclose(adapter.score(USERS, items), adapter.score(USERS, items))


@pytest.mark.parametrize("name", ["GCMC", "LightGCN", "NGCF", "SGL", "DGCF", "SpectralCF", "NCL"])
def test_base_loss_and_terms_share_one_propagation(name: str, built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"message_dropout": 0.5} if name == "NGCF" else {}
    model, data = built(name, distilled(model_class(name)), **settings)
    if name == "NCL":
        model.user_centroids = model.item_centroids = torch.ones(1, 8)
        model.user_2cluster, model.item_2cluster = (torch.zeros(n, dtype=torch.long) for n in (31, 41))
    model.train()
    # The stock forward, and GCMC's encoder, are what costs; SGL also propagates its two views.
    owner, attribute = (type(model.GcEncoder), "forward") if name == "GCMC" else (model_class(name), "forward")
    calls = []
    stock = getattr(owner, attribute)
    monkeypatch.setattr(owner, attribute, lambda self, *args: calls.append(args) or stock(self, *args))
    batch = next(iter(data.train))
    with model.adapter.shared():
        base = super(type(model).__mro__[1], model).calculate_loss(batch)
        once = len(calls)
        scores = model.adapter.score(USERS, torch.ones(len(USERS), 3, dtype=torch.long))
        model.adapter.user_embeddings(USERS), model.adapter.item_embeddings(USERS)
    assert len(calls) == once == (3 if name == "SGL" else 1)
    # One backward through both: nothing of the shared graph may have been freed or changed in place.
    (scores.sum() + (sum(base) if isinstance(base, tuple) else base)).backward()
    assert moved(model)


def test_another_propagation_is_not_answered_with_the_usual_one(built: Any) -> None:
    """Subclasses of LightGCN in the manner of SimGCL ask for perturbed ones in their loss."""
    adapter = adapter_of(built("LightGCN")[0])
    calls: list[dict[str, Any]] = []
    forward = lambda **more: calls.append(more) or len(calls)  # noqa: E731
    with adapter.shared():
        assert [adapter.observed_forward(forward) for _ in range(2)] == [1, 1]
        assert [adapter.observed_forward(forward, perturbed=True) for _ in range(2)] == [2, 3]
        assert adapter.observed_forward(forward) == 1
    assert calls == [{}, {"perturbed": True}, {"perturbed": True}]


def test_what_was_computed_without_gradients_is_computed_again_for_them(built: Any) -> None:
    adapter = adapter_of(built("SimpleX")[0])
    with adapter.shared():
        with torch.no_grad():
            looked_at = adapter.once("all items", adapter.item_embeddings)
        assert not looked_at.requires_grad
        learning = adapter.once("all items", adapter.item_embeddings)
        assert learning.requires_grad
        with torch.no_grad():
            assert adapter.once("all items", adapter.item_embeddings) is learning


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dmf_learns_under_mixed_precision(dtype: torch.dtype, built: Any) -> None:
    model, _ = built("DMF")
    with torch.autocast("cpu", dtype=dtype):
        scores = adapter_of(model).score_all(USERS)
    scores.float().sum().backward()
    assert moved(model)


@pytest.mark.parametrize("name", ["GCMC", "NGCF"])
def test_shared_encoding_leaves_the_base_loss_as_it_is(name: str, built: Any) -> None:
    model, data = built(name, distilled(model_class(name)))
    batch = next(iter(data.train))
    model.train()
    losses = []
    for share in (False, True):
        torch.manual_seed(3)
        if share:
            with model.adapter.shared():
                losses.append(super(type(model).__mro__[1], model).calculate_loss(batch).item())
        else:
            losses.append(super(type(model).__mro__[1], model).calculate_loss(batch).item())
    assert losses[0] == losses[1]


def test_recvae_terms_follow_the_phase_of_its_training(built: Any) -> None:
    model, data = built("RecVAE", distilled(model_class("RecVAE")))
    batch = next(iter(data.train))
    items = torch.arange(1, 41).expand(len(USERS), -1)
    model.train()
    seen = {}
    for phase in (True, False):
        model.calculate_loss(batch, encoder_flag=phase)
        with torch.no_grad():
            draws = [model.adapter.score(USERS, items) for _ in range(2)]
        seen[phase] = float((draws[0] - draws[1]).abs().mean())
    # What is left without dropout is the encoder's noise of 0.01.
    assert seen[True] > 10 * seen[False] > 0


def test_sgl_vectors_are_those_of_the_whole_graph(built: Any) -> None:
    model, _ = built("SGL")
    adapter = adapter_of(model)
    before = adapter.user_embeddings()
    model.train()  # rebuilds the two views
    assert torch.equal(before, adapter.user_embeddings())


# -- one model's own traps


@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_neumf_split_equals_its_forward(parts: tuple[bool, bool], dropout: float, built: Any) -> None:
    model, _ = built("NeuMF", mf_train=parts[0], mlp_train=parts[1], dropout_prob=dropout)
    adapter = adapter_of(model)
    every = torch.arange(model.n_items)
    with torch.no_grad():
        forward = torch.stack([model.forward(user.expand_as(every), every) for user in USERS])
        torch.testing.assert_close(adapter.score_all(USERS), forward, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(adapter.score(USERS, every.expand(4, -1)), forward, rtol=1e-5, atol=1e-6)
        model.train()
        torch.manual_seed(1)
        trained = adapter.score(USERS, every.expand(4, -1))
        torch.manual_seed(1)
        pairs = model.forward(USERS.repeat_interleave(len(every)), every.repeat(len(USERS))).view(4, -1)
    torch.testing.assert_close(trained, pairs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_fism_logit_is_what_its_forward_puts_through_a_sigmoid(alpha: float, built: Any) -> None:
    model, _ = built("FISM", alpha=alpha)
    items = torch.tensor([7, 8, 9, 10])
    with torch.no_grad():
        own = model.forward(USERS, items)
        ours = adapter_of(model).score(USERS, items.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(ours.sigmoid(), own)


@pytest.mark.parametrize("algorithm", ["prod", "concat"])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_nais_logit_is_what_full_sort_puts_through_a_sigmoid(algorithm: str, alpha: float, built: Any) -> None:
    model, _ = built("NAIS", algorithm=algorithm, alpha=alpha)
    with torch.no_grad():
        ours = adapter_of(model).score_all(USERS)
    torch.testing.assert_close(ours.sigmoid().double(), own_scores(model, USERS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{}, {"inter_matrix_type": "rating", "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}}],
)
def test_dmf_logit_is_its_forward(settings: dict[str, Any], built: Any) -> None:
    model, _ = built("DMF", **settings)
    items = torch.tensor([7, 8, 9, 10])
    with torch.no_grad():
        ours = adapter_of(model).score(USERS, items.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(ours, model.forward(USERS, items))
        torch.testing.assert_close(adapter_of(model).item_embeddings(), model.get_item_embedding())


@pytest.mark.parametrize("accum", ["stack", "sum"])
@pytest.mark.parametrize("sparse", [True, False])
def test_gcmc_logit_is_class_one_of_its_decoder(accum: str, sparse: bool, built: Any) -> None:
    model, _ = built("GCMC", accum=accum, sparse_feature=sparse, num_basis_functions=3)
    items = torch.tensor([7, 8, 9, 10])
    with torch.no_grad():
        ours = adapter_of(model).score(USERS, items.unsqueeze(1)).squeeze(1)
        own = model.forward(model.user_features, model.item_features, USERS, items)[:, 1]
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["BCE", "MSE"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_cdae_logit_is_before_the_output_activation(loss: str, activation: str, built: Any) -> None:
    model, _ = built("CDAE", loss_type=loss, out_activation=activation)
    with torch.no_grad():
        ours = adapter_of(model).score_all(USERS)
    torch.testing.assert_close(model.o_act(ours).double(), own_scores(model, USERS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("aggregator", ["mean", "user_attention", "self_attention"])
def test_simplex_logit_is_the_cosine(aggregator: str, built: Any) -> None:
    model, _ = built("SimpleX", aggregator=aggregator)
    with torch.no_grad():
        ours = adapter_of(model).score_all(USERS)
    assert ours.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(ours.double(), own_scores(model, USERS), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("center", [True, False])
def test_admm_slim_is_its_own_prediction_without_the_noise(center: bool, built: Any) -> None:
    model, _ = built("ADMMSLIM", center_columns=center)
    ours = adapter_of(model).score_all(USERS)
    noise = own_scores(model, USERS) - ours
    assert noise.min() >= -1e-6 and noise.max() <= 1.1e-5


def test_nncf_neighbours_are_redrawn_alike_when_it_is_loaded(built: Any) -> None:
    first, second = built("NNCF")[0], built("NNCF")[0]
    assert torch.equal(first.u_neigh, second.u_neigh) and torch.equal(first.i_neigh, second.i_neigh)
    assert torch.equal(adapter_of(first).score_all(USERS), adapter_of(second).score_all(USERS))


@pytest.mark.parametrize("name", ["NAIS", "FISM", "SimpleX", "DMF"])
def test_users_without_history_have_finite_scores(name: str, built: Any) -> None:
    """A user may have validation or test items only, under benchmark_filename."""
    settings = {"alpha": 0.5} if name in ("NAIS", "FISM") else {}
    model, _ = built(name, **settings)
    for lengths in ("history_lens", "history_item_len"):
        if hasattr(model, lengths):
            getattr(model, lengths)[3] = 0
    for table in ("history_item_matrix", "history_item_id", "mask_mat", "history_item_value"):
        if isinstance(getattr(model, table, None), torch.Tensor):
            getattr(model, table)[3] = 0
    adapter = adapter_of(model)
    items = torch.arange(1, 5).expand(4, -1)
    with torch.no_grad():
        assert torch.isfinite(adapter.score_all(USERS)).all()
    scores = adapter.score(USERS, items)
    scores.sum().backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)
    if name == "NAIS":
        torch.testing.assert_close(scores[0], model.bias[items[0]])


# -- sizes: what we allocate on top of the model


@pytest.mark.parametrize("name", ["SimpleX", "DMF", "FISM"])
def test_vectors_of_all_users_are_made_in_chunks(name: str, built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = built(name)
    adapter = adapter_of(model)
    whole = adapter.user_embeddings()
    sizes = []
    made = type(adapter)._from_history  # type: ignore[attr-defined]
    monkeypatch.setattr(factors_module, "_CHUNK_NUMBERS", 500)
    monkeypatch.setattr(
        type(adapter), "_from_history", lambda self, users: sizes.append(len(users)) or made(self, users)
    )
    torch.testing.assert_close(adapter.user_embeddings(), whole)
    assert sum(sizes) == model.n_users and max(sizes) <= 500 // adapter._numbers()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["NNCF", "ConvNCF", "NAIS"])
def test_pairs_of_the_catalogue_are_made_in_chunks(name: str, built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = built(name)
    adapter = adapter_of(model)
    numbers = adapter._numbers()  # type: ignore[attr-defined]
    with torch.no_grad():
        whole = adapter.score_all(USERS)
        monkeypatch.setattr(pairs_module, "_CHUNK_NUMBERS", 6 * numbers)
        sizes = []
        made = type(adapter)._pair_logits  # type: ignore[attr-defined]
        monkeypatch.setattr(
            type(adapter),
            "_pair_logits",
            lambda self, users, items: sizes.append(len(users)) or made(self, users, items),
        )
        torch.testing.assert_close(adapter.score_all(USERS), whole, rtol=1e-4, atol=1e-5)
    assert max(sizes) == 6 and sum(sizes) == len(USERS) * model.n_items


def numbers_kept(run: Callable[[], Any], model: Any) -> int:
    """Count the numbers that a graph keeps for its backward pass, weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        # Held, so that no address is used twice.
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = run()
    del graph
    return sum(tensor.untyped_storage().nbytes() // 4 for place, tensor in kept.items() if place not in weights)


@pytest.mark.parametrize(("name", "dropout"), [("NNCF", 0.0), ("ConvNCF", 0.0), ("NeuMF", 0.0), ("NeuMF", 0.5)])
def test_a_catalogue_keeps_no_network_for_the_backward_pass(
    name: str, dropout: float, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of users is 2^20 pairs: with the networks of all of them it would take gigabytes."""
    model, _ = built(name, **({"dropout_prob": dropout} if name == "NeuMF" else {}))
    model.train()
    adapter = adapter_of(model)
    users = torch.arange(1, 21)
    monkeypatch.setattr(pairs_module, "_CHUNK_NUMBERS", 60 * adapter._numbers())  # type: ignore[attr-defined]
    kept = numbers_kept(lambda: adapter.score_all(users), model)
    # Ids of users and items, int64, and what all users share.
    shared = sum(weight.numel() for weight in model.parameters())
    assert kept < 8 * len(users) * model.n_items + shared


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "DMF"])
def test_no_users_have_no_scores(name: str, built: Any) -> None:
    """A batch whose users are all left out of a term, where no kernel is."""
    adapter = adapter_of(built(name)[0])
    adapter.fused = False
    nobody = torch.zeros(0, dtype=torch.int64)
    assert adapter.score(nobody, nobody.view(0, 5)).shape == (0, 5)
    assert adapter.score_users(nobody, nobody.view(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("name", ["NNCF", "ConvNCF", "NAIS", "NeuMF"])
def test_a_catalogue_in_chunks_has_the_gradients_of_the_whole(
    name: str, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks are several users or less than one; twice within one block of what is shared."""
    model, _ = built(name, **({"dropout_prob": 0.0} if name == "NeuMF" else {}))
    adapter, gradients = adapter_of(model), []
    for users in (100, 2, 0.3):
        numbers = int(users * model.n_items) * adapter._numbers()  # type: ignore[attr-defined]
        monkeypatch.setattr(pairs_module, "_CHUNK_NUMBERS", numbers)
        with adapter.shared():
            loss = sum(adapter.score_all(part).sin().sum() for part in (USERS, USERS.flip(0)))
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        gradients.append([part for part in found if part is not None])
    for other in gradients[1:]:
        for ours, whole in zip(other, gradients[0]):
            torch.testing.assert_close(ours, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["NNCF", "ConvNCF", "NAIS"])
def test_chunks_have_the_gradients_of_the_whole(name: str, built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = built(name)
    model.train()
    adapter = adapter_of(model)
    items = torch.arange(1, 41).expand(len(USERS), -1)
    gradients = []
    for pairs in (1000, 160, 23):
        # Dropout draws chunk by chunk, so only one size at a time can be compared with it; without, all are alike.
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        monkeypatch.setattr(pairs_module, "_CHUNK_NUMBERS", pairs * adapter._numbers())
        model.zero_grad()
        adapter.score(USERS, items).square().sum().backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    for other in gradients[1:]:
        for ours, whole in zip(other, gradients[0]):
            torch.testing.assert_close(ours, whole, rtol=1e-3, atol=1e-4)


def test_chunks_run_again_with_the_same_dropout(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score is linear in NNCF's last bias-free weights, so w . grad w = score tells which dropout backward saw."""
    model, _ = built("NNCF", dropout=0.5)
    model.train()
    adapter = adapter_of(model)
    monkeypatch.setattr(pairs_module, "_CHUNK_NUMBERS", 7 * adapter._numbers())
    score = adapter.score(USERS, torch.arange(1, 41).expand(len(USERS), -1)).sum()
    score.backward()
    last = model.out_layer
    from_backward = (last.weight * last.weight.grad).sum() + (last.bias * last.bias.grad).sum()
    torch.testing.assert_close(from_backward, score, rtol=1e-4, atol=1e-4)


# -- the table


def test_own_adapter_can_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_derrd.adapters.ADAPTERS", dict(ADAPTERS))

    @register_adapter("MyModel")
    class MyAdapter(FactorAdapter):
        pass

    stock = model_class("BPR")
    assert adapter_class(type("MyModel", (stock,), {})) is MyAdapter
    assert adapter_class(type("Heir", (stock,), {})) is ADAPTERS["BPR"]
    assert adapter_class(type("Stranger", (), {})) is RowAdapter


@pytest.mark.parametrize("name", MODELS)
def test_distilled_class_keeps_the_adapter_and_the_name(name: str) -> None:
    student = distilled(model_class(name))
    assert adapter_class(student) is ADAPTERS[name]
    adapter = Adapter(student.__new__(student))
    assert adapter.name == name
