"""Standing inside somebody's running module without a trace: capture, isolation, adapters, finding the network."""
