"""RecBole's Weights & Biases logger for one of the trainings of a run."""

from __future__ import annotations

from typing import Any, Callable

from recbole.utils import WandbLogger


class TrainingLogger(WandbLogger):
    """Puts what a training logs under its role, for a run trains several models, and its losses under their names.

    Args:
        config: RecBole's configuration.
        role: "teacher", "student", "distilled"; nothing is put in front if empty.
        loss_means: gives each term of an epoch's loss its name and mean.
    """

    def __init__(self, config: Any, role: str, loss_means: Callable[[Any], dict[str, float]]) -> None:
        """Join the process's W&B run, or begin it."""
        self._role, self._loss_means = role, loss_means
        super().__init__(config)

    def _under(self, head: str) -> str:
        return f"{self._role}/{head}" if self._role else head

    def _set_steps(self) -> None:
        for head in ("train", "valid"):
            self._wandb.define_metric(f"{self._under(head)}/*", step_metric=f"{head}_step")

    def log_metrics(self, metrics: dict[str, Any], head: str = "train", commit: bool = True) -> None:
        """Log as RecBole does; where a loss of several terms is a tuple there, each has a line of its own here."""
        if "train_loss" in metrics:
            means = self._loss_means(metrics["train_loss"])
            terms = {f"train_loss/{name}": value for name, value in means.items()} if len(means) > 1 else {}
            metrics = {**metrics, "train_loss": sum(means.values()), **terms}
        super().log_metrics(metrics, self._under(head), commit)

    def log_eval_metrics(self, metrics: dict[str, Any], head: str = "eval") -> None:
        """Write the metrics into the run's summary, as RecBole does."""
        super().log_eval_metrics(metrics, self._under(head))
