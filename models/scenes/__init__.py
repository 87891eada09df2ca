"""The bundled world: rendered scenes with exact truth, and the training of small real models on them."""
