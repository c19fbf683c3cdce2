"""How models are judged beside RecBole's metrics: over groups of users, within chance, by size and by speed."""
