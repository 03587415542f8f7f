"""Is it arithmetic: precision, conditioning, chance, compilation, batches?"""
