"""RecBole's data of one model: files that are checked, splits, fingerprints, loaders, candidates."""
