"""What the command line is made of: its arguments, its help, its streams and its signals. No torch, no RecBole."""
