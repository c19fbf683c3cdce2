"""What RecBole's trainer is extended with: saving and going on, quicker steps, several processes, logs."""
