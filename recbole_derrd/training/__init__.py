"""RecBole's trainer and what it is extended with: saving and going on, quicker steps, several processes, logs."""
