"""How models are judged beside RecBole's metrics: over groups of users, within chance, by size and by speed."""

from recbole_derrd.evaluation.choice import expert_choice
from recbole_derrd.evaluation.latency import Latency, measure_latency
from recbole_derrd.evaluation.size import bytes_per_item, model_bytes, parameter_count

__all__ = ["Latency", "bytes_per_item", "expert_choice", "measure_latency", "model_bytes", "parameter_count"]
