"""Keys of RecBole's that no default file of its names: a test compares them with the installed source."""

from __future__ import annotations

#: Keys that only RecBole's code reads.
READ_BY_CODE = frozenset(
    """
    INVERSE_ITEM_SEQ MASK_INDEX MASK_ITEM_SEQ MODEL_INPUT_TYPE NEG_ITEMS POS_ITEMS cin contrast dataset device encoding
    eta eval_type feature_num has_residual ip local_rank model norm nproc offset port sim single_spec tail_ratio
    test_neg_sample_args token_num_threshold use_filter valid_neg_sample_args world_size xgb_early_stopping_rounds
    """.split()
)

#: Keys of RecBole's scripts and functions, which no configuration reads.
READ_BY_SCRIPTS = frozenset({"config_files", "group_offset", "saved"})

#: Those of RecBole's settings that are True or False.
SWITCHES = frozenset(
    """
    enable_amp enable_scaler filter_inter_by_user_or_item kg_reverse_r log_wandb repeatable reproducibility require_pow
    save_dataloaders save_dataset show_progress shuffle use_gpu valid_metric_bigger
    """.split()
)

#: Keys that RecBole sets itself, over whatever is given, and what decides instead.
SET_BY_RECBOLE = {
    "MODEL_INPUT_TYPE": "the model decides",
    "device": "gpu_id decides, and gpu_id: '' is the CPU",
    "eval_type": "metrics decides",
    "single_spec": "nproc decides",
    "test_neg_sample_args": "the mode in eval_args decides",
    "valid_metric_bigger": "valid_metric decides",
    "valid_neg_sample_args": "the mode in eval_args decides",
}

#: What must be the same for teacher and student, or their rows of the table could not be compared.
NOT_THE_TEACHERS = frozenset(
    """
    dataset eval_args metrics topk valid_metric metric_decimal_place repeatable benchmark_filename threshold
    filter_inter_by_user_or_item user_inter_num_interval item_inter_num_interval val_interval rm_dup_inter
    data_path checkpoint_dir
    """.split()
)
