"""Models without distillation, trained here or given as a file: kept under cache keys with their results."""
