"""The lifecycle node `penguin`: vlm_node.py wires subscriptions, worker, questions, outputs and diagnostics."""
