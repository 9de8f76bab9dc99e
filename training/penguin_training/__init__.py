"""Training of every stage of the recipe. `penguin-vl train STAGE.yaml` goes through the folders in this order:

    settings/   stage_file.py reads the YAML file into `StageSettings`: what, from what, on which data, how long
    data/       open_data.py opens the data; sample_reader.py and batch.py turn samples into packed micro-batches
    model/      build_model.py builds the model with its initial weights; stage_model.py computes its losses
    post_training/ (if the stage has rewards) rollouts.py samples answers and rewards them
    run/        build_run.py puts these together, loop.py trains
                checkpoint.py writes the result in the released layout

`penguin-vl prepare` makes what a stage needs beforehand: data/train_tokenizer.py, data/length_index.py and
model/train_tiny_teacher.py.
"""
