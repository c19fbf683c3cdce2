"""Models that are trained without distillation, or brought: kept under a content key with what is known of them."""
