"""The lifecycle node `penguin`: vlm_node.py is the node, configured.py what it has while it is configured."""
