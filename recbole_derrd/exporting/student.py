"""The finished student of a run in few bits: its embeddings quantised, evaluated, and written as an export."""

from __future__ import annotations

import time
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import set_color

from recbole_derrd.adapters import EmbeddingAdapter, adapter_class
from recbole_derrd.compression import compress, evaluate_tables, storing_recipe
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.data.prepare import Data
from recbole_derrd.errors import OptionError
from recbole_derrd.evaluation.latency import measure_latency
from recbole_derrd.evaluation.size import model_bytes
from recbole_derrd.experiment.record_entries import command_line, latency_entry
from recbole_derrd.exporting.checkpoint import Trained
from recbole_derrd.exporting.folder import write_export
from recbole_derrd.exporting.request import Request
from recbole_derrd.exporting.scores import of_tables
from recbole_derrd.recbole_compat.models import model_class
from recbole_derrd.report.schema import StoredEntry
from recbole_derrd.runtime.files import building_folder, write_errors_named
from recbole_derrd.runtime.locks import locked
from recbole_derrd.runtime.processes import rendezvous
from recbole_derrd.serving.layout import BITS
from recbole_derrd.training.checkpoint import read_checkpoint


def check_export(config: DistillConfig) -> None:
    """Refuse what cannot be stored, before anything is trained.

    Raises:
        OptionError: what to do.
    """
    bits = config.run_options.store_bits
    if bits == 0:
        return
    if bits not in BITS:
        raise OptionError(f"store_bits must be 8, 4, 3, 2 or 1, or 0 for none, but is {bits}.")
    if not issubclass(adapter_class(model_class(config["model"])), EmbeddingAdapter):
        raise OptionError(
            f"store_bits is for students whose score is the dot product of two embeddings, and {config['model']}'s is "
            "not. Take it out, or use a student such as BPR or LightGCN."
        )
    if rendezvous(config) is not None:
        raise OptionError("store_bits is for a run of one process: take out nproc and world_size, or store_bits.")


def export_student(config: DistillConfig, data: Data, student: Any, checkpoint: Path) -> StoredEntry:
    """Quantise a student, write it as an export beside its checkpoint, evaluate it; return the record's entry.

    Args:
        config: the run's configuration, with ``store_bits`` set.
        data: its data.
        student: the trained student.
        checkpoint: the student's checkpoint, whose name the folder takes.
    """
    options, started = config.run_options, time.perf_counter()
    recipe = storing_recipe(options.store_bits, users=options.store_users)
    adapter = student.adapter
    assert isinstance(adapter, EmbeddingAdapter)
    student.eval()
    tables = compress(adapter, recipe, config["seed"])
    path = checkpoint.with_name(f"{checkpoint.stem}.{options.store_bits}bit{'' if options.store_users else '-items'}")
    request = Request(checkpoint, path, bits=options.store_bits, force=True, command=command_line())
    trained = Trained(adapter, data, config, read_checkpoint(checkpoint))
    # Under a lock, so that what a killed run has left half written is removed.
    with locked(path, "stores this student"):
        request.check_place()
        with building_folder(path, replace=True) as folder, write_errors_named(path):
            write_export(folder, request, trained, of_tables(tables, options.store_bits))
    seconds = time.perf_counter() - started
    evaluated = evaluate_tables(config, data, tables, role="stored", seconds=seconds)
    latency = measure_latency(evaluated.model, options.latency_users, seed=config["seed"])
    getLogger().info(
        set_color("Stored", "yellow")
        + f" in {options.store_bits} bits, {tables.items.bytes_a_row} bytes an item: {path}"
    )
    return StoredEntry(
        model=config["model"],
        test=evaluated.test,
        valid=evaluated.valid,
        params=tables.users.size * data.history.n_users + tables.items.size * data.history.n_items,
        bytes=model_bytes(evaluated.model),
        bytes_per_item=tables.items.bytes_a_row,
        latency=latency_entry(latency),
        seconds=evaluated.seconds,
        bits=options.store_bits,
        users=options.store_users,
        bytes_per_user=tables.users.bytes_a_row,
        file=str(path),
    )
