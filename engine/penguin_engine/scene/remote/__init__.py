"""A server that answers in place of a model in this process: the node keeps the memory and sends it as images."""
