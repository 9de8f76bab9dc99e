"""The data of a stage: open_data.py gives `IndexedData` (indexed_data.py) or `StreamedData` (streamed_data.py).

How a sample becomes a batch:
    annotations.py      line of a file -> `Annotation` (tabletop_source.py renders one instead)
    sample_reader.py    `Annotation` -> `MeasuredSample` (lengths) -> `EncodedSample` (token ids, labels, patches)
    packing.py          lengths -> which samples share a micro-batch; length_index.py keeps them next to the file
    batch.py            `EncodedSample`s -> `Batch`
train_tokenizer.py and masks.py are for what is trained before the first stage: the tokenizer and the tiny teacher.
"""
