"""Products, mixtures and negations of two plane laws, by every sampler, against exact truth."""
