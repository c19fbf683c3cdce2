"""A mutation run of our own: small slips are put into the losses and kernels, and their tests must notice."""
