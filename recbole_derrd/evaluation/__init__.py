"""How models are evaluated beside RecBole's metrics: over groups of users, within chance, by size and by speed."""
