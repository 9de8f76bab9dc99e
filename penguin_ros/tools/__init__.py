"""Tools around the node: simulated camera, bag player, clients, demo and soak."""
