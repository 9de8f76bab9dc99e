"""Learning from rewards (GRPO): a stage whose file has the section `rewards`.

    rewards.py            the reward functions that the stage file names, and what compares the rewards of a group
    tabletop_rewards.py   reward functions for the simulated table-top
    rollouts.py           samples groups of answers to the questions of a micro-batch, and rewards them
    answered_batch.py     the micro-batch with the sampled answers in place of the annotated ones
run/loop.py then takes a step on it as in any other stage.
"""
